"""Random system calls through a real mount and in a plain directory: same answers, same trees, over kills, commits and discards."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from artifactfs.draft import Draft
from artifactfs.repository import Repository
from tests.mounted.living import Mounted, living, succeeds, watched
from tests.mounted.trees import content, snapshot

NAMES = ("a", "b", "c", "d", "ä")
LARGE = 5 << 20  # more than one chunk
AT_FDCWD = -100
NOREPLACE, EXCHANGE = 1, 2
KEEP_SIZE, PUNCH = 1, 2
COARSE = 5  # CLOCK_REALTIME_COARSE
SECONDS = 540.0  # for all that a test does, of which a busy machine needs 120

libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def checked(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), "libc")


def make_base(root: Path) -> Path:
    for name in ("a/a/a", "a/b/c", "b/d", "c/a/b/d"):
        (root / name).mkdir(parents=True)
    noise = random.Random(0)
    for name in ("a/a/a/a", "a/a/b", "a/c", "b/a", "b/b", "c/a/c", "c/b", "d"):
        (root / name).write_bytes(noise.randbytes(noise.choice((0, 10, 5000, 70_000))))
    (root / "c/c").write_bytes(noise.randbytes(LARGE))
    (root / "c/d").symlink_to("a/c")
    (root / "b/b").chmod(0o755)
    return root


class Sides:
    """The plain directory and staging; each operation runs in both and must answer alike."""

    def __init__(self, mounted: Mounted, top: Path, seed: int) -> None:
        self.mounted = mounted
        self.random = random.Random(seed)
        self.plain = top / "plain"
        self.staging = mounted.root / "data/staging"
        self.handles: list[tuple[int, int, int]] = []
        self.history: list[str] = []
        self.version = 0
        self._repository = Repository.open(str(mounted.cli.home / ".local/share/artifactfs/repository"))
        draft = Draft(self._repository)
        draft.add(make_base(top / "source"))
        draft.commit("data")
        self.base = mounted.root / "data/v0"
        self.put_back()

    def close(self) -> None:
        self.close_handles()
        self._repository.close()

    def put_back(self) -> None:
        """Make the plain directory what staging is without changes; all its times are the version's."""
        self.created = self.base.stat().st_mtime_ns
        shutil.rmtree(self.plain, ignore_errors=True)
        # Without the attributes that say which version a file belongs to.
        succeeds(f"cp -rT --preserve=mode '{self.base}' '{self.plain}'", Path("/"))
        for directory, directories, files in os.walk(self.plain, topdown=False):
            for each in (*directories, *files, "."):
                os.utime(os.path.join(directory, each), ns=(self.created,) * 2, follow_symlinks=False)
        self.since = time.time_ns()
        while time.clock_gettime_ns(COARSE) < self.since:  # by which the kernel writes times: it is behind
            time.sleep(0.001)

    # Running something in both.

    def both(self, name: str, call: Callable[[Any], object], plain: Any, staging: Any) -> object:
        answers = [self.answer(call, side) for side in (plain, staging)]
        self.history.append(f"{name} -> {str(answers[0])[:60]}")
        assert answers[0] == answers[1], "\n".join([*self.history[-30:], f"but staging says {answers[1]!r}"[:500]])
        return answers[0]

    @staticmethod
    def answer(call: Callable[[Any], object], side: Any) -> object:
        try:
            return call(side)
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, str(error))

    def on_paths(self, name: str, call: Callable[[Callable[[str], str]], object], *paths: str) -> None:
        self.both(
            f"{name} {' '.join(paths)}",
            call,
            lambda path: os.path.join(self.plain, path),
            lambda path: os.path.join(self.staging, path),
        )

    def compare(self) -> None:
        seen = snapshot(self.staging, base=self.created, since=self.since)
        expected = snapshot(self.plain, base=self.created, since=self.since)
        assert seen == expected, "\n".join(self.history[-40:])

    # Choosing.

    def path(self) -> str:
        """A path that often exists."""
        if self.random.random() < 0.7:
            found = [os.path.relpath(os.path.join(top, name), self.plain)
                     for top, directories, files in os.walk(self.plain) for name in (*directories, *files)]  # fmt: skip
            if found:
                return self.random.choice(sorted(found))
        return "/".join(self.random.choice(NAMES) for _ in range(self.random.choice((1, 1, 2, 2, 3))))

    def bytes(self) -> bytes:
        size = self.random.choice((0, 1, 100, 4096, 5000, 131_072, 300_000))
        return bytes([self.random.randrange(1, 256)]) * size

    def offset(self) -> int:
        return self.random.choice((0, 1, 100, 4095, 4096, 60_000, 1_000_000, LARGE - 10, LARGE + 5000))

    # Operations, each chosen as often as the others.

    def write(self) -> None:
        path, data = self.path(), self.bytes()
        flags = os.O_WRONLY | os.O_CREAT | self.random.choice((os.O_TRUNC, os.O_APPEND, os.O_EXCL, 0))

        def call(at: Callable[[str], str]) -> int:
            descriptor = os.open(at(path), flags, 0o644)
            try:
                return os.write(descriptor, data)
            finally:
                os.close(descriptor)

        self.on_paths(f"write {len(data)} {flags:o}", call, path)

    def truncate(self) -> None:
        path, size = self.path(), self.offset()
        self.on_paths(f"truncate {size}", lambda at: os.truncate(at(path), size), path)

    def mkdir(self) -> None:
        path = self.path()
        self.on_paths("mkdir", lambda at: os.mkdir(at(path)), path)

    def remove(self) -> None:
        path = self.path()
        self.on_paths("unlink", lambda at: os.unlink(at(path)), path)

    def rmdir(self) -> None:
        path = self.path()
        self.on_paths("rmdir", lambda at: os.rmdir(at(path)), path)

    def rmtree(self) -> None:
        path = self.path()
        if self.random.random() < 0.2:
            self.on_paths("rmtree", lambda at: shutil.rmtree(at(path)), path)

    def copytree(self) -> None:
        old, new = self.path(), self.path()
        if not f"{new}/".startswith(f"{old}/") and not os.path.exists(self.plain / new):

            def call(at: Callable[[str], str]) -> None:
                if os.path.isdir(at(old)):
                    shutil.copytree(at(old), at(new), symlinks=True)

            self.on_paths("copytree", call, old, new)

    def rename(self) -> None:
        old, new = self.path(), self.path()
        flags = self.random.choice((0, 0, 0, NOREPLACE, EXCHANGE))

        def call(at: Callable[[str], str]) -> None:
            checked(libc.renameat2(AT_FDCWD, os.fsencode(at(old)), AT_FDCWD, os.fsencode(at(new)), flags))

        self.on_paths(f"rename {flags}", call, old, new)

    def link(self) -> None:
        old, new = self.path(), self.path()
        self.on_paths("link", lambda at: os.link(at(old), at(new), follow_symlinks=False), old, new)

    def symlink(self) -> None:
        path, target = self.path(), self.random.choice(NAMES)
        self.on_paths("symlink", lambda at: os.symlink(target, at(path)), path)

    def chmod(self) -> None:
        path, mode = self.path(), self.random.choice((0o644, 0o755, 0o600, 0o700, 0o4755))
        self.on_paths(f"chmod {mode:o}", lambda at: os.chmod(at(path), mode), path)

    def utime(self) -> None:
        path, when = self.path(), self.random.randrange(10**18)
        self.on_paths(f"utime {when}", lambda at: os.utime(at(path), ns=(when, when), follow_symlinks=False), path)

    def xattr(self) -> None:
        path, name = self.path(), f"user.{self.random.choice(NAMES)}"
        if self.random.random() < 0.3:
            self.on_paths("removexattr", lambda at: os.removexattr(at(path), name), path)
        else:
            self.on_paths("setxattr", lambda at: os.setxattr(at(path), name, b"x" * 20), path)

    def look(self) -> None:
        path = self.path()
        self.on_paths("list", lambda at: sorted(os.listdir(at(path))), path)
        self.on_paths("readlink", lambda at: os.readlink(at(path)), path)

    def mapped(self) -> None:
        path, offset = self.path(), self.offset()

        def call(at: Callable[[str], str]) -> bytes:
            with open(at(path), "r+b") as file:
                if os.fstat(file.fileno()).st_size < offset + 10:
                    return b""
                with mmap.mmap(file.fileno(), 0) as memory:
                    before = memory[offset : offset + 10]
                    memory[offset : offset + 6] = b"mapped"
                    return before

        self.on_paths(f"mmap {offset}", call, path)

    def open(self) -> None:
        path = self.path()
        if len(self.handles) >= 5:
            self.close_one()
        flags = self.random.choice((os.O_RDWR, os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_APPEND))
        opened: list[int] = []

        def call(at: Callable[[str], str]) -> None:
            opened.append(os.open(at(path), flags, 0o644))

        self.on_paths(f"open {flags:o}", call, path)
        if opened:
            self.handles.append((*opened, flags))

    def close_one(self) -> None:
        if self.handles:
            plain, staging, _ = self.handles.pop(self.random.randrange(len(self.handles)))
            self.both("close", os.close, plain, staging)

    def close_handles(self) -> None:
        while self.handles:
            self.close_one()

    def use_handle(self) -> None:
        if not self.handles:
            return
        plain, staging, flags = self.random.choice(self.handles)
        offset, data, length = self.offset(), self.bytes(), self.random.choice((10, 5000, 200_000))
        kind = self.random.choice(("pread", "pwrite", "ftruncate", "fallocate", "punch", "fsync", "fstat", "fchmod"))
        call: Callable[[int], object] = {
            "pread": lambda side: os.pread(side, length, offset),
            "pwrite": lambda side: os.pwrite(side, data, offset),
            "ftruncate": lambda side: os.ftruncate(side, offset),
            "fallocate": lambda side: os.posix_fallocate(side, offset, length),
            "punch": lambda side: checked(libc.fallocate(side, PUNCH | KEEP_SIZE, offset, length)),
            "fsync": os.fsync,
            "fstat": lambda side: (os.fstat(side).st_size, oct(os.fstat(side).st_mode)),
            "fchmod": lambda side: os.fchmod(side, 0o640),
        }[kind]
        self.both(f"{kind} {offset} {length} {len(data)} {flags:o}", call, plain, staging)

    def copy_range(self) -> None:
        if len(self.handles) >= 2:
            (one, first, _), (two, second, flags) = self.random.sample(self.handles, 2)
            offset, length = self.offset(), 200_000
            if not flags & os.O_APPEND:
                self.both(
                    f"copy_file_range {offset}",
                    lambda pair: os.copy_file_range(*pair, length, offset, 3),
                    (one, two),
                    (first, second),
                )

    # What happens to the whole.

    def kill(self) -> None:
        self.close_handles()
        self.mounted.kill()
        self.mounted.remount()
        self.history.append("kill")
        self.compare()

    def commit(self) -> None:
        self.close_handles()
        before = content(self.plain)
        if before.keys() == {"."}:
            return
        name = self.mounted.commit("data", "--allow-open")
        self.version = int(name.partition(":v")[2])
        self.history.append(f"commit {name}")
        self.base = self.mounted.root / f"data/v{self.version}"
        assert content(self.base) == before, self.history[-40:]
        self.compare()

    def discard(self) -> None:
        self.close_handles()
        self.mounted("discard", "data")
        self.history.append("discard")
        self.put_back()
        self.compare()

    def step(self) -> None:
        self.random.choice((
            self.write, self.write, self.truncate, self.mkdir, self.remove, self.rmdir, self.rmtree, self.copytree, self.rename,
            self.rename, self.link, self.symlink, self.chmod, self.utime, self.xattr, self.look, self.mapped, self.open,
            self.use_handle, self.use_handle, self.use_handle, self.copy_range, self.close_one,
        ))()  # fmt: skip


@pytest.fixture(autouse=True)
def _bounded(tmp_path: Path) -> Iterator[None]:
    with watched(tmp_path, SECONDS):
        yield


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize(("binding", "seed", "count"), [("kernel", 11, 500), ("kernel", 12, 500), ("fusepy", 13, 250)])
def test_staging_is_like_a_plain_directory(tmp_path, binding, seed, count):
    """Links stay inside the artifact by construction, so every commit goes through."""
    with living(tmp_path / "m", binding) as mounted:
        mounted.mount()
        sides = Sides(mounted, tmp_path, seed)
        try:
            for number in range(1, count + 1):
                sides.step()
                if number % 30 == 0:
                    sides.compare()
                if number % 110 == 0:
                    sides.kill()
                if number % 100 == 0:
                    sides.commit()
                if number % 160 == 0:
                    sides.discard()
            sides.close_handles()
            sides.compare()
            sides.kill()
            sides.commit()
        finally:
            sides.close()
