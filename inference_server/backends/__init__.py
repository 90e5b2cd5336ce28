"""What computes a batch on a device.

`backend.make_backends` chooses and says why; `execution` decides device, number format and kind of execution,
`served_network` is a lane's copy of the network, `cpu` and `cuda` run it, `compiling` and `toolchain` are about
torch.compile.
"""
