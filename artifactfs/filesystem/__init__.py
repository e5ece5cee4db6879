"""Versions as a read-only file system of fsspec, ``artifactfs://name:latest/path``, for programs that read without a mount."""
