"""References: what URIs stand for, and the bytes that lie there.

Used by the repository, which makes one when it is asked for first, and, for :func:`resolve` alone, by who builds a version without a
repository. Any thread.

Content never passes through a server of ours: it is read from where it lies, with the rights of who reads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Final

from artifactfs.buckets.places import is_bucket
from artifactfs.errors import InvalidInput
from artifactfs.model.digest import format_digest
from artifactfs.model.tree import RefEntry
from artifactfs.references.artifacts import ArtifactOrigin, Versions
from artifactfs.references.contract import (
    MAX_OBJECTS,
    Facts,
    Origin,
    Part,
    Progress,
    ReferenceFile,
    Resolved,
    changed,
    digest_of,
    recorded,
)
from artifactfs.references.files import FileOrigin
from artifactfs.references.hashing import Hashed, hash_stream
from artifactfs.references.parts import take_parts
from artifactfs.references.reading import OutsideFile, Recorded
from artifactfs.references.uris import check_uri, name_of, scheme_of

if TYPE_CHECKING:
    from artifactfs.content.cache import Cache
    from artifactfs.content.reader import ContentReader
    from artifactfs.references.fetcher import Fetcher

_WINDOW: Final = 4 << 20  # bytes read at a time
SECONDS: Final = 30.0
"""How long a source is waited for, unless said otherwise."""


class Sources:
    """The origins, made when they are needed first. ``seconds`` bounds a wait for a source."""

    def __init__(self, *, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._origins: dict[str, Origin] = {}

    def origin(self, uri: str) -> Origin:
        """The origin of a URI. InvalidInput when there is none."""
        family = family_of(uri)
        if family is None:
            raise InvalidInput(f"nothing is known of the scheme of {uri!r}; known are {', '.join(SCHEMES)}")
        if family == ARTIFACT:
            raise InvalidInput(f"{uri} names another artifact, which needs a repository that has it")
        with self._lock:
            origin = self._origins.get(family)
            if origin is None:
                origin = self._origins[family] = self._made(family)
            return origin

    def _made(self, family: str) -> Origin:
        # Here and not above: HTTP takes 0.1 s to import.
        if family == FILE:
            return FileOrigin()
        if family == BUCKET:
            from artifactfs.references.objects import BucketOrigin  # noqa: PLC0415

            return BucketOrigin(seconds=self._seconds)
        from artifactfs.references.http import WebOrigin  # noqa: PLC0415

        return WebOrigin(seconds=self._seconds)

    def close(self) -> None:
        """Let connections go. Idempotent."""
        with self._lock:
            origins = list(self._origins.values())
        for origin in origins:
            origin.close()


FILE, WEB, BUCKET, ARTIFACT = "file", "web", "bucket", "artifact"
SCHEMES: Final = ("file", "http", "https", "s3", "gs", "az", "abfs", "abfss", "artifact")
_FAMILIES: Final = {"file": FILE, "http": WEB, "https": WEB, "artifact": ARTIFACT}


def family_of(uri: str) -> str | None:
    """Which origin a URI belongs to; None for an unknown scheme."""
    return BUCKET if is_bucket(uri) else _FAMILIES.get(scheme_of(uri))


def _silent(count: int) -> None:
    del count


def resolve(
    uri: str,
    *,
    name: str = "",
    checksum: bool = True,
    limit: int = MAX_OBJECTS,
    progress: Progress | None = None,
    seconds: float = SECONDS,
) -> Iterator[Resolved]:
    """As :meth:`References.resolve`, without a repository; an ``artifact://`` URI needs one."""
    if _unasked(uri, checksum=checksum):
        yield _bare(uri, name)
        return
    with closing(Sources(seconds=seconds)) as sources:
        yield from sources.origin(uri).expand(uri, name, limit, progress or _silent)


def _unasked(uri: str, *, checksum: bool) -> bool:
    """Whether a URI, which is checked, is to be recorded as it is."""
    return family_of(check_uri(uri)) is None or not checksum


def _bare(uri: str, name: str) -> Resolved:
    return Resolved("", RefEntry(name or name_of(uri), uri, None, None, None, None))


class References:
    """References as one repository has them: found, read through its Cache, and checked.

    ``lists`` reads the chunk lists that belong to recorded digests; ``cache`` opens the Cache, when something is read first that it
    is to keep; ``projects`` opens a project of the repository (None: the one that is open) for references to other artifacts.
    """

    def __init__(
        self,
        lists: ContentReader,
        cache: Callable[[], Cache | None],
        projects: Callable[[str | None], Versions],
        *,
        seconds: float = SECONDS,
    ) -> None:
        self._lists = lists
        self._cache = cache
        self._seconds = seconds
        self._sources = Sources(seconds=seconds)
        self._artifacts = ArtifactOrigin(projects, self.open)
        self._lock = threading.Lock()
        self._fetcher: Fetcher | None = None

    def knows(self, uri: str) -> bool:
        """Whether a URI's scheme is one whose content can be read."""
        return family_of(uri) is not None

    def resolve(
        self,
        uri: str,
        *,
        name: str = "",
        checksum: bool = True,
        limit: int = MAX_OBJECTS,
        progress: Progress | None = None,
    ) -> Iterator[Resolved]:
        """What a URI stands for, to be logged: one object, or those below a prefix or directory, in order of their paths.

        ``name`` is the last part of what one object will be called; without it that of the URI. ``checksum`` False records the URI
        alone and asks nobody; so does an unknown scheme. Raises NotFound, Access, Unavailable, and InvalidInput, also for more than
        ``limit`` objects. Nothing is asked before the first one is taken.
        """
        if _unasked(uri, checksum=checksum):
            yield _bare(uri, name)
        elif family_of(uri) == ARTIFACT:
            yield from self._artifacts.expand(uri, name, limit, progress or _silent)
        else:
            yield from self._sources.origin(uri).expand(uri, name, limit, progress or _silent)

    def open(self, entry: RefEntry) -> ReferenceFile:
        """Read an entry's bytes, checked. Asks nobody yet. InvalidInput for an unknown scheme."""
        if family_of(entry.uri) == ARTIFACT:
            return self._artifacts.open(entry)
        return OutsideFile(self._fetched(), self._sources.origin(entry.uri), entry, self._lists)

    def size(self, entry: RefEntry) -> int:
        """An entry's size: what is recorded, else what its source says now."""
        return entry.size if entry.size is not None else self.open(entry).size

    def check(self, entry: RefEntry, *, content: bool = False) -> None:
        """Compare a source with what was recorded. ``content`` reads everything; else only what has no etag or version.

        Raises Integrity (recorded this, found that), NotFound, Access, Unavailable. Nothing comes from the Cache.
        """
        if family_of(entry.uri) == ARTIFACT:
            self._artifacts.check(entry)
            if content:
                _read_all(self._artifacts.open(entry))
            return
        origin = self._sources.origin(entry.uri)
        digest = digest_of(entry)
        if digest is None and not content:
            _compare(entry, origin.look(entry))
            return
        hashed = self._hashed(origin, entry)
        if digest is not None and hashed.digest != digest:
            raise changed(
                entry.uri,
                f"recorded checksum {entry.checksum} and size {entry.size}, "
                f"found {format_digest(hashed.digest)} and {hashed.size}",
            )
        if entry.size is not None and hashed.size != entry.size:
            raise changed(entry.uri, f"recorded size {entry.size}, found {hashed.size}")

    def nodes(self, entry: RefEntry) -> tuple[bytes, ...]:
        """The nodes of the chunk list of an entry with a digest, made anew from its source's bytes. Errors as :meth:`check`."""
        hashed = self._hashed(self._sources.origin(entry.uri), entry)
        if hashed.digest != digest_of(entry):
            raise changed(entry.uri, f"recorded checksum {entry.checksum}, found {format_digest(hashed.digest)}")
        return hashed.nodes

    def parts(self, entry: RefEntry, parts: Iterable[Part]) -> Iterator[tuple[Part, bytes]]:
        """Chunks of an entry with a digest, given in order of offset, from its source by their ranges alone; each is checked.

        Nothing comes from the Cache, and nothing is kept. Errors as :meth:`check`, at the first part that is not as recorded.
        """
        yield from take_parts(Recorded(self._sources.origin(entry.uri), entry, self._lists), parts)

    def _hashed(self, origin: Origin, entry: RefEntry) -> Hashed:
        answer = origin.read(entry, 0, None)
        try:
            if digest_of(entry) is None:
                _compare(entry, answer.facts)
            return hash_stream(answer.read)
        finally:
            answer.close()

    @property
    def bytes_fetched(self) -> int:
        """Bytes that came from sources so far."""
        return self._fetcher.bytes_fetched if self._fetcher is not None else 0

    def close(self) -> None:
        """End threads and connections. Idempotent."""
        if self._fetcher is not None:
            self._fetcher.close()
        self._sources.close()

    def _fetched(self) -> Fetcher:
        if self._fetcher is None:
            from artifactfs.references.fetcher import Fetcher  # noqa: PLC0415 - the cache takes 30 ms to import

            with self._lock:
                if self._fetcher is None:
                    self._fetcher = Fetcher(self._cache, seconds=self._seconds)
        return self._fetcher


def _compare(entry: RefEntry, facts: Facts) -> None:
    how = facts.conflict(recorded(entry))
    if how is not None:
        raise changed(entry.uri, how)


def _read_all(file: ReferenceFile) -> None:
    for offset in range(0, file.size, _WINDOW):
        file.read_parts(offset, _WINDOW)
