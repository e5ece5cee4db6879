"""A version's files in a directory: written there, compared with it, and made equal.

Used by Artifact. One thread a call. Writing is :mod:`artifactfs.export`; what is there already with the right contents is kept, and a
version that is there whole costs no request.
"""

from __future__ import annotations

import os
import shutil
import stat
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from artifactfs.building import Hasher, shortened
from artifactfs.content.writer import FileContent
from artifactfs.errors import ArtifactFSError, Conflict, Integrity, InvalidInput, NotFound, Unavailable, translate_os
from artifactfs.export import ExportResult, export
from artifactfs.model.digest import parse_digest
from artifactfs.model.records import VersionRecord
from artifactfs.model.tree import DirEntry, Entry, FileEntry, LinkEntry, RefEntry
from artifactfs.repository import Repository, is_url


def download(
    repository: Repository,
    version: VersionRecord,
    root: Path,
    prefix: str = "",
    *,
    allow_missing_references: bool = False,
) -> ExportResult:
    """Write what is not there yet below ``root``: all, or every path that begins with ``prefix``.

    All else is written before it raises: Integrity names files that are damaged, Unavailable references that could not be had, unless
    these may be missing. NotFound when no path begins with the prefix.
    """
    return _download(repository, version, root, _matching(repository, version, prefix), allow_missing_references)


def download_entry(repository: Repository, version: VersionRecord, root: Path, path: str) -> ExportResult:
    """Write one entry at its place below ``root``. Errors as :func:`download`; InvalidInput for an unknown scheme."""
    entry = repository.entry(version, path)
    if isinstance(entry, RefEntry) and not repository.references.knows(entry.uri):
        raise InvalidInput(f"nothing here reads the scheme of {path} -> {entry.uri}")
    return _download(repository, version, root, [path], allow_missing=False)


def _download(
    repository: Repository, version: VersionRecord, root: Path, paths: list[str], allow_missing: bool
) -> ExportResult:
    whole = ExportResult(root)
    for path in paths:
        result = export(repository, version, path, root)
        whole.written += result.written
        whole.kept += result.kept
        whole.bytes_written += result.bytes_written
        whole.references += result.references
        whole.failures += result.failures
        whole.missing += result.missing
        whole.outward += result.outward
    left_out = whole.references
    if left_out:
        was, its = ("was", "its") if len(left_out) == 1 else ("were", "their")
        what = f"{_many(left_out, 'reference')} of {version.name} {was} left out, as nothing here reads {its} scheme"
        warnings.warn(_listed(what, left_out), stacklevel=4)
    if whole.outward:
        what = f"symlinks of {version.name} in {root} that lead out of the version, so do not write through them"
        warnings.warn(_listed(what, shortened(whole.outward)), stacklevel=4)
    if whole.failures:
        what = f"{_many(whole.failures, 'file')} of {version.name} could not be read; the rest is in {root}"
        raise Integrity(_listed(what, whole.failures))
    if whole.missing and not allow_missing:
        what = (
            f"{_many(whole.missing, 'reference')} of {version.name} could not be had (allow_missing_references=True does "
            f"without them); the rest is in {root}"
        )
        raise Unavailable(_listed(what, whole.missing))
    return whole


def verify(repository: Repository, version: VersionRecord, root: Path) -> None:
    """Compare a directory with a version. Integrity names every difference; of References what was recorded is compared."""
    if not root.is_dir():
        raise NotFound(f"cannot compare {root} with {version.name}: there is no such directory; download() makes it")
    try:
        differences = sorted([*_differences(repository, version.digest, root, ""), *_extras(repository, version, root)])
    except OSError as error:
        raise translate_os(error, f"cannot compare {root} with {version.name}") from error
    if differences:
        raise Integrity(_listed(f"{_many(differences, 'difference')} between {root} and {version.name}", differences))


def checkout(repository: Repository, version: VersionRecord, root: Path) -> None:
    """Make a directory equal to a version: bring what it lacks, delete what the version does not have. Errors as :func:`download`."""
    _refuse_root(repository, root)
    try:
        if root.is_dir():
            for path in list(_clashes(repository, version.digest, root)):
                _delete(path)
        download(repository, version, root)
        for extra in list(_extras(repository, version, root)):
            _delete(root / extra.rpartition(": ")[0].rstrip("/"))
    except OSError as error:
        raise translate_os(error, f"cannot make {root} equal to {version.name}") from error


def _matching(repository: Repository, version: VersionRecord, prefix: str) -> list[str]:
    """The topmost paths that begin with a prefix."""
    if not prefix:
        return [""]
    above, _, stem = prefix.rpartition("/")
    directory: bytes | None = version.digest
    if above:
        found = repository.trees.find(version.digest, above)
        directory = found.entry.digest if found is not None and isinstance(found.entry, DirEntry) else None
    paths = []
    if directory is not None:
        for _, _, entry in repository.trees.scan(directory):
            if entry.name.startswith(stem):
                paths.append(f"{above}/{entry.name}" if above else entry.name)
    if not paths:
        raise NotFound(
            f"{version.name} has no path that begins with path_prefix={prefix!r}; its manifest lists what it has"
        )
    return paths


def _differences(repository: Repository, tree: bytes, directory: Path, prefix: str) -> Iterator[str]:
    for _, _, entry in repository.trees.scan(tree):
        target = directory / entry.name
        path = f"{prefix}{entry.name}"
        try:
            mode = target.lstat().st_mode
        except FileNotFoundError:
            if not (isinstance(entry, RefEntry) and not repository.references.knows(entry.uri)):
                yield f"{path}: missing"
            continue
        if isinstance(entry, DirEntry):
            if stat.S_ISDIR(mode):
                yield from _differences(repository, entry.digest, target, f"{path}/")
            else:
                yield f"{path}: it should be a directory"
        elif isinstance(entry, LinkEntry):
            if not stat.S_ISLNK(mode) or os.readlink(target) != entry.target:  # noqa: PTH115 - the text as it stands
                yield f"{path}: it should be a symlink to {entry.target!r}"
        elif not stat.S_ISREG(mode):
            yield f"{path}: it should be a file"
        else:
            found = _hash(target)
            if not _is_same(entry, found):
                yield f"{path}: other contents"
            elif isinstance(entry, FileEntry) and entry.executable != bool(mode & 0o111):
                yield f"{path}: it should {'' if entry.executable else 'not '}be executable"


def _is_same(entry: Entry, found: FileContent) -> bool:
    if isinstance(entry, FileEntry):
        return found == FileContent(entry.digest, entry.size)
    if isinstance(entry, RefEntry):
        with suppress(ArtifactFSError):
            return found.digest == parse_digest(entry.checksum or "")
        return entry.size is None or entry.size == found.size
    return False


def _hash(path: Path) -> FileContent:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return Hasher().add_file(descriptor)
    finally:
        os.close(descriptor)


def _extras(repository: Repository, version: VersionRecord, root: Path) -> Iterator[str]:
    """What a directory has and the version does not, the topmost of it."""
    for parent, directories, files in os.walk(root):
        prefix = str(Path(parent).relative_to(root)) + "/" if Path(parent) != root else ""
        tree = version.digest
        if prefix:
            found = repository.trees.find(version.digest, prefix[:-1])
            if found is None or not isinstance(found.entry, DirEntry):
                continue  # another kind of thing is there, which is a difference of its own
            tree = found.entry.digest
        for name in list(directories):
            if not _has(repository, tree, name):
                directories.remove(name)
                yield f"{prefix}{name}/: not in the version"
        for name in files:
            if not _has(repository, tree, name):
                yield f"{prefix}{name}: not in the version"


def _has(repository: Repository, tree: bytes, name: str) -> bool:
    return repository.trees.lookup(tree, name) is not None


def _clashes(repository: Repository, tree: bytes, directory: Path) -> Iterator[Path]:
    """What stands where the version has something of another kind."""
    for _, _, entry in repository.trees.scan(tree):
        target = directory / entry.name
        try:
            is_directory = stat.S_ISDIR(target.lstat().st_mode)
        except FileNotFoundError:
            continue
        if isinstance(entry, DirEntry) != is_directory:
            yield target
        elif isinstance(entry, DirEntry):
            yield from _clashes(repository, entry.digest, target)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _refuse_root(repository: Repository, root: Path) -> None:
    whole = root.resolve()
    if whole == whole.parent:
        raise InvalidInput(
            f"checkout would delete everything on this machine: root={str(root)!r} is its root directory"
        )
    if not is_url(repository.location) and Path(repository.location).resolve().is_relative_to(whole):
        raise Conflict(
            f"checkout would delete the repository, which lies below root={str(root)!r}; choose another directory"
        )


def _many(lines: list[str], thing: str) -> str:
    return f"{len(lines)} {thing}{'' if len(lines) == 1 else 's'}"


def _listed(what: str, lines: list[str]) -> str:
    return "\n  ".join([f"{what}:", *lines])
