"""The Python API: what ``import artifactfs`` offers. It reads like the one its users know, on any repository, and needs no FUSE."""
