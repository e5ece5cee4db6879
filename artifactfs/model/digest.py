"""Digests: BLAKE3-256 in three domains, and their text form ``blake3:<hex>``.

Used by everything that names content. Pure functions, safe from any thread.

A DATA chunk has the plain BLAKE3 of its bytes, so that ``b3sum FILE`` checks a file of up to 4 MiB. Nodes (of
directories and of chunk lists) are hashed with BLAKE3's key-derivation mode under a context of their own, so that no file's
bytes can ever pass for a node, nor a node of one kind for one of the other.
"""

from __future__ import annotations

import re
from typing import Final

from blake3 import blake3

from artifactfs.errors import InvalidInput
from artifactfs.model.records import KIND_MASK, KIND_SHIFT

DATA: Final = 0  # bytes of a file
TREE: Final = 1  # node of a directory's Sequence
CHUNKS: Final = 2  # node of a chunk list's Sequence

DIGEST_SIZE: Final = 32  # bytes

# Part of format 1: changing a letter changes every digest.
_CONTEXTS: Final = {TREE: "artifactfs format 1 tree node", CHUNKS: "artifactfs format 1 chunk list node"}

_TEXT: Final = re.compile(r"blake3:[0-9a-f]{64}")


def digest(kind: int, data: bytes | bytearray | memoryview) -> bytes:
    """The 32-byte digest of a chunk or node in the domain of its kind (DATA, TREE, CHUNKS)."""
    if kind == DATA:
        return blake3(data).digest()
    return blake3(data, derive_key_context=_CONTEXTS[kind]).digest()


def kind_of_flags(flags: int) -> int:
    """The kind of a chunk from the flags of its location."""
    return (flags & KIND_MASK) >> KIND_SHIFT


def format_digest(value: bytes) -> str:
    """``blake3:`` and 64 hexadecimal digits."""
    return f"blake3:{value.hex()}"


def parse_digest(text: str) -> bytes:
    """The 32 bytes of ``blake3:<hex>``. Raises InvalidInput for anything else."""
    if not _TEXT.fullmatch(text):
        raise InvalidInput(f"not a digest: {text!r}; expected blake3: and 64 hexadecimal digits")
    return bytes.fromhex(text[7:])
