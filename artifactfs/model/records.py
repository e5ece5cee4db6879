"""Records of the Registry as plain frozen values: artifacts, versions, aliases, packs, chunk locations, commits.

Runs and what links them to versions are in :mod:`artifactfs.model.lineage`.

Used by every floor above; holds no I/O. All values are immutable and may be shared between threads.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

# Flags of a stored chunk (one byte in the pack's table of contents and in the chunk index).
FLAG_ZSTD: Final = 0x01  # the stored bytes are one zstd frame
FLAG_ENCRYPTED: Final = 0x02  # the stored bytes are AES-256-GCM sealed
# Bits 4-5: the kind of chunk, which selects the digest's domain (see model/digest.py).
KIND_SHIFT: Final = 4
KIND_MASK: Final = 0x30


class _Keyed(msgspec.Struct, frozen=True, gc=False):
    """A value with a key, which no text of it shows."""

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """The other fields, for whoever prints it."""
        return [(name, getattr(self, name)) for name in self.__struct_fields__ if name != "key"]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"


class Location(_Keyed, frozen=True, gc=False):
    """Where a chunk is: ``length`` stored bytes at ``offset`` of pack ``pack``; ``size`` plain bytes after decoding."""

    pack: str  # the pack's digest, 64 hexadecimal digits; its Store key is content.pack.pack_key(pack)
    offset: int
    length: int
    size: int
    flags: int
    key: bytes = b""  # the pack's data key, if it is sealed; never shown, logged or stored


class ChunkRow(msgspec.Struct, frozen=True, gc=False):
    """One entry of a pack's table of contents: a chunk's 32-byte digest and its place in the pack."""

    digest: bytes
    offset: int
    length: int
    size: int
    flags: int


class PackRow(_Keyed, frozen=True, gc=True):
    """A pack: digest of its bytes (hexadecimal), its size in bytes, and its chunks in order of offset."""

    digest: str
    size: int
    chunks: tuple[ChunkRow, ...]
    key: bytes = b""  # its data key, if its chunks are sealed; the registry wraps it


class ArtifactRecord(msgspec.Struct, frozen=True):
    """A named series of versions. ``latest`` is None only while no living version exists."""

    id: int
    name: str
    type: str
    created: int  # nanoseconds since the epoch
    latest: int | None  # number of the version that the alias `latest` names
    versions: int  # living versions
    next_number: int = 0  # given to the next version

    @property
    def deleted(self) -> int:
        """How many versions were ever deleted, as numbers are given in order and never again."""
        return self.next_number - self.versions


class VersionRecord(msgspec.Struct, frozen=True):
    """One immutable version with what belongs to it. ``id`` is unique in the registry and never reused."""

    id: int
    artifact: str
    type: str
    number: int
    digest: bytes  # 32 bytes: digest of the root Tree
    size: int  # bytes of all files, plain
    files: int  # files, symlinks and references
    entries: int  # files plus directories below the root
    created: int  # nanoseconds since the epoch
    description: str
    metadata: dict[str, Any]
    aliases: tuple[str, ...]  # sorted
    tags: tuple[str, ...] = ()  # sorted
    updated: int = 0  # nanoseconds since the epoch: when description, metadata or tags were last replaced; 0: never
    run: str = ""  # id of the Run that made it; empty when no Run did

    @property
    def name(self) -> str:
        """The address ``artifact:vN``."""
        return f"{self.artifact}:v{self.number}"


class CommitRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a commit asks of the Registry. ``commit_id`` is made by the client: a repeat returns the same version.

    ``type`` None keeps the artifact's type (a new artifact then gets "dataset"). ``base`` None never conflicts;
    otherwise it is the number of the version built upon (-1: the artifact had no version), and the commit
    conflicts when `latest` is another one and ``force`` is false. `latest` is always moved; ``aliases`` are more, and ``tags`` are
    added to those that the version has.
    ``find``: contents that a version has already are found, not logged: no alias and no tag changes then. ``run`` is the
    Run whose output the version becomes, or, with ``find``, its input. ``draft`` names the parts
    (:meth:`Registry.add_part`) that go with this commit.
    """

    commit_id: str
    artifact: str
    type: str | None
    digest: bytes
    size: int
    files: int
    entries: int
    aliases: tuple[str, ...] = ()
    description: str | None = None
    metadata: dict[str, Any] | None = None
    base: int | None = None
    force: bool = False
    session: int | None = None
    tags: tuple[str, ...] = ()
    run: str | None = None
    find: bool = False
    draft: str | None = None


class CommitResult(msgspec.Struct, frozen=True):
    """``created`` False means that an existing version already had these contents and was reused."""

    version: VersionRecord
    created: bool
