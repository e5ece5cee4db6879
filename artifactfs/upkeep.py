"""Upkeep: the health of a repository. `verify` reads what versions are made of and names every file that a damage hits.

One thread; reads only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from artifactfs.errors import ArtifactFSError
from artifactfs.model.digest import DATA
from artifactfs.model.records import VersionRecord
from artifactfs.model.tree import DirEntry, Entry, FileEntry
from artifactfs.repository import Repository


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
    """Read every node and chunk of these versions once and check them; ``registry`` checks the database too."""
    report = VerifyReport()
    if registry:
        report.damages += [Damage("", "registry", line) for line in repository.registry.check()]
    check = _Check(repository, report, progress)
    for version in versions:
        report.versions += 1
        check.directory(version, version.digest, "")
    return report


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
        except ArtifactFSError as error:
            self._report.damages.append(Damage(version.name, prefix or "/", f"the directory cannot be read: {error}"))
            return
        digests = [entry.digest for entry in entries if isinstance(entry, FileEntry)]
        for entry in entries:
            if isinstance(entry, DirEntry):
                self.directory(version, entry.digest, f"{prefix}{entry.name}/")
            elif isinstance(entry, FileEntry):
                self._file(version, entry, f"{prefix}{entry.name}", digests)
        if len(self._report.damages) == before:
            self._sound.add(tree)

    def _file(self, version: VersionRecord, entry: FileEntry, path: str, neighbours: list[bytes]) -> None:
        self._report.files += 1
        if entry.size == 0:
            return
        try:
            reader = self._repository.open_file(entry, lambda: neighbours)
            pieces = reader.pieces()
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
            except ArtifactFSError as error:
                self._chunks[digest] = str(error)
            else:
                self._chunks[digest] = None
                self._report.bytes_checked += len(data)
            self._report.chunks_checked += 1
        return self._chunks[digest]
