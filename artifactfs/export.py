"""Export: a version's files as plain files in a directory (`get`).

Only what is not there yet is written: a file that already has the right bytes (checked by digest, not by size and time) is kept.
Files that the version does not have are left alone.

A symlink is content: it is made as the version has it and never followed, neither when it was just made nor when it was there before.
Nothing logs one that leads out of its artifact, but a client that keeps no rules may have; so these are named.

References come last, when all else is there: those of known schemes are fetched, several at a time; what cannot be had is named, and
others come nevertheless. Of one without a digest that can be computed here (an etag is the source's business), a file of its size with
the version's time, which this module gave it, counts as the right one.

One thread, and :data:`THREADS` for references.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from artifactfs.content.reader import FileReader
from artifactfs.errors import ArtifactFSError, Conflict, Integrity, NoSpace, translate_os
from artifactfs.model.digest import DATA, digest
from artifactfs.model.names import check_part, leaves_artifact
from artifactfs.model.records import VersionRecord
from artifactfs.model.tree import DirEntry, Entry, FileEntry, LinkEntry, RefEntry
from artifactfs.references.contract import digest_of
from artifactfs.repository import Repository

if TYPE_CHECKING:
    from artifactfs.references.contract import ReferenceFile

THREADS: Final = 8
"""References fetched at a time: each holds one request's bytes."""
BATCH: Final = 256
"""References given to the threads at a time."""

_WINDOW: Final = 4 << 20  # bytes read and written at a time: one chunk at the most


class ExportResult(msgspec.Struct):
    """What was done: files written and kept (references among them), bytes written; and what was not.

    ``references`` are those of unknown schemes, which are left out: ``path -> URI``. ``failures`` are files that are damaged, and
    symlinks that cannot be made; ``missing`` are references that could not be had, with why. ``outward`` are symlinks that lead out
    of the version: ``path -> target``.
    """

    path: Path
    written: int = 0
    kept: int = 0
    bytes_written: int = 0
    references: list[str] = msgspec.field(default_factory=list)
    failures: list[str] = msgspec.field(default_factory=list)
    missing: list[str] = msgspec.field(default_factory=list)
    outward: list[str] = msgspec.field(default_factory=list)


class _Wanted(NamedTuple):
    """A Reference to fetch once all else is there."""

    entry: RefEntry
    path: str
    target: Path


def export(
    repository: Repository,
    version: VersionRecord,
    path: str,
    destination: Path,
    *,
    progress: Callable[[ExportResult], None] | None = None,
) -> ExportResult:
    """Write what is at ``path`` ("" is all) of a version below ``destination``, at its place in the version.

    A damaged file is named in ``failures``, a reference that cannot be had in ``missing``, and the rest is written. Raises
    NotFound (no such path), Conflict (something of another kind stands in the way), NoSpace, Access.
    """
    result = ExportResult(destination)
    job = _Export(repository, version, result, progress)
    if destination.exists() and not destination.is_dir():
        raise Conflict(f"cannot write below {destination}: it is no directory; name another place")
    try:
        destination.mkdir(parents=True, exist_ok=True)
        if not path:
            job.directory(version.digest, "", destination)
        else:
            found = repository.find(version, path)
            *parents, _ = path.split("/")
            target = destination
            for parent in parents:
                target = target / parent
                job.make_directory(target)
            job.entry(found.entry, path, target)
        job.fetch_references()
    except OSError as error:
        raise translate_os(error, f"cannot write below {destination}") from error
    return result


class _Export:
    def __init__(
        self,
        repository: Repository,
        version: VersionRecord,
        result: ExportResult,
        progress: Callable[[ExportResult], None] | None,
    ) -> None:
        self._repository = repository
        self._version = version
        self._result = result
        self._progress = progress
        umask = os.umask(0)
        os.umask(umask)
        self._umask = umask
        self._wanted: list[_Wanted] = []

    def directory(self, tree: bytes, prefix: str, target: Path) -> None:
        leaf: list[Entry] = [entry for _, _, entry in self._repository.trees.scan(tree)]
        digests = [entry.digest for entry in leaf if isinstance(entry, FileEntry)]
        for entry in leaf:
            self.entry(entry, f"{prefix}{entry.name}", target, digests)

    def make_directory(self, target: Path) -> None:
        """A real directory at ``target``: a symlink there could lead the files to come anywhere."""
        try:
            mode = target.lstat().st_mode
        except FileNotFoundError:
            target.mkdir()
            return
        if not stat.S_ISDIR(mode):
            raise Conflict(f"{target} is in the way: the version has a directory there; move it or choose another DEST")

    def entry(self, entry: Entry, path: str, parent: Path, neighbours: list[bytes] | None = None) -> None:
        target = parent / check_part(entry.name)
        if isinstance(entry, DirEntry):
            self.make_directory(target)
            self.directory(entry.digest, f"{path}/", target)
        elif isinstance(entry, LinkEntry):
            self._link(entry, path, target)
        elif isinstance(entry, RefEntry):
            if self._repository.references.knows(entry.uri):
                self._wanted.append(_Wanted(entry, path, target))
            else:
                self._result.references.append(f"{path} -> {entry.uri}")
        else:
            try:
                self._file(entry, target, neighbours or [])
            except Integrity as error:
                self._result.failures.append(f"{self._version.name}/{path}: {error}")
        if self._progress is not None:
            self._progress(self._result)

    def _link(self, entry: LinkEntry, path: str, target: Path) -> None:
        if not entry.target or "\0" in entry.target:
            self._result.failures.append(
                f"{self._version.name}/{path}: no symlink can have the target {entry.target!r}"
            )
            return
        if leaves_artifact(path.removesuffix(entry.name), entry.target):
            self._result.outward.append(f"{path} -> {entry.target}")
        with suppress(OSError):
            if os.readlink(target) == entry.target:  # noqa: PTH115 - the text as it stands
                self._result.kept += 1
                return
        self._clear(target)
        target.symlink_to(entry.target)
        self._result.written += 1

    def _clear(self, target: Path) -> None:
        try:
            mode = target.lstat().st_mode
        except FileNotFoundError:
            return
        if stat.S_ISDIR(mode):
            raise Conflict(f"{target} is in the way: the version has a file there; move it or choose another DEST")
        target.unlink()

    def _file(self, entry: FileEntry, target: Path, neighbours: list[bytes]) -> None:
        reader = self._repository.open_file(entry, lambda: neighbours)
        mode = (0o777 if entry.executable else 0o666) & ~self._umask
        if self._same(reader, target):
            if stat.S_IMODE(target.stat().st_mode) & 0o111 != mode & 0o111:
                target.chmod(mode)
            self._result.kept += 1
            return
        self._write(reader, entry.size, target, mode)
        self._result.written += 1
        self._result.bytes_written += entry.size

    def _write(self, reader: FileReader | ReferenceFile, size: int, target: Path, mode: int) -> None:
        """Write a file beside its place and put it there."""
        fd, beside = tempfile.mkstemp(prefix=".artifactfs-", dir=target.parent)
        try:
            with os.fdopen(fd, "wb") as file:  # buffered, as an unbuffered write may be a short one
                for offset in range(0, size, _WINDOW):
                    file.write(reader.read(offset, _WINDOW))
                file.flush()  # before the time is set
                os.fchmod(file.fileno(), mode)
                os.utime(file.fileno(), ns=(self._version.created, self._version.created))
            self._clear(target)
            Path(beside).rename(target)
        except BaseException:
            with suppress(OSError):
                Path(beside).unlink()
            raise

    def fetch_references(self) -> None:
        """Fetch what was put off, several at a time; what is found is counted in the order of paths."""
        if not self._wanted:
            return
        rest = iter(self._wanted)
        with ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="get-reference") as pool:
            while batch := list(islice(rest, BATCH)):
                for wanted, outcome in zip(batch, pool.map(self._fetch, batch), strict=True):
                    if isinstance(outcome, ArtifactFSError):
                        self._result.missing.append(f"{self._version.name}/{wanted.path}: {outcome}")
                    elif outcome is None:
                        self._result.kept += 1
                    else:
                        self._result.written += 1
                        self._result.bytes_written += outcome
                    if self._progress is not None:
                        self._progress(self._result)

    def _fetch(self, wanted: _Wanted) -> int | ArtifactFSError | None:
        """Write a Reference's bytes; returns how many, None when they were there, or why they cannot be had."""
        try:
            if self._same_reference(wanted.entry, wanted.target):
                return None
            reader = self._repository.open_reference(wanted.entry)
            size = reader.size
            self._write(reader, size, wanted.target, 0o666 & ~self._umask)
        except (NoSpace, Conflict):
            raise  # of the directory here: nothing else would come either
        except ArtifactFSError as error:
            return error
        return size

    def _same_reference(self, entry: RefEntry, target: Path) -> bool:
        """Whether a Reference's bytes are there, as far as can be told without its source."""
        if entry.size is None:
            return False
        content = digest_of(entry)
        if content is not None:
            return self._same(self._repository.reader.open(content, entry.size), target)
        try:
            status = target.lstat()
        except OSError:
            return False
        return (
            stat.S_ISREG(status.st_mode)
            and status.st_size == entry.size
            and status.st_mtime_ns == self._version.created
        )

    def _same(self, reader: FileReader, target: Path) -> bool:
        """Whether a file with exactly these bytes is there: each piece is hashed and compared."""
        try:
            fd = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size != reader.size:
                return False
            offset = 0
            for piece in reader.pieces():
                if digest(DATA, os.pread(fd, piece.size, offset)) != piece.digest:
                    return False
                offset += piece.size
        except ArtifactFSError:
            return False  # its chunk list is damaged: writing it will say so
        finally:
            os.close(fd)
        return True
