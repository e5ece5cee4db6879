"""Admission: an uploaded pack is checked to the last byte before its chunks may be found by anyone.

Used by the server, which trusts no client. Functions only read the Store; safe from any thread. Without this check one client could
record wrong bytes under a digest, and every other client that holds the same chunk would reuse the record and store nothing.

Memory: one stored and one plain chunk at a time (4 MiB each for data), and the pack's table of contents.
"""

from __future__ import annotations

from typing import Final

from blake3 import blake3

from artifactfs.content.chunks import MAXIMUM
from artifactfs.content.pack import bare, encode_index, index_key, pack_key, unseal
from artifactfs.content.store import Store
from artifactfs.errors import Integrity, InvalidInput, NotFound
from artifactfs.model.digest import CHUNKS, DATA, TREE, digest, format_digest, kind_of_flags
from artifactfs.model.records import FLAG_ENCRYPTED, FLAG_ZSTD, KIND_MASK, ChunkRow, Location, PackRow

LARGEST_NODE: Final = 64 << 20
"""Plain bytes of a node at most: 4,096 References with addresses of 16 KiB. A frame of a few bytes may claim any size, and unpacking
allocates what it claims."""

_LARGEST: Final = {DATA: MAXIMUM, TREE: LARGEST_NODE, CHUNKS: LARGEST_NODE}
_KNOWN_FLAGS: Final = FLAG_ZSTD | FLAG_ENCRYPTED | KIND_MASK


def check_upload(store: Store, pack: PackRow) -> None:
    """Check that a stored pack holds what its rows say: its own digest, and every chunk's.

    Raises InvalidInput (the pack is not in the Store; rows that cannot be of this pack), Integrity (bytes that do not match their
    digest, or are not sealed with the pack's key; a table of contents beside the pack that tells otherwise).
    """
    key = pack_key(pack.digest)
    try:
        size = store.size(key)
    except NotFound as error:
        raise InvalidInput(f"pack {pack.digest} is not in the store; upload {key} first") from error
    if size != pack.size:
        raise InvalidInput(f"pack {pack.digest} has {size} bytes, not {pack.size}")
    _check_rows(pack)
    whole = blake3()
    for row, stored in zip(pack.chunks, store.read_parts(key, 0, [row.length for row in pack.chunks]), strict=True):
        whole.update(stored)
        place = Location(pack.digest, row.offset, row.length, row.size, row.flags, pack.key)
        try:
            plain = unseal(*bare(stored, place, row.digest))
        except Integrity as error:
            raise _wrong(pack, row) from error
        if digest(kind_of_flags(row.flags), plain) != row.digest:
            raise _wrong(pack, row)
    if whole.hexdigest() != pack.digest:
        raise Integrity(f"{key} does not have the bytes that its name says; delete it and upload it again")
    _check_index(store, pack)


def _check_rows(pack: PackRow) -> None:
    """The pack format: known flags, possible sizes, and chunks back to back from the first byte to the last."""
    end = 0
    for row in pack.chunks:
        largest = _LARGEST.get(kind_of_flags(row.flags))
        if largest is None or row.flags & ~_KNOWN_FLAGS:
            raise InvalidInput(f"chunk {format_digest(row.digest)} has unknown flags {row.flags:#x}")
        if not 0 < row.size <= largest or row.length <= 0:
            raise InvalidInput(
                f"chunk {format_digest(row.digest)} cannot have {row.size} bytes; at most {largest} are allowed"
            )
        if bool(row.flags & FLAG_ENCRYPTED) != bool(pack.key):
            raise InvalidInput(
                f"chunk {format_digest(row.digest)} of pack {pack.digest} is sealed without a key, or not sealed with one"
            )
        if row.offset != end:
            raise InvalidInput(
                f"chunk {format_digest(row.digest)} does not lie in pack {pack.digest} where the one before it ends: "
                f"at {row.offset} instead of {end}"
            )
        end += row.length
    if end != pack.size:
        raise InvalidInput(f"the chunks of pack {pack.digest} cover {end} of its {pack.size} bytes")


def _check_index(store: Store, pack: PackRow) -> None:
    """The table of contents beside a pack, from which a lost registry is rebuilt, tells the same as its rows, if it is there."""
    key = index_key(pack.digest)
    try:
        found = store.read(key, 0, store.size(key))
    except NotFound:
        return
    if found != encode_index(pack):
        raise Integrity(f"{key} is not the table of contents of its pack; delete it and upload it again")


def _wrong(pack: PackRow, row: ChunkRow) -> Integrity:
    return Integrity(
        f"the {row.length} bytes at {row.offset} of pack {pack.digest} are not the chunk {format_digest(row.digest)}"
    )
