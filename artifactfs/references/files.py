"""``file://``: files of this machine, or of a file system that every reader has mounted at the same place.

Used by References. Any thread. A file has no etag, so its digest is recorded; it is not kept in the Cache, as it is at hand.
"""

from __future__ import annotations

import os
import stat
import weakref
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote, unquote

from artifactfs.errors import InvalidInput, NotFound, Unavailable, translate_os
from artifactfs.model.digest import format_digest
from artifactfs.model.names import check_entry_path
from artifactfs.model.tree import RefEntry
from artifactfs.references.contract import Answer, Facts, Progress, Resolved, too_many
from artifactfs.references.hashing import hash_stream
from artifactfs.references.uris import name_of

ATTEMPTS: Final = 3
"""How often a file that changes while it is hashed is read."""


class FileOrigin:
    """An :class:`~artifactfs.references.contract.Origin` of local files."""

    @property
    def keeps(self) -> bool:
        """Never."""
        return False

    def expand(self, uri: str, name: str, limit: int, progress: Progress) -> Iterator[Resolved]:
        """A file, or all files below a directory; symlinks are followed."""
        path = path_of(uri)
        status = _status(path)
        if not stat.S_ISDIR(status.st_mode):
            yield _record(path, "", name or name_of(uri))
            return
        count = 0
        for below in _walk(path, "", [(status.st_dev, status.st_ino)]):
            count += 1
            if count > limit:
                raise too_many(uri, limit)
            yield _record(f"{path}/{below}", below, below.rpartition("/")[2])
            progress(count)
        if not count:
            raise NotFound(f"{uri} is a directory without files; there is nothing to refer to")

    def look(self, entry: RefEntry) -> Facts:
        """Size and time of change."""
        return _facts(_status(path_of(entry.uri)))

    def read(self, entry: RefEntry, offset: int, length: int | None) -> Answer:
        """The file as it is now."""
        del length
        return _Opened(path_of(entry.uri), offset)

    def close(self) -> None:
        """Nothing is held."""


class _Opened:
    """An :class:`~artifactfs.references.contract.Answer` from an open file."""

    def __init__(self, path: str, begin: int) -> None:
        self._path = path
        self.begin = begin
        self._at = begin
        try:
            # A FIFO that took the file's place, or a file of the kernel's that has nothing to say yet, would be waited for.
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            raise translate_os(error, f"cannot read {uri_of(path)}") from error
        self._close = weakref.finalize(self, os.close, self._descriptor)
        try:
            self.facts = _facts(_checked(os.fstat(self._descriptor), path))
        except InvalidInput:
            self.close()
            raise

    def read(self, length: int) -> bytes:
        try:
            data = os.pread(self._descriptor, length, self._at)
        except OSError as error:
            raise translate_os(error, f"cannot read {uri_of(self._path)}") from error
        self._at += len(data)
        return data

    def close(self) -> None:
        self._close()


def path_of(uri: str) -> str:
    """The path of a ``file://`` URI. InvalidInput when it is not absolute or names another machine."""
    rest = uri.partition(":")[2]
    host, slash, path = rest[2:].partition("/") if rest.startswith("//") else ("", rest[:1], rest[1:])
    if host not in {"", "localhost"} or slash != "/":
        raise InvalidInput(f"not a file URI: {uri!r}; give an absolute path, as in file:///data/{path or 'file'}")
    decoded = unquote(path, errors="surrogateescape")
    if "\0" in decoded:
        raise InvalidInput(f"not a file URI: {uri!r} holds a NUL")
    return "/" + decoded.strip("/")


def uri_of(path: str) -> str:
    """The ``file://`` URI of an absolute path."""
    return "file://" + quote(os.fsencode(path))


def _status(path: str) -> os.stat_result:
    try:
        status = os.stat(path)  # noqa: PTH116 - text, as it came from the URI
    except OSError as error:
        raise translate_os(error, f"cannot read {uri_of(path)}") from error
    return _checked(status, path)


def _checked(status: os.stat_result, path: str) -> os.stat_result:
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise InvalidInput(f"{uri_of(path)} is neither a file nor a directory; only these can be referred to")
    return status


def _facts(status: os.stat_result) -> Facts:
    return Facts(status.st_size, modified=f"{status.st_mtime_ns}:{status.st_ino}")


def _walk(directory: str, prefix: str, above: list[tuple[int, int]]) -> Iterator[str]:
    """Paths of all files below a directory, sorted by their parts."""
    try:
        names = sorted(os.listdir(directory))  # noqa: PTH208 - text; a Path a name costs more than the listing
    except OSError as error:
        raise translate_os(error, f"cannot list {uri_of(directory)}") from error
    for name in names:
        path = f"{directory}/{name}"
        status = _status(path)
        if stat.S_ISDIR(status.st_mode):
            place = (status.st_dev, status.st_ino)
            if place in above:
                raise InvalidInput(f"{uri_of(path)} is a symlink that leads back to a directory above it")
            yield from _walk(path, f"{prefix}{name}/", [*above, place])
        else:
            yield check_entry_path(f"{prefix}{name}")


def _record(path: str, below: str, name: str) -> Resolved:
    for _ in range(ATTEMPTS):
        opened = _Opened(path, 0)
        try:
            hashed = hash_stream(opened.read)
        finally:
            opened.close()
        if _facts(_status(path)) == opened.facts and hashed.size == opened.facts.size:
            entry = RefEntry(name, uri_of(path), hashed.size, format_digest(hashed.digest), None, None)
            return Resolved(below, entry, hashed.nodes)
    raise Unavailable(f"{uri_of(path)} changed each of {ATTEMPTS} times it was read; refer to it when it is at rest")
