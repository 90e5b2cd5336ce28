"""The commands of `grove`, one file each; `grove.cli` lists them."""
