"""Packs: how stored chunks lie in an object, and the table of contents beside it.

Used by the write path, the read path and upkeep. Functions are pure and safe from any thread; a :class:`PackUpload`
is used by one thread at a time.

A pack, ``packs/ab/<digest>.pack``, is stored chunks back to back from the first byte on, nothing else; its name is
the BLAKE3 of these bytes. Its table of contents, ``packs/ab/<digest>.idx``, all integers little-endian::

    offset  bytes  field
    0       4      magic "AFSI"
    4       2      format version, 1; 2: the entries are sealed
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
    …       16     in version 2: the tag of the sealed entries
    …       32     BLAKE3 of all bytes before

A stored chunk is its plain bytes, or one zstd frame of them (level 1) where the whole chunk gains at least 1.25 times. In a pack of an
encrypted project that is sealed with the pack's data key (:mod:`artifactfs.sealing`), 16 bytes more, and so are the entries, whose
digests would tell who knows a file that it is there. The key is not beside the pack: it is the registry's.
"""

from __future__ import annotations

import struct
import threading
from typing import TYPE_CHECKING, Final

import zstandard
from blake3 import blake3

from artifactfs import sealing
from artifactfs.errors import Access, Format, Integrity
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
_SEALED_VERSION: Final = 2
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
        raise Access("this chunk is sealed, and its key is not here; upgrade the server that told where it is")
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


def bare(stored: bytes, place: Location, name: bytes) -> tuple[bytes, Location]:
    """A stored chunk without its seal, if it has one, and a location whose flags and length are of that.

    What comes of it may be kept where its reader's own things are, as in the cache. Integrity when anything of it is another than what
    was sealed.
    """
    if not place.flags & FLAG_ENCRYPTED or not place.key:
        return stored, place
    opened = sealing.unseal(place.key, place.offset, name, place.flags, stored)
    return opened, Location(place.pack, place.offset, len(opened), place.size, place.flags & ~FLAG_ENCRYPTED)


class PackUpload:
    """A pack being written: bytes go straight to the Store, nothing but the table of contents is held.

    ``sealed``: with a key of its own, so that the Store gets nothing that it can read.
    """

    def __init__(self, store: Store, *, sealed: bool = False) -> None:
        self._key = sealing.new_key() if sealed else b""
        self._store = store
        self._upload = store.upload()
        self._hash = blake3()
        self._rows: list[ChunkRow] = []
        self.size = 0  # bytes so far

    def append(self, digest: bytes, size: int, stored: bytes | bytearray | memoryview, flags: int) -> int:
        """Add one stored chunk of ``size`` plain bytes, which is sealed here; ``flags`` with its kind. Returns the bytes it takes."""
        if self._key:
            flags |= FLAG_ENCRYPTED
            stored = sealing.seal(self._key, self.size, digest, flags, stored)
        self._upload.write(stored)
        self._hash.update(stored)
        self._rows.append(ChunkRow(digest, self.size, len(stored), size, flags))
        self.size += len(stored)
        return len(stored)

    @property
    def full(self) -> bool:
        """Whether it is to be closed."""
        return self.size >= PACK_SIZE or len(self._rows) >= PACK_CHUNKS

    @property
    def digest(self) -> str:
        """What it would be called if it were closed now."""
        return self._hash.hexdigest()

    def publish(self, expect: Callable[[str, int], None] | None = None) -> PackRow:
        """Make the pack and its table of contents durable. Only then may its chunks be recorded.

        ``expect`` (:meth:`Registry.expect_pack`) is told the pack's digest and size before, where collections delete packs.
        """
        pack = PackRow(self._hash.hexdigest(), self.size, tuple(self._rows), self._key)
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
    """A pack's table of contents; that of a sealed pack is sealed with the same key, and the same each time."""
    version = _SEALED_VERSION if pack.key else _VERSION
    header = _HEADER.pack(_MAGIC, version, _ENTRY.size, pack.size, len(pack.chunks), bytes.fromhex(pack.digest))
    entries = b"".join(
        _ENTRY.pack(row.digest, row.offset, row.length, row.size, row.flags, _PADDING) for row in pack.chunks
    )
    data = header + (sealing.seal_table(pack.key, header, entries) if pack.key else entries)
    return data + blake3(data).digest()


def decode_index(data: bytes, key: bytes = b"") -> PackRow:
    """A pack from its table of contents; ``key``: its data key, if it is sealed.

    Raises Format for another format, Integrity for a damaged one, Access for a sealed one without its key.
    """
    if len(data) < _HEADER.size + _CHECKSUM_SIZE or data[:4] != _MAGIC:
        raise Integrity("not a table of contents of a pack; run `artifactfs verify`")
    _, version, entry_size, size, count, digest = _HEADER.unpack_from(data)
    if version not in {_VERSION, _SEALED_VERSION}:
        raise Format(
            f"a pack's table of contents has format {version}; this release reads {_SEALED_VERSION}; upgrade artifactfs"
        )
    body = memoryview(data)[:-_CHECKSUM_SIZE]
    if blake3(body).digest() != data[-_CHECKSUM_SIZE:]:
        raise Integrity("a pack's table of contents is damaged: its checksum differs; run `artifactfs verify`")
    entries = body[_HEADER.size :]
    if version == _SEALED_VERSION:
        if not key:
            raise Access("a pack's table of contents is sealed, and its key is not here; the registry has it")
        entries = memoryview(sealing.unseal_table(key, data[: _HEADER.size], entries))
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
    return PackRow(digest.hex(), size, tuple(rows), key if version == _SEALED_VERSION else b"")


def read_table(store: Store, pack: str, key: bytes = b"") -> PackRow:
    """A stored pack's table of contents; ``key``: its data key, if it is sealed.

    NotFound without one, Integrity for a damaged one or another pack's, Format for a newer one. The pack itself is not looked at.
    """
    table = index_key(pack)
    row = decode_index(store.read(table, 0, store.size(table)), key)
    if row.digest != pack:
        raise Integrity(f"{table}: is not the table of contents of its pack; run `artifactfs verify`")
    return row


def rebuild_rows(store: Store, pack: str, key: bytes = b"") -> PackRow:
    """The chunk rows of a stored pack, from its table of contents; ``key``: its data key, if it is sealed.

    NotFound without pack or table, Integrity when they do not belong together. The pack's bytes are not read.
    """
    row = read_table(store, pack, key)
    if row.size != store.size(pack_key(pack)):
        raise Integrity(f"{index_key(pack)}: is not the table of contents of its pack; run `artifactfs verify`")
    return row
