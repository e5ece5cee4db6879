"""LocalStore: the Store of a directory on a local disk.

Owns the directory ``root``: an object is the file ``root/<key>``; an object being written is a file in ``root/tmp``.
Used by ``repository.py`` for embedded repositories and by the server. All methods may be called from any thread and
from several processes on one directory.

Invariant *durable-or-absent*: a file under its key is complete and durable. It is written beside, flushed, renamed,
and the directories are flushed; whatever a crash interrupts stays in ``tmp``. Invariant *locked-while-written*: a
file in ``tmp`` is locked (``flock``) by its writer, so one that can be locked belongs to a dead process and is
removed by the next process that opens the store.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from artifactfs.errors import Integrity, InvalidInput, NotFound, translate_os

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

OPEN_OBJECTS: Final = 128
"""Descriptors kept for reading: 8 GiB of packs at hand, far below the usual limit of 1,024 descriptors a process."""

WRITEBACK: Final = 8 << 20
"""Bytes after which the kernel is told to begin writing to disk, so that the fsync at the end of a large object finds
little left."""

LONGEST_KEY: Final = 1024
"""Bytes of a key, as S3 has it."""
LONGEST_PART: Final = 255
"""Bytes between slashes, as file systems have it."""

_KEY: Final = re.compile(r"[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*")
_TEMPORARY: Final = "tmp"


def check_key(key: str) -> str:
    """The key itself. Raises InvalidInput for one that the Store contract does not allow."""
    if len(key) > LONGEST_KEY or any(len(part) > LONGEST_PART for part in key.split("/")):
        raise InvalidInput(
            f"not a store key: {key[:80]!r}… is too long; {LONGEST_KEY} bytes are allowed, and {LONGEST_PART} between slashes"
        )
    if not _KEY.fullmatch(key) or any(part in {".", ".."} for part in key.split("/")):
        raise InvalidInput(f"not a store key: {key!r}; allowed are relative paths of A-Z a-z 0-9 - _ . and /")
    return key


class LocalStore:
    """Keyed immutable objects as files below ``root``.

    ``create`` makes the directory; without it a missing one is NotFound, or, if it may be ``absent``, an empty Store until something
    is uploaded.
    """

    def __init__(self, root: Path, *, create: bool = False, absent: bool = False) -> None:
        self.root = root
        self._temporary = root / _TEMPORARY
        self._lock = threading.Lock()
        self._open: OrderedDict[str, _Object] = OrderedDict()
        try:
            if create:
                _make_directory(root)
            elif not absent and not root.is_dir():
                raise NotFound(f"{root}: there is no store")
        except OSError as error:
            raise translate_os(error, f"cannot open the store {root}") from error
        self._remove_leftovers()

    @property
    def local(self) -> bool:
        """Always: reads are answered from this machine's disk."""
        return True

    @property
    def signs(self) -> bool:
        """Never: no URL leads to a file."""
        return False

    def upload(self) -> LocalUpload:
        """Begin an object. Access, NoSpace when the directory cannot be written."""
        try:
            _make_directory(self._temporary)
            return LocalUpload(self, *self._create_temporary())
        except OSError as error:
            raise translate_os(error, f"cannot write to the store {self.root}") from error

    def read(self, key: str, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset``. NotFound without the object, Integrity when it is too short."""
        if offset < 0 or length < 0:
            raise InvalidInput(f"{key}: cannot read {length} bytes at {offset}")
        try:
            opened = self._object(key)
            data = os.pread(opened.descriptor, length, offset)
            if len(data) == length:
                return data
            # A pread gives less at the end of the file only, or past 2 GiB - 4 KiB a call.
            parts = [data]
            missing = length - len(data)
            while data and missing:
                data = os.pread(opened.descriptor, missing, offset + length - missing)
                parts.append(data)
                missing -= len(data)
        except OSError as error:
            raise translate_os(error, f"cannot read {self.root / key}") from error
        if missing:
            raise Integrity(
                f"{self.root / key}: ends {missing} bytes before {offset + length}; run `artifactfs verify`"
            )
        return b"".join(parts)

    def read_parts(self, key: str, offset: int, lengths: Sequence[int]) -> Iterator[bytes]:
        """Consecutive parts of these lengths from ``offset`` on. Errors as :meth:`read`."""
        for length in lengths:
            yield self.read(key, offset, length)
            offset += length

    def read_cached(self, key: str, offset: int, buffer: memoryview) -> bool:
        """Fill ``buffer`` from ``offset`` on with what the kernel has in memory; False when that is not all of it."""
        try:
            return os.preadv(self._object(key).descriptor, [buffer], offset, os.RWF_NOWAIT) == len(buffer)
        except OSError:
            return False  # nothing of it is there (EAGAIN), or the file system cannot tell (EOPNOTSUPP)

    def size(self, key: str) -> int:
        """Size of an object in bytes. NotFound without it."""
        path = self.path(key)
        try:
            return path.stat().st_size
        except OSError as error:
            raise translate_os(error, f"cannot read {path}") from error

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Keys that begin with ``prefix`` and their sizes in bytes, sorted by key."""
        return self._walk("", prefix)

    def delete(self, key: str) -> None:
        """Remove an object. Idempotent. Descriptors that readers hold go on reading."""
        path = self.path(key)
        with self._lock:
            self._open.pop(key, None)
        try:
            path.unlink(missing_ok=True)
        except NotADirectoryError:
            return
        except OSError as error:
            raise translate_os(error, f"cannot delete {path}") from error

    def sign(self, keys: Sequence[str], *, seconds: float) -> Sequence[str]:
        """InvalidInput: no URL leads to a file."""
        raise InvalidInput(
            f"{self.root}: there are no signed URLs of {len(keys)} files for {seconds:g} s; read them here"
        )

    def close(self) -> None:
        """Let go of the descriptors. Idempotent; a read afterwards opens anew."""
        with self._lock:
            self._open.clear()

    def path(self, key: str) -> Path:
        """The file that holds an object, or would. InvalidInput for a wrong key."""
        check_key(key)
        if key.partition("/")[0] == _TEMPORARY:
            raise InvalidInput(f"not a store key: {key!r}; {_TEMPORARY}/ holds objects being written")
        return self.root / key

    def _object(self, key: str) -> _Object:
        with self._lock:
            opened = self._open.get(key)
            if opened is not None:
                self._open.move_to_end(key)
                return opened
        opened = _Object(os.open(self.path(key), os.O_RDONLY | os.O_CLOEXEC))
        with self._lock:
            opened = self._open.setdefault(key, opened)
            if len(self._open) > OPEN_OBJECTS:
                self._open.popitem(last=False)
        return opened

    def _walk(self, directory: str, prefix: str) -> Iterator[tuple[str, int]]:
        try:
            with os.scandir(self.root / directory) as entries:
                # With "/" behind the names of directories, depth-first order is the order of keys ("a-b/x" < "a/x").
                found = sorted((entry.name + "/" * entry.is_dir(follow_symlinks=False), entry) for entry in entries)
        except FileNotFoundError:
            return
        except OSError as error:
            raise translate_os(error, f"cannot read {self.root / directory}") from error
        for name, entry in found:
            key = directory + name
            if name.endswith("/"):
                if key != f"{_TEMPORARY}/" and (key.startswith(prefix) or prefix.startswith(key)):
                    yield from self._walk(key, prefix)
            elif key.startswith(prefix) and _KEY.fullmatch(key) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    yield key, entry.stat(follow_symlinks=False).st_size

    def _create_temporary(self) -> tuple[Path, int]:
        while True:
            path = self._temporary / secrets.token_hex(16)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                # Between the two calls another process may have taken the file for a leftover.
                if os.fstat(descriptor).st_nlink:
                    return path, descriptor
            except OSError:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _remove_leftovers(self) -> None:
        """Remove what dead writers left. Never fails: on a read-only disk they stay, and harm nobody."""
        with contextlib.suppress(OSError), os.scandir(self._temporary) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    descriptor = os.open(entry.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                    try:
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        Path(entry.path).unlink()
                    finally:
                        os.close(descriptor)


class LocalUpload:
    """An object being written to ``root/tmp``. Used by one thread at a time."""

    def __init__(self, store: LocalStore, path: Path, descriptor: int) -> None:
        self._store = store
        self._path = path
        self._descriptor = descriptor
        self._size = 0
        self._started = 0  # bytes that the kernel was told to write

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes. NoSpace leaves nothing behind after :meth:`abort`."""
        try:
            written = os.write(self._descriptor, data)
            while written < len(data):
                written += os.write(self._descriptor, memoryview(data)[written:])
        except OSError as error:
            raise translate_os(error, f"cannot write to the store {self._store.root}") from error
        self._size += written
        if self._size - self._started >= WRITEBACK:
            # On Linux DONTNEED starts asynchronous writing of dirty pages and drops clean ones only, of which there
            # are none yet. 1 GiB written and synced took 0.31 s this way, 0.43 s without, measured side by side.
            with contextlib.suppress(OSError):
                os.posix_fadvise(self._descriptor, self._started, self._size - self._started, os.POSIX_FADV_DONTNEED)
            self._started = self._size

    def publish(self, key: str) -> None:
        """Make the bytes durable and visible under ``key``, atomically; a key that exists is left as it is."""
        target = self._store.path(key)
        try:
            os.fsync(self._descriptor)
            _make_directory(target.parent)
            if target.exists():
                self._path.unlink()
            else:
                self._path.rename(target)
            # Also for an object that was there: its writer may not have come to this line yet.
            _sync_directory(target.parent)
        except OSError as error:
            raise translate_os(error, f"cannot write to the store {self._store.root}") from error
        self._close()

    def abort(self) -> None:
        """Forget the bytes. Idempotent; does nothing after :meth:`publish`."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
            self._close()

    def _close(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1


class _Object:
    """An open object, closed when the last reader lets go of it: eviction never waits for a pread."""

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


def _make_directory(path: Path) -> None:
    """Make a directory and its missing parents, durably."""
    if path.is_dir():
        return
    _make_directory(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir()
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
