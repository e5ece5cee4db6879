"""Random operations in staging and in a directory of the local disk: both must show the same, and commits hold what was frozen."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from artifactfs.draft import Draft
from artifactfs.errors import Conflict
from artifactfs.model.records import VersionRecord
from artifactfs.mount.freeze import Frozen
from artifactfs.repository import Repository
from tests.staging.driver import Disk, committed_tree

NAMES = ("a", "b", "c", "d")
BASE = {
    "a": b"file a",
    "b/a": b"x" * 9000,
    "b/c/a": b"deep",
    "b/c/b": b"y" * 5000,
    "b/c/d/a": b"deeper",
    "c/a": b"executable",
    "c/b": b"",
}

Tree = dict[str, tuple[str, bytes | str, bool]]

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100

indexes = st.integers(0, 1 << 16)
offsets = st.integers(0, 12_000)
contents = st.builds(lambda byte, size: bytes([byte]) * size, st.integers(1, 255), st.integers(1, 6000))


def checked(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), "libc")


class Both(RuleBasedStateMachine):
    """Each rule does the same to staging and to the directory."""

    def __init__(self) -> None:
        super().__init__()
        self.top = Path(tempfile.mkdtemp(prefix="staging-"))
        self.real = self.top / "real"
        for path, content in BASE.items():
            (self.real / path).parent.mkdir(parents=True, exist_ok=True)
            (self.real / path).write_bytes(content)
        (self.real / "c/a").chmod(0o755)
        (self.real / "d").mkdir()
        (self.real / "b/d").symlink_to("c/a")
        self.repository = Repository.create(str(self.top / "repository"))
        self.handles: list[tuple[int, int, bool]] = []
        self.frozen: Frozen | None = None
        self.frozen_tree: object = None
        self.discarded: list[Path] = []
        self.version: VersionRecord | None = None

    @initialize(empty=st.booleans())
    def begin(self, *, empty: bool) -> None:
        if empty:
            shutil.rmtree(self.real)
            self.real.mkdir()
        else:
            draft = Draft(self.repository)
            draft.add(self.real)
            draft.commit("data")
        self.disk = Disk(self.repository, self.top / "workspace")
        self.disk.force = True

    def teardown(self) -> None:
        for _, fd, _ in self.handles:
            os.close(fd)
        if hasattr(self, "disk"):
            if self.frozen is not None:
                self.disk.staging.thaw(self.frozen, None)
            self.disk.workspace.abandon()
        self.repository.close()
        shutil.rmtree(self.top)

    # -- the model -------------------------------------------------------------------------------------------------

    def tree(self) -> Tree:
        found: Tree = {}
        for parent, directories, files in os.walk(self.real):
            for name in directories + files:
                path = Path(parent, name)
                relative = str(path.relative_to(self.real))
                if path.is_symlink():
                    found[relative] = ("symlink", str(path.readlink()), False)
                elif path.is_dir():
                    found[relative] = ("directory", "", False)
                else:
                    found[relative] = ("file", path.read_bytes(), bool(path.stat().st_mode & 0o111))
        return found

    def path(self, index: int, *, new: bool = False) -> str:
        """A path that is there or, with ``new``, may be there or not."""
        tree = self.tree()
        paths = sorted(tree)
        if new or not paths:
            parents = ["", *(path for path in paths if tree[path][0] == "directory" and path.count("/") < 4)]
            paths += [f"{parent}/{name}".lstrip("/") for parent in parents for name in NAMES]
        return paths[index % len(paths)]

    def same(self, ours: Callable[[], object], theirs: Callable[[], object], *, which: bool = True) -> None:
        """Both succeed, or both fail; with ``which``, by the same errno."""
        expected = actual = 0
        try:
            theirs()
        except OSError as error:
            expected = error.errno or -1
        try:
            ours()
        except OSError as error:
            actual = error.errno or -1
        if which:
            assert errno.errorcode.get(actual) == errno.errorcode.get(expected)
        assert bool(actual) == bool(expected), (actual, expected)

    # -- files -----------------------------------------------------------------------------------------------------

    @rule(index=indexes, offset=offsets, data=contents)
    def write(self, index: int, offset: int, data: bytes) -> None:
        path = self.path(index)
        if not (self.real / path).is_file() or (self.real / path).is_symlink():
            return
        self.disk.patch(path, offset, data)
        with (self.real / path).open("r+b") as file:
            file.seek(offset)
            file.write(data)

    @rule(index=indexes, data=contents)
    def create(self, index: int, data: bytes) -> None:
        path = self.path(index, new=True)
        if (self.real / path).is_symlink():
            return

        def theirs() -> None:
            with (self.real / path).open("wb") as file:
                file.write(data)

        self.same(lambda: self.disk.write(path, data), theirs)

    @rule(index=indexes, size=offsets)
    def truncate(self, index: int, size: int) -> None:
        path = self.path(index)
        if not (self.real / path).is_symlink():
            self.same(lambda: self.disk.truncate(path, size), lambda: os.truncate(self.real / path, size))

    @rule(index=indexes, offset=offsets, length=st.integers(1, 6000))
    def punch(self, index: int, offset: int, length: int) -> None:
        path = self.path(index)
        if not (self.real / path).is_file() or (self.real / path).is_symlink():
            return
        with self.disk.opened(path, os.O_RDWR) as fh:
            self.disk.staging.fallocate(fh, 3, offset, length)
        with (self.real / path).open("r+b") as file:
            checked(libc.fallocate(file.fileno(), 3, ctypes.c_long(offset), ctypes.c_long(length)))

    @rule(index=indexes, mode=st.sampled_from([0o644, 0o755, 0o600, 0o700]))
    def chmod(self, index: int, mode: int) -> None:
        path = self.path(index)
        if (self.real / path).exists() and not (self.real / path).is_symlink():
            self.disk.chmod(path, mode)
            (self.real / path).chmod(mode)

    # -- names -----------------------------------------------------------------------------------------------------

    @rule(index=indexes)
    def mkdir(self, index: int) -> None:
        path = self.path(index, new=True)
        self.same(lambda: self.disk.mkdir(path), (self.real / path).mkdir)

    @rule(index=indexes)
    def rmdir(self, index: int) -> None:
        path = self.path(index)
        self.same(lambda: self.disk.rmdir(path), (self.real / path).rmdir)

    @rule(index=indexes)
    def unlink(self, index: int) -> None:
        path = self.path(index)
        self.same(lambda: self.disk.unlink(path), (self.real / path).unlink)

    @rule(index=indexes)
    def remove_all(self, index: int) -> None:
        path = self.path(index)
        if not (self.real / path).is_dir() or (self.real / path).is_symlink():
            return

        def remove(path: str) -> None:
            for name, attr in self.disk.list(path).items():
                if stat.S_ISDIR(attr.mode):
                    remove(f"{path}/{name}")
                else:
                    self.disk.unlink(f"{path}/{name}")
            self.disk.rmdir(path)

        remove(path)
        shutil.rmtree(self.real / path)

    @rule(index=indexes, to=st.sampled_from(NAMES))
    def symlink(self, index: int, to: str) -> None:
        path = self.path(index, new=True)
        self.same(lambda: self.disk.symlink(to, path), lambda: (self.real / path).symlink_to(to))

    @rule(index=indexes, other=indexes)
    def link(self, index: int, other: int) -> None:
        old, new = self.path(index), self.path(other, new=True)
        self.same(
            lambda: self.disk.link(old, new), lambda: os.link(self.real / old, self.real / new, follow_symlinks=False)
        )

    @rule(index=indexes, other=indexes, flags=st.sampled_from([0, 0, 0, 1, 2]))
    def rename(self, index: int, other: int, flags: int) -> None:
        old, new = self.path(index), self.path(other, new=True)

        def theirs() -> None:
            names = os.fsencode(self.real / old), os.fsencode(self.real / new)
            checked(libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], flags))

        # Which errno comes first where several fit is the kernel's choice, made before it asks.
        self.same(lambda: self.disk.rename(old, new, flags), theirs, which=False)

    # -- handles ---------------------------------------------------------------------------------------------------

    @rule(index=indexes, writable=st.booleans())
    def open(self, index: int, *, writable: bool) -> None:
        path = self.path(index)
        if (self.real / path).is_file() and not (self.real / path).is_symlink() and len(self.handles) < 4:
            flags = os.O_RDWR if writable else os.O_RDONLY
            self.handles.append((self.disk.open_fh(path, flags), os.open(self.real / path, flags), writable))

    @precondition(lambda self: self.handles)
    @rule(index=indexes, offset=offsets, data=contents)
    def write_handle(self, index: int, offset: int, data: bytes) -> None:
        fh, fd, writable = self.handles[index % len(self.handles)]
        if writable:
            self.disk.staging.write(fh, offset, memoryview(data))
            os.pwrite(fd, data, offset)

    @precondition(lambda self: self.handles)
    @rule(index=indexes)
    def close(self, index: int) -> None:
        fh, fd, _ = self.handles.pop(index % len(self.handles))
        self.disk.close_fh(fh)
        os.close(fd)

    # -- life and commits ------------------------------------------------------------------------------------------

    def drop_handles(self) -> None:
        for _, fd, _ in self.handles:
            os.close(fd)
        self.handles = []

    @rule()
    def kill(self) -> None:
        self.drop_handles()
        if self.frozen is not None and self.frozen.snapshot is not None:
            self.frozen.snapshot.close()
        self.disk.kill()
        pending = self.disk.staging.pending(self.disk.area)
        if pending is not None:
            latest = self.repository.registry.resolve("data", "latest")
            landed = latest if latest is not None and latest.digest == pending.digest else None
            assert landed == self.version or self.version is None
            self.disk.staging.recover(self.disk.area, landed)
        self.frozen = self.version = None

    @precondition(lambda self: self.frozen is None)
    @rule()
    def remount(self) -> None:
        for fh, _, _ in self.handles:
            self.disk.close_fh(fh)
        self.drop_handles()
        self.disk.remount()

    @precondition(lambda self: self.frozen is None)
    @rule()
    def freeze(self) -> None:
        self.frozen_tree = self.tree()
        self.frozen = self.disk.staging.freeze(self.disk.area)

    @precondition(lambda self: self.frozen is not None and self.version is None)
    @rule()
    def land(self) -> None:
        assert self.frozen is not None
        self.version = self.disk.land(self.frozen)
        assert committed_tree(self.repository, self.version) == self.frozen_tree

    @precondition(lambda self: self.frozen is not None)
    @rule()
    def thaw(self) -> None:
        assert self.frozen is not None
        self.disk.staging.thaw(self.frozen, self.version)
        self.frozen = self.version = None

    @precondition(lambda self: self.frozen is None)
    @rule()
    def commit(self) -> None:
        version = self.disk.commit()
        assert committed_tree(self.repository, version) == self.tree()
        assert self.disk.changes() == []

    @precondition(lambda self: self.frozen is None and not any(writable for _, _, writable in self.handles))
    @rule()
    def discard(self) -> None:
        before = self.disk.staging.discarded("data")
        self.disk.staging.discard(self.disk.area)
        if self.disk.staging.discarded("data") != before:
            # As it is, with its hard links.
            self.discarded.append(self.real.rename(self.top / f"discarded-{len(self.discarded)}"))
            self.real.mkdir()
        self.rebuild(self.base())

    @precondition(lambda self: self.frozen is None and not any(writable for _, _, writable in self.handles))
    @rule()
    def undo(self) -> None:
        """What was discarded comes back, the latest first, unless there are changes."""
        if self.disk.changes() or not self.discarded:
            with pytest.raises(Conflict):
                self.disk.staging.undo(self.disk.area)
            return
        self.disk.staging.undo(self.disk.area)
        shutil.rmtree(self.real)
        self.discarded.pop().rename(self.real)

    @rule(index=indexes, data=contents)
    def commit_elsewhere(self, index: int, data: bytes) -> None:
        """Somebody else makes the next version, by writing or removing one path."""
        if self.frozen is not None:
            return
        other = Disk(self.repository, self.top / "elsewhere")
        latest = self.repository.registry.resolve("data", "latest")
        if latest is not None:
            other.staging.reset(other.area, latest, following=True)
        path = self.path(index, new=True)
        try:
            if other.exists(path) and len(data) % 3 == 0:
                other.unlink(path)
            else:
                other.write(path, data)
        except OSError:
            pass  # a directory is there, or none is above
        else:
            other.commit()
        other.staging.close()

    @precondition(lambda self: self.frozen is None and not self.handles)
    @rule()
    def follow(self) -> None:
        latest = self.repository.registry.resolve("data", "latest")
        if latest is None:
            return
        clean = self.disk.changes() == []
        before = self.disk.area.base_number
        followed = bool(self.disk.staging.follow(self.disk.area, latest))
        assert followed == (clean and before != latest.number)
        if followed:
            assert self.disk.tree() == committed_tree(self.repository, latest)
            self.rebuild(committed_tree(self.repository, latest))

    @precondition(lambda self: self.frozen is None and not self.handles)
    @rule()
    def rebase(self) -> None:
        latest = self.repository.registry.resolve("data", "latest")
        tree = self.tree()
        if latest is None or any(
            (self.real / path).lstat().st_nlink > 1 for path in tree if tree[path][0] != "directory"
        ):
            return
        base, theirs = self.base(), committed_tree(self.repository, latest)
        ours_changed = {path for _, path in self.disk.changes()}
        theirs_changed = {path for path in base.keys() | theirs.keys() if base.get(path) != theirs.get(path)}
        try:
            self.disk.staging.rebase(self.disk.area, latest)
        except Conflict:
            assert any(
                f"{one}/".startswith(f"{two}/") or f"{two}/".startswith(f"{one}/")
                for one in ours_changed
                for two in theirs_changed
            )
            return
        merged = {path: value for path, value in theirs.items() if path not in ours_changed}
        merged |= {path: tree[path] for path in ours_changed if path in tree}
        assert self.disk.tree() == merged
        self.rebuild(merged)

    def base(self) -> Tree:
        number = self.disk.area.base_number
        if number is None:
            return {}
        return committed_tree(self.repository, self.repository.registry.version("data", number))

    def rebuild(self, tree: Tree) -> None:
        """Let the directory hold a tree; modes that no version keeps are taken from staging."""
        shutil.rmtree(self.real)
        self.real.mkdir()
        for path in sorted(tree):
            kind, content, _ = tree[path]
            if kind == "directory":
                (self.real / path).mkdir()
            elif kind == "symlink":
                (self.real / path).symlink_to(content)
            else:
                (self.real / path).write_bytes(content)
            if kind != "symlink":
                (self.real / path).chmod(self.disk.at(path).mode & 0o7777)

    # -- what must hold --------------------------------------------------------------------------------------------

    @invariant()
    def both_show_the_same(self) -> None:
        if not hasattr(self, "disk"):
            return
        tree = self.tree()
        assert self.disk.tree() == tree
        for path, (kind, _, _) in tree.items():
            ours, theirs = self.disk.at(path), (self.real / path).lstat()
            assert kind == "symlink" or ours.mode == theirs.st_mode
            assert kind == "directory" or ours.nlink == theirs.st_nlink
        for fh, fd, _ in self.handles:
            assert self.disk.read_fh(fh) == os.pread(fd, 1 << 20, 0)

    @invariant()
    def changes_are_those_from_the_base(self) -> None:
        if not hasattr(self, "disk") or self.frozen is not None:
            return
        area, base, tree = self.disk.area, self.base(), self.tree()
        certain = {path for path in base.keys() | tree.keys() if base.get(path) != tree.get(path)}
        changes = self.disk.staging.changes(area)
        found = {change.path: change.kind for change in changes}
        # Bytes written are a change, even to what they were.
        assert certain <= found.keys()
        assert all(path in base and path in tree and tree[path][0] == "file" for path in found.keys() - certain)
        for path in certain:
            if path not in tree:
                assert found[path] == "removed"
            elif path not in base:
                assert found[path] == "added"


Both.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestStaging = Both.TestCase
