"""Packs with real bytes, as a server that checks them must see: chunks by text, stored as the write path stores them."""

from __future__ import annotations

from blake3 import blake3

from artifactfs.content.pack import seal
from artifactfs.model import digest as digests
from artifactfs.model.records import KIND_SHIFT, ChunkRow, PackRow


def content(text: object) -> bytes:
    """Some 200 bytes and more, of which half and less are stored."""
    return f"contents of {text!r}\n".encode() * 12


def chunk(text: object, kind: int = digests.DATA) -> bytes:
    """The digest of the chunk with these contents."""
    return digests.digest(kind, content(text))


def packed(*texts: object, kind: int = digests.DATA) -> tuple[PackRow, bytes]:
    """A pack of the chunks with these contents, back to back, and its bytes."""
    return packed_bytes(*((kind, content(text)) for text in texts))


def packed_bytes(*chunks: tuple[int, bytes]) -> tuple[PackRow, bytes]:
    """A pack of chunks, each with its kind, back to back, and its bytes."""
    data = b""
    rows = []
    for kind, plain in chunks:
        stored, flags = seal(plain)
        name = digests.digest(kind, plain)
        rows.append(ChunkRow(name, len(data), len(stored), len(plain), flags | kind << KIND_SHIFT))
        data += bytes(stored)
    return PackRow(blake3(data).hexdigest(), len(data), tuple(rows)), data
