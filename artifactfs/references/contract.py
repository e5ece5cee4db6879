"""What References are made of: the Origin contract that every family of schemes keeps, and plain values.

Used by all of this package, and by who adds or reads References. Values are immutable; an Origin may be used from any thread.

What an origin's URI looks like is said by :mod:`artifactfs.references.uris`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Protocol

import msgspec

from artifactfs.errors import Integrity, InvalidInput
from artifactfs.model.digest import parse_digest
from artifactfs.model.sequence import SINGLE_CHUNK
from artifactfs.model.tree import RefEntry

MAX_OBJECTS: Final = 10_000_000
"""Objects that one URI may stand for, unless said otherwise."""
MAX_URI: Final = 16 << 10
"""Bytes of a URI: a node of a directory may hold 4,096 References (content/admission.py)."""

Progress = Callable[[int], None]
"""Called with the number of objects found so far."""


class Resolved(msgspec.Struct, frozen=True):
    """What a URI stands for: one object, or one of those below a prefix or directory.

    ``path`` is where it goes below the name that was given; "" for a single object. ``entry`` is named by the last part of the path,
    or of the URI. ``nodes`` belong to the entry's checksum (kind CHUNKS) and must be stored with the version.
    """

    path: str
    entry: RefEntry
    nodes: tuple[bytes, ...] = ()


class Part(msgspec.Struct, frozen=True, gc=False):
    """A chunk of an object: its digest, and where its bytes lie."""

    digest: bytes
    offset: int
    size: int


class Facts(msgspec.Struct, frozen=True):
    """What a source says of an object now; what it does not say is None."""

    size: int | None = None
    etag: str | None = None
    version: str | None = None
    modified: str | None = None  # never recorded: it tells apart what one reader sees of a source without etags

    def conflict(self, recorded: Facts) -> str | None:
        """What differs from ``recorded``, in words; None when nothing does."""
        for word, was, found in (
            ("version", recorded.version, self.version),
            ("etag", recorded.etag, self.etag),
            ("size", recorded.size, self.size),
            ("time of change", recorded.modified, self.modified),
        ):
            # A size may be left out of a sound answer, an etag may not: there is nothing else to know the object by.
            if was is not None and was != found and (found is not None or word == "etag"):
                return f"recorded {word} {was}, found {'none' if found is None else found}"
        return None


class Answer(Protocol):
    """Bytes of an object as they come from its source. Belongs to one thread, which closes it."""

    facts: Facts
    """What the source says of the whole object."""
    begin: int
    """The offset where the bytes begin: where it was asked for, or 0 from a source that knows no ranges."""

    def read(self, length: int) -> bytes:
        """The next ``length`` bytes; fewer at the end only. Unavailable when they do not come."""

    def close(self) -> None:
        """Let the rest go. Idempotent."""


class Origin(Protocol):
    """The sources of one family of schemes.

    All methods are bounded in time, repeat what may pass a few times, and raise NotFound (the object is not there), Access (it may
    not be read), Unavailable (the source cannot be reached, or fails), InvalidInput (the URI is none of this scheme, or an extra
    is missing). Every message names the URI.
    """

    @property
    def keeps(self) -> bool:
        """Whether what is read is worth keeping in the Cache: not so for a local file."""

    def expand(self, uri: str, name: str, limit: int, progress: Progress) -> Iterator[Resolved]:
        """What the URI stands for, sorted by path; one object is called ``name``, or, without, as the URI ends.

        InvalidInput when that is more than ``limit`` objects.
        """

    def look(self, entry: RefEntry) -> Facts:
        """What the source says of an entry's object, without its content."""

    def read(self, entry: RefEntry, offset: int, length: int | None) -> Answer:
        """``length`` bytes (None: all) from ``offset`` on. The source may be asked to give only what the entry records.

        Integrity when it says that the object is another one now.
        """

    def close(self) -> None:
        """Let connections go. Idempotent."""


class ReferenceFile(Protocol):
    """A Reference's bytes by offset, each checked against what was recorded. Any thread; there is nothing to close."""

    @property
    def size(self) -> int:
        """Bytes; asked of the source when that was not recorded."""

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """``length`` bytes from ``offset`` on; fewer at the end only.

        Raises Integrity (the source has changed), NotFound, Access, Unavailable.
        """

    def read_parts(self, offset: int, length: int) -> list[bytes | memoryview]:
        """As :meth:`read`, in pieces as they lie in memory."""

    def ready(self, offset: int, length: int) -> bool:
        """Whether :meth:`read` of this range needs no network."""


def recorded(entry: RefEntry) -> Facts:
    """What an entry records of its object."""
    return Facts(entry.size, entry.etag, entry.version)


def digest_of(entry: RefEntry) -> bytes | None:
    """The recorded digest, if it is one of ours."""
    checksum = entry.checksum
    return parse_digest(checksum) if checksum is not None and checksum.startswith("blake3:") else None


def list_of(entry: RefEntry) -> bytes | None:
    """The root of the chunk list that is stored with the version: of a large object whose digest is recorded.

    An entry of another artifact has its list there.
    """
    if entry.size is None or entry.size <= SINGLE_CHUNK or is_artifact(entry.uri):
        return None
    return digest_of(entry)


def is_artifact(uri: str) -> bool:
    """Whether a URI names an entry of another artifact, which this repository has itself."""
    return uri[:9].lower() == "artifact:"


def changed(uri: str, how: str) -> Integrity:
    """What to say of a source that is not what was recorded."""
    return Integrity(f"the source {uri} has changed: {how}; restore it there, or log the reference anew")


def too_many(uri: str, limit: int) -> InvalidInput:
    """What to say of a URI that stands for too many objects."""
    return InvalidInput(f"{uri} has more than {limit:,} objects; raise max_objects (--max-objects)")
