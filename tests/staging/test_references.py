"""References in staging: read as files, kept by a commit as they are, and replaced, never written to."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.content.cache import CacheSettings
from artifactfs.draft import Draft
from artifactfs.errors import Integrity
from artifactfs.model.tree import FileEntry, RefEntry
from artifactfs.mount.contract import FOREVER
from artifactfs.repository import Repository
from tests.staging.driver import ME, Disk
from tests.web import Web, web_server


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server() as running:
        running.put("a.csv", b"one,two\n")
        running.put("b.csv", b"three\n")
        yield running


@pytest.fixture
def disk(tmp_path: Path, web: Web) -> Iterator[Disk]:
    """Staging that shows references: ``a.csv``, ``deep/b.csv``, ``odd`` of an unknown scheme, and ``bare`` without any record."""
    settings = CacheSettings(tmp_path / "cache")
    with Repository.create(str(tmp_path / "repository"), cache=settings, seconds=3) as repository:
        draft = Draft(repository)
        draft.add_reference(web.uri("a.csv"), "a.csv")
        draft.add_reference(web.uri("b.csv"), "deep/b.csv")
        draft.add_reference("odd://host/x", "odd")
        draft.add_reference(web.uri("b.csv"), "bare", checksum=False)
        draft.commit("data")
        disk = Disk(repository, tmp_path / "workspace")
        yield disk
        disk.staging.close()


def entry(disk: Disk, path: str) -> RefEntry | FileEntry:
    version = disk.repository.registry.resolve("data", "latest")
    found = disk.repository.entry(version, path)
    assert isinstance(found, RefEntry | FileEntry)
    return found


def refused(disk: Disk, path: str, flags: int) -> None:
    with pytest.raises(OSError) as caught:
        disk.open_fh(path, flags)
    assert caught.value.errno == errno.EPERM


def test_they_read_as_files(disk: Disk, web: Web):
    web.asked.clear()
    attr = disk.at("a.csv")
    assert (attr.mode, attr.size, attr.attr_valid) == (stat.S_IFREG | 0o644, 8, FOREVER)
    assert stat.S_ISLNK(disk.at("odd").mode)
    assert web.asked.total() == 0
    assert disk.read("a.csv") == b"one,two\n"
    assert disk.read("a.csv") == b"one,two\n"
    assert web.asked.total() == 1
    with pytest.raises(OSError, match="Invalid argument"):
        disk.staging.readlink(attr.node)
    assert disk.staging.readlink(disk.at("odd").node) == b"odd://host/x"
    assert not disk.staging.is_dirty(disk.area)


def test_one_without_a_record_has_its_size_once_it_was_opened(disk: Disk):
    attr = disk.at("bare")
    assert (attr.size, attr.attr_valid) == (0, 0.0)
    opened = disk.staging.open(attr.node, os.O_RDONLY, ME)
    assert (opened.direct, opened.keep_cache) == (True, False)
    assert disk.staging.getattr(attr.node).size == 6
    assert disk.staging.read(opened.fh, 0, 100) == b"three\n"
    disk.close_fh(opened.fh)
    assert disk.at("bare").size == 6
    assert disk.read("bare") == b"three\n"


def test_a_changed_source_is_said_with_the_path(disk: Disk, web: Web):
    web.objects["b.csv"] = b"THREE\n"
    with pytest.raises(Integrity, match="has changed"):
        disk.read("deep/b.csv")
    said = disk.staging.getxattr(disk.at("deep/b.csv").node, b"user.artifactfs.last_error")
    assert said.startswith(b"data/staging/deep/b.csv: the source http")
    assert disk.read("a.csv") == b"one,two\n"


def test_they_are_not_written_to(disk: Disk):
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND):
        refused(disk, "a.csv", flags)
    with pytest.raises(OSError, match="not permitted"):
        disk.truncate("a.csv", 3)
    assert disk.read("a.csv") == b"one,two\n"
    assert not disk.staging.is_dirty(disk.area)


def test_a_commit_keeps_them_as_they_are(disk: Disk):
    before = entry(disk, "a.csv"), entry(disk, "deep/b.csv"), entry(disk, "bare")
    disk.write("new", b"new")
    disk.chmod("a.csv", 0o600)
    disk.rename("deep/b.csv", "moved.csv")
    disk.read("bare")
    disk.commit()
    assert entry(disk, "a.csv") == before[0]
    moved = entry(disk, "moved.csv")
    assert isinstance(moved, RefEntry)
    assert (moved.uri, moved.etag) == (before[1].uri, before[1].etag)
    assert entry(disk, "bare") == before[2]
    assert disk.read("moved.csv") == b"three\n"


@pytest.mark.parametrize("how", ["open", "truncate"])
@pytest.mark.parametrize("name", ["a.csv", "bare"])
def test_one_that_is_emptied_becomes_a_file(disk: Disk, how: str, name: str, web: Web):
    if how == "open":
        disk.write(name, b"mine")
    else:
        disk.truncate(name, 0)
        disk.patch(name, 0, b"mine")
    assert disk.read(name) == b"mine"
    attr = disk.at(name)
    assert (attr.size, attr.attr_valid) == (4, FOREVER)
    disk.remount()
    assert disk.read(name) == b"mine"
    assert [(change.kind, change.path) for change in disk.staging.changes(disk.area)] == [("changed", name)]
    disk.commit()
    assert isinstance(entry(disk, name), FileEntry)
    assert disk.read(name) == b"mine"
    disk.patch(name, 4, b"!")
    assert disk.read(name) == b"mine!"
    assert "GET a.csv" not in web.asked


def test_who_has_it_open_when_it_is_emptied_sees_the_new_file(disk: Disk):
    with disk.opened("a.csv") as fh:
        assert disk.read_fh(fh) == b"one,two\n"
        disk.write("a.csv", b"mine, now")
        assert disk.read_fh(fh) == b"mine, now"


def test_discard_brings_it_back(disk: Disk):
    disk.write("a.csv", b"mine")
    disk.staging.discard(disk.area)
    assert disk.read("a.csv") == b"one,two\n"
    assert not disk.staging.is_dirty(disk.area)


def test_a_kill_leaves_the_file_that_it_became(disk: Disk):
    disk.write("a.csv", b"mine")
    disk.kill()
    assert disk.read("a.csv") == b"mine"
    disk.kill()
    disk.commit()
    assert isinstance(entry(disk, "a.csv"), FileEntry)
