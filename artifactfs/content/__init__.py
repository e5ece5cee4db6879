"""Bytes: the Store contract and its kinds, chunking, packs, the write path and the read path."""
