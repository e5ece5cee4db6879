"""Packs: how stored chunks lie in an object, and the table of contents beside it.

Used by the write path, the read path and upkeep. Functions are pure and safe from any thread; a :class:`PackUpload`
is used by one thread at a time.

A pack, ``packs/ab/<digest>.pack``, is stored chunks back to back from the first byte on, nothing else; its name is
the BLAKE3 of these bytes. Its table of contents, ``packs/ab/<digest>.idx``, all integers little-endian::

    offset  bytes  field
    0       4      magic "AFSI"
    4       2      format version, 1
    6       2      bytes per entry, 52
    8       8      bytes of the pack
    16      8      number of entries
    24      32     digest of the pack
    56      52*n   entries, in order of offset, without gaps
            0   32   digest of the chunk
            32  8    offset in the pack
            40  4    stored bytes
            44  4    plain bytes
            48  1    flags: 0x01 zstd, 0x02 encrypted, bits 4-5 the kind of chunk
            49  3    zero
    …       32     BLAKE3 of all bytes before

A stored chunk is its plain bytes, or one zstd frame of them (level 1) where the whole chunk gains at least 1.25 times.
"""

from __future__ import annotations

import struct
import threading
from typing import TYPE_CHECKING, Final

import zstandard
from blake3 import blake3

from artifactfs.errors import Format, Integrity
from artifactfs.model.records import FLAG_ENCRYPTED, FLAG_ZSTD, KIND_MASK, KIND_SHIFT, ChunkRow, Location, PackRow

if TYPE_CHECKING:
    from collections.abc import Callable

    from artifactfs.content.store import Store

PACK_SIZE: Final = 64 << 20
"""Bytes after which a pack is closed: 20,000 files of 20 KB are six objects; a cold walk asks for them in a few
requests."""

PACK_CHUNKS: Final = 50_000
"""Chunks after which a pack is closed too: its table, 2.6 MB, fits into one message however small the chunks are."""

_MAGIC: Final = b"AFSI"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<4sHHQQ32s")
_ENTRY: Final = struct.Struct("<32sQIIB3s")
_CHECKSUM_SIZE: Final = 32
_PADDING: Final = b"\0\0\0"
_FLAGS: Final = FLAG_ZSTD | FLAG_ENCRYPTED | KIND_MASK
_KINDS: Final = 3

# zstandard's objects keep a context of some hundred kilobytes and may not be shared by threads.
_contexts = threading.local()


def pack_key(digest: str) -> str:
    """Store key of the pack with this digest (hexadecimal)."""
    return f"packs/{digest[:2]}/{digest}.pack"


def index_key(digest: str) -> str:
    """Store key of the table of contents of the pack with this digest (hexadecimal)."""
    return f"packs/{digest[:2]}/{digest}.idx"


def seal(data: bytes | bytearray | memoryview) -> tuple[bytes | bytearray | memoryview, int]:
    """The bytes to store for a chunk, and their flags without the kind.

    The whole chunk is compressed to decide: a probe of 64 KiB takes parquet (1.61 times) for incompressible (1.04),
    and zstd passes over incompressible bytes at several GB/s.
    """
    compressor = getattr(_contexts, "compressor", None)
    if compressor is None:
        compressor = _contexts.compressor = zstandard.ZstdCompressor(level=1)
    frame: bytes = compressor.compress(data)
    if len(frame) * 5 <= len(data) * 4:
        return frame, FLAG_ZSTD
    return data, 0


def unseal(stored: bytes, place: Location | ChunkRow) -> bytes:
    """The plain bytes of a stored chunk, not verified yet. Integrity when they cannot be of ``place.size``."""
    if place.flags & FLAG_ENCRYPTED:
        raise Format("this chunk is encrypted; this release of artifactfs cannot read encrypted projects")
    if place.flags & FLAG_ZSTD:
        decompressor = getattr(_contexts, "decompressor", None)
        if decompressor is None:
            decompressor = _contexts.decompressor = zstandard.ZstdDecompressor()
        try:
            # Checked first: a damaged frame may claim any size, and decompressing allocates what it claims.
            if zstandard.frame_content_size(stored) != place.size:
                raise Integrity(f"a stored chunk does not unpack to {place.size} bytes")
            plain: bytes = decompressor.decompress(stored, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise Integrity(f"a stored chunk cannot be unpacked: {error}") from error
        return plain
    if len(stored) != place.size:
        raise Integrity(f"a stored chunk has {len(stored)} bytes instead of {place.size}")
    return stored


class PackUpload:
    """A pack being written: bytes go straight to the Store, nothing but the table of contents is held."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._upload = store.upload()
        self._hash = blake3()
        self._rows: list[ChunkRow] = []
        self.size = 0  # bytes so far

    def append(self, digest: bytes, size: int, stored: bytes | bytearray | memoryview, flags: int) -> None:
        """Add one stored chunk of ``size`` plain bytes; ``flags`` with its kind."""
        self._upload.write(stored)
        self._hash.update(stored)
        self._rows.append(ChunkRow(digest, self.size, len(stored), size, flags))
        self.size += len(stored)

    @property
    def full(self) -> bool:
        """Whether it is to be closed."""
        return self.size >= PACK_SIZE or len(self._rows) >= PACK_CHUNKS

    def publish(self, expect: Callable[[str, int], None] | None = None) -> PackRow:
        """Make the pack and its table of contents durable. Only then may its chunks be recorded.

        ``expect`` (:meth:`Registry.expect_pack`) is told the pack's digest and size before, where collections delete packs.
        """
        pack = PackRow(self._hash.hexdigest(), self.size, tuple(self._rows))
        if expect is not None:
            expect(pack.digest, pack.size)
        self._upload.publish(pack_key(pack.digest))
        index = self._store.upload()
        try:
            index.write(encode_index(pack))
            index.publish(index_key(pack.digest))
        except BaseException:
            index.abort()
            raise
        return pack

    def abort(self) -> None:
        """Forget the pack. Idempotent; does nothing once the pack is published."""
        self._upload.abort()


def encode_index(pack: PackRow) -> bytes:
    """A pack's table of contents."""
    parts = [
        _HEADER.pack(_MAGIC, _VERSION, _ENTRY.size, pack.size, len(pack.chunks), bytes.fromhex(pack.digest)),
        *(_ENTRY.pack(row.digest, row.offset, row.length, row.size, row.flags, _PADDING) for row in pack.chunks),
    ]
    data = b"".join(parts)
    return data + blake3(data).digest()


def decode_index(data: bytes) -> PackRow:
    """A pack from its table of contents. Raises Format for another format, Integrity for a damaged one."""
    if len(data) < _HEADER.size + _CHECKSUM_SIZE or data[:4] != _MAGIC:
        raise Integrity("not a table of contents of a pack; run `artifactfs verify`")
    _, version, entry_size, size, count, digest = _HEADER.unpack_from(data)
    if version != _VERSION:
        raise Format(
            f"a pack's table of contents has format {version}; this release reads {_VERSION}; upgrade artifactfs"
        )
    body = memoryview(data)[:-_CHECKSUM_SIZE]
    if blake3(body).digest() != data[-_CHECKSUM_SIZE:]:
        raise Integrity("a pack's table of contents is damaged: its checksum differs; run `artifactfs verify`")
    entries = body[_HEADER.size :]
    if entry_size != _ENTRY.size or len(entries) != count * _ENTRY.size:
        raise Integrity("a pack's table of contents has an impossible length; run `artifactfs verify`")
    rows: list[ChunkRow] = []
    end = 0
    for chunk, offset, length, plain, flags, padding in _ENTRY.iter_unpack(entries):
        if flags & ~_FLAGS or padding != _PADDING:
            raise Format("a pack's table of contents uses flags that this release does not know; upgrade artifactfs")
        if offset != end or not length or not plain or (flags & KIND_MASK) >> KIND_SHIFT >= _KINDS:
            raise Integrity("a pack's table of contents has an impossible entry; run `artifactfs verify`")
        rows.append(ChunkRow(chunk, offset, length, plain, flags))
        end += length
    if end != size:
        raise Integrity(f"a pack's table of contents covers {end} of {size} bytes; run `artifactfs verify`")
    return PackRow(digest.hex(), size, tuple(rows))


def rebuild_rows(store: Store, pack: str) -> PackRow:
    """The chunk rows of a stored pack, from its table of contents.

    NotFound without pack or table, Integrity when they do not belong together. The pack's bytes are not read.
    """
    key = index_key(pack)
    row = decode_index(store.read(key, 0, store.size(key)))
    if row.digest != pack or row.size != store.size(pack_key(pack)):
        raise Integrity(f"{key}: is not the table of contents of its pack; run `artifactfs verify`")
    return row
