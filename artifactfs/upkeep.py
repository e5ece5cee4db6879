"""Upkeep: the health of a repository. `verify` reads what versions are made of and names every file that a damage hits.

:func:`verify_references` asks the sources of references instead, and downloads nothing where they tell what they have. One thread,
and :data:`THREADS` that wait for sources; reads only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Final

import msgspec

from artifactfs.errors import Access, ArtifactFSError
from artifactfs.model.digest import DATA
from artifactfs.model.records import VersionRecord
from artifactfs.model.tree import DirEntry, Entry, FileEntry, RefEntry
from artifactfs.references.contract import list_of
from artifactfs.repository import Repository

THREADS: Final = 16
"""Sources asked at a time."""
BATCH: Final = 512
"""References given to the threads at a time."""
REMEMBERED: Final = 500_000
"""Sources of which the answer is remembered for other versions, about 500 bytes each."""


class Damage(msgspec.Struct, frozen=True):
    """One thing that cannot be read: the version (empty: the registry itself), the path in it, and why."""

    version: str
    path: str
    reason: str


class VerifyReport(msgspec.Struct):
    """What was read and what was found: ``bytes_checked`` counts plain bytes, each chunk once."""

    versions: int = 0
    files: int = 0
    chunks_checked: int = 0
    bytes_checked: int = 0
    damages: list[Damage] = msgspec.field(default_factory=list)


def verify(
    repository: Repository,
    versions: Iterable[VersionRecord],
    *,
    registry: bool = True,
    progress: Callable[[VerifyReport], None] | None = None,
) -> VerifyReport:
    """Read every node and chunk of these versions once and check them; ``registry`` checks the database too.

    Access where nothing may be read, or nobody has the project's key: that is no damage.
    """
    report = VerifyReport()
    if registry:
        report.damages += [Damage("", "registry", line) for line in repository.registry.check()]
    check = _Check(repository, report, progress)
    for version in versions:
        report.versions += 1
        check.directory(version, version.digest, "")
    return report


class ReferencesReport(msgspec.Struct):
    """What was asked and what was found: ``references`` counts each source once, also where several versions have it.

    ``unknown`` are of schemes that nothing here reads, and ``unrecorded`` those of which only the URI is known: these must be there,
    but any content is right.
    """

    versions: int = 0
    references: int = 0
    unknown: int = 0
    unrecorded: int = 0
    damages: list[Damage] = msgspec.field(default_factory=list)


def verify_references(
    repository: Repository,
    versions: Iterable[VersionRecord],
    *,
    progress: Callable[[ReferencesReport], None] | None = None,
) -> ReferencesReport:
    """Ask the source of every reference of these versions whether it still has what was recorded."""
    report = ReferencesReport()
    asked: dict[RefEntry, str | None] = {}  # without their names: what is wrong, None when nothing is

    def ask(entry: RefEntry) -> str | None:
        try:
            repository.references.check(entry)
        except ArtifactFSError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="verify-reference") as pool:
        for version in versions:
            report.versions += 1
            found = _references(repository, version, report)
            while batch := list(islice(found, BATCH)):
                if len(asked) > REMEMBERED:
                    asked.clear()
                new = list(dict.fromkeys(source for _, source in batch if source not in asked))
                for source, outcome in zip(new, pool.map(ask, new), strict=True):
                    asked[source] = outcome
                    report.references += 1
                    report.unrecorded += source.checksum is None and source.etag is None and source.version is None
                    if progress is not None:
                        progress(report)
                report.damages += [
                    Damage(version.name, path, reason)
                    for path, source in batch
                    if (reason := asked[source]) is not None
                ]
    return report


def _references(
    repository: Repository, version: VersionRecord, report: ReferencesReport
) -> Iterator[tuple[str, RefEntry]]:
    """Path and source of each reference that can be asked; a source is the entry without its name."""
    try:
        for path, entry in repository.trees.walk(version.digest):
            if isinstance(entry, RefEntry):
                if repository.references.knows(entry.uri):
                    yield path, msgspec.structs.replace(entry, name="")
                else:
                    report.unknown += 1
    except Access:
        raise
    except ArtifactFSError as error:
        report.damages.append(Damage(version.name, "/", f"a directory cannot be read: {error}"))


class _Check:
    def __init__(
        self, repository: Repository, report: VerifyReport, progress: Callable[[VerifyReport], None] | None
    ) -> None:
        self._repository = repository
        self._report = report
        self._progress = progress
        self._chunks: dict[bytes, str | None] = {}  # digest: None when sound, else what is wrong
        self._sound: set[bytes] = set()  # directories without any damage below

    def directory(self, version: VersionRecord, tree: bytes, prefix: str) -> None:
        if tree in self._sound:
            return
        before = len(self._report.damages)
        try:
            entries: list[Entry] = [entry for _, _, entry in self._repository.trees.scan(tree)]
        except Access:
            raise
        except ArtifactFSError as error:
            self._report.damages.append(Damage(version.name, prefix or "/", f"the directory cannot be read: {error}"))
            return
        digests = [entry.digest for entry in entries if isinstance(entry, FileEntry)]
        for entry in entries:
            if isinstance(entry, DirEntry):
                self.directory(version, entry.digest, f"{prefix}{entry.name}/")
            elif isinstance(entry, FileEntry):
                self._file(version, entry, f"{prefix}{entry.name}", digests)
            elif isinstance(entry, RefEntry) and (root := list_of(entry)) is not None:
                self._outside(version, root, entry.size or 0, f"{prefix}{entry.name}")
        if len(self._report.damages) == before:
            self._sound.add(tree)

    def _outside(self, version: VersionRecord, root: bytes, size: int, path: str) -> None:
        """A reference's chunk list is here, though its chunks are not."""
        try:
            for _ in self._repository.reader.open(root, size).leaves():
                pass
        except Access:
            raise
        except ArtifactFSError as error:
            self._report.damages.append(Damage(version.name, path, str(error)))

    def _file(self, version: VersionRecord, entry: FileEntry, path: str, neighbours: list[bytes]) -> None:
        self._report.files += 1
        if entry.size == 0:
            return
        try:
            reader = self._repository.open_file(entry, lambda: neighbours)
            pieces = reader.pieces()
        except Access:
            raise
        except ArtifactFSError as error:
            self._report.damages.append(Damage(version.name, path, str(error)))
            return
        reasons = [reason for piece in pieces if (reason := self._chunk(piece.digest)) is not None]
        if reasons:
            self._report.damages.append(Damage(version.name, path, reasons[0]))
        if self._progress is not None:
            self._progress(self._report)

    def _chunk(self, digest: bytes) -> str | None:
        if digest not in self._chunks:
            try:
                data = self._repository.reader.chunk(digest, DATA)
            except Access:
                raise
            except ArtifactFSError as error:
                self._chunks[digest] = str(error)
            else:
                self._chunks[digest] = None
                self._report.bytes_checked += len(data)
            self._report.chunks_checked += 1
        return self._chunks[digest]
