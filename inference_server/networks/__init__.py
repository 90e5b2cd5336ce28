"""The networks, and the forms in which they run fastest. Importing this room's files imports torch.

`networks` builds a residual net, a multilayer perceptron or a user's own class; `blobnet` is for blob; `folding`
and `onednn` are the served forms on CPU.
"""
