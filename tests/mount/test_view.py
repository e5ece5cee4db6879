"""The View without a kernel: what the mount shows of a real repository, as nodes."""

from __future__ import annotations

import errno
import json
import os
import stat
from contextlib import suppress

import pytest

from artifactfs.draft import Draft
from artifactfs.errors import Integrity
from artifactfs.model.digest import format_digest
from artifactfs.mount.contract import FOREVER, ROOT, SET_MODE, Caller, SetAttr
from artifactfs.mount.view import View
from artifactfs.repository import Repository

ME = Caller(0, 0, 1)


@pytest.fixture
def repository(tmp_path):
    with Repository.create(str(tmp_path / "repository")) as opened:
        yield opened


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    (root / "images/deep").mkdir(parents=True)
    (root / "empty").mkdir()
    for number in range(1500):
        (root / f"images/{number:04d}.png").write_bytes(b"png%d" % number)
    (root / "images/deep/x").write_text("deep")
    (root / "run").write_text("#!/bin/sh\n")
    (root / "run").chmod(0o755)
    (root / "link").symlink_to("images/0001.png")
    return root


def put(repository, source, name="data", **options):
    draft = Draft(repository)
    draft.add(source)
    return draft.commit(name, **options).version


def make(repository, pins=None):
    return View(repository, None, pins=pins or {}, uid=1, gid=2, status=lambda: {"pid": 7, "counts": {"reads": 3}})


def walk(view, path):
    """The attributes of a path, looked up part by part."""
    attr = view.getattr(ROOT)
    for part in path.split("/"):
        attr = view.lookup(attr.node, part.encode())
        if attr.node == 0:
            raise OSError(errno.ENOENT, path)
    return attr


def names(view, path=None):
    node = walk(view, path).node if path else ROOT
    opened = view.opendir(node, ME)
    found = [name.decode() for name, _ in view.readdir(node, opened.fh, 0)]
    view.releasedir(opened.fh)
    return found


def read(view, opened, size):
    return b"".join(view.read(opened.fh, 0, size))


def content(view, path):
    opened = view.open(walk(view, path).node, os.O_RDONLY, ME)
    data = read(view, opened, 1 << 20)
    view.release(opened.fh)
    return data


def refused(number, call, *arguments):
    with pytest.raises(OSError) as caught:
        call(*arguments)
    assert caught.value.errno == number


def test_the_tree_of_a_mount(repository, tree):
    put(repository, tree, aliases=("best",))
    (tree / "more").write_text("more")
    put(repository, tree)
    view = make(repository)
    assert names(view) == [".artifactfs", "data"]
    assert names(view, "data") == ["v0", "v1", "best", "latest"]
    assert names(view, "data/v0") == ["empty", "images", "link", "run"]
    assert names(view, "data/v1") == ["empty", "images", "link", "more", "run"]
    assert names(view, "data/v0/empty") == []
    assert view.readlink(walk(view, "data/latest").node) == b"v1"
    assert view.readlink(walk(view, "data/best").node) == b"v0"
    assert content(view, "data/v1/images/deep/x") == b"deep"


def test_attributes(repository, tree):
    version = put(repository, tree)
    view = make(repository)
    run, link, images = (walk(view, f"data/v0/{name}") for name in ("run", "link", "images"))
    assert (run.mode, run.size, run.nlink, run.blocks, run.mtime) == (stat.S_IFREG | 0o755, 10, 1, 1, version.created)
    assert (run.uid, run.gid) == (1, 2)
    assert walk(view, "data/v0/images/0001.png").mode == stat.S_IFREG | 0o644
    assert stat.S_ISDIR(images.mode)
    assert (stat.S_ISLNK(link.mode), link.size) == (True, len("images/0001.png"))
    assert view.readlink(link.node) == b"images/0001.png"


def test_versions_are_valid_for_ever_and_aliases_never(repository, tree):
    put(repository, tree)
    view = make(repository)
    for path in ("data/v0", "data/v0/images", "data/v0/images/0001.png"):
        attr = walk(view, path)
        assert (attr.entry_valid, attr.attr_valid) == (FOREVER, FOREVER)
    alias = walk(view, "data/latest")
    assert (alias.entry_valid, alias.attr_valid) == (0, 0)
    missing = view.lookup(walk(view, "data/v0/images").node, b"nope")
    assert (missing.node, missing.entry_valid) == (0, FOREVER)
    refused(errno.ENOENT, view.lookup, ROOT, b"nope")
    refused(errno.ENOENT, view.lookup, walk(view, "data").node, b"v9")


def test_inode_numbers_are_unique_and_the_same_in_lookup_listing_and_after_a_remount(repository, tree):
    put(repository, tree)
    put(repository, tree / "images", name="other")

    def numbers(view):
        found = {}

        def descend(path, node):
            opened = view.opendir(node, ME)
            for name, attr in view.readdir(node, opened.fh, 0):
                below = f"{path}/{name.decode()}"
                found[below] = attr.node
                if stat.S_ISDIR(attr.mode):
                    descend(below, attr.node)

        descend("", ROOT)
        return found

    view = make(repository)
    first = numbers(view)
    assert len(set(first.values())) == len(first)
    assert numbers(make(repository)) == first
    for path in ("/data/v0/images/0777.png", "/data/v0/run", "/data", "/data/latest", "/other/v0/deep/x"):
        assert walk(view, path[1:]).node == first[path]


def test_a_node_from_before_a_remount_still_reads(repository, tree):
    put(repository, tree)
    node = walk(make(repository), "data/v0/images/0042.png").node
    view = make(repository)
    opened = view.open(node, os.O_RDONLY, ME)
    assert read(view, opened, 100) == b"png42"


def test_a_listing_goes_on_anywhere(repository, tree):
    put(repository, tree)
    view = make(repository)
    node = walk(view, "data/v0/images").node
    everything = [name for name, _ in view.readdir(node, 0, 0)]
    assert everything == sorted(everything)
    assert len(everything) == 1501
    assert [name for name, _ in view.readdir(node, 0, 1234)] == everything[1234:]


def test_new_names_and_moved_aliases_appear_at_once(repository, tree):
    view = make(repository)
    assert names(view) == [".artifactfs"]
    put(repository, tree)
    assert names(view) == [".artifactfs", "data"]
    opened = view.open(walk(view, "data/v0/run").node, os.O_RDONLY, ME)
    (tree / "run").write_text("new")
    put(repository, tree)
    assert view.readlink(walk(view, "data/latest").node) == b"v1"
    assert content(view, "data/v1/run") == b"new"
    assert read(view, opened, 100) == b"#!/bin/sh\n"
    repository.registry.move_aliases("data", 0, ["best"])
    assert view.readlink(walk(view, "data/best").node) == b"v0"
    repository.registry.remove_aliases("data", ["best"])
    refused(errno.ENOENT, walk, view, "data/best")


def test_a_pin_fixes_latest(repository, tree):
    put(repository, tree)
    view = make(repository, pins={"data": 0})
    (tree / "run").write_text("new")
    put(repository, tree)
    assert view.readlink(walk(view, "data/latest").node) == b"v0"
    assert walk(view, "data/v1").node


def test_versions_are_read_only(repository, tree):
    put(repository, tree)
    view = make(repository)
    version, run = walk(view, "data/v0").node, walk(view, "data/v0/run").node
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
        refused(errno.EROFS, view.open, run, flags, ME)
    refused(errno.EROFS, view.create, version, b"x", 0o644, os.O_WRONLY, ME)
    refused(errno.EROFS, view.mkdir, version, b"x", 0o755, ME)
    refused(errno.EROFS, view.mknod, version, b"x", stat.S_IFREG, ME)
    refused(errno.EROFS, view.symlink, version, b"x", b"y", ME)
    refused(errno.EROFS, view.link, run, version, b"x")
    refused(errno.EROFS, view.unlink, version, b"run")
    refused(errno.EROFS, view.rmdir, version, b"empty")
    refused(errno.EROFS, view.rename, version, b"run", version, b"x", 0)
    refused(errno.EROFS, view.setattr, run, SetAttr(SET_MODE, mode=0o600), None, ME)
    refused(errno.EROFS, view.setxattr, run, b"user.x", b"y", 0)
    refused(errno.EROFS, view.removexattr, run, b"user.artifactfs.digest")
    refused(errno.EROFS, view.mkdir, ROOT, b"new", 0o755, ME)


def test_what_is_opened_as_something_else_is_refused(repository, tree):
    put(repository, tree)
    view = make(repository)
    refused(errno.EISDIR, view.open, walk(view, "data/v0/images").node, os.O_RDONLY, ME)
    refused(errno.EISDIR, view.open, walk(view, "data/v0").node, os.O_RDONLY, ME)
    refused(errno.ENOTDIR, view.opendir, walk(view, "data/v0/run").node, ME)
    refused(errno.ENOTDIR, view.lookup, walk(view, "data/v0/run").node, b"x")
    refused(errno.EINVAL, view.readlink, walk(view, "data/v0/run").node)
    refused(errno.EBADF, view.read, 4, 0, 1)


def test_extended_attributes_say_what_a_file_is(repository, tree):
    version = put(repository, tree, description="text", metadata={"rows": 3}, aliases=("best",), type="model")
    view = make(repository)

    def attributes(path):
        node = walk(view, path).node
        assert view.listxattr(node) == []
        found = {}
        for name in ("artifact", "version", "type", "digest", "description", "metadata", "aliases", "cached"):
            with suppress(OSError):
                found[name] = view.getxattr(node, f"user.artifactfs.{name}".encode())
        return found

    whole = attributes("data/v0")
    assert whole["artifact"] == b"data"
    assert whole["version"] == b"v0"
    assert whole["type"] == b"model"
    assert whole["digest"] == format_digest(version.digest).encode()
    assert whole["description"] == b"text"
    assert json.loads(whole["metadata"]) == {"rows": 3}
    assert whole["aliases"] == b"best,latest"
    entry = repository.entry(version, "run")
    assert attributes("data/v0/run")["digest"] == format_digest(entry.digest).encode()
    assert attributes("data/v0/run")["cached"] == b"1"
    assert attributes("data/best") == whole
    refused(errno.ENODATA, view.getxattr, walk(view, "data/v0/run").node, b"user.other")
    refused(errno.ENODATA, view.getxattr, walk(view, "data/v0/run").node, b"security.capability")


def test_the_mount_explains_itself(repository, tree):
    put(repository, tree, metadata={"rows": 3})
    view = make(repository)
    assert names(view, ".artifactfs") == ["info", "metrics", "status.json"]
    assert names(view, ".artifactfs/info") == ["data"]
    assert names(view, ".artifactfs/info/data") == ["v0.json"]
    assert json.loads(content(view, ".artifactfs/status.json"))["pid"] == 7
    assert b"artifactfs_reads_total 3" in content(view, ".artifactfs/metrics")
    info = json.loads(content(view, ".artifactfs/info/data/v0.json"))
    assert (info["version"], info["metadata"], info["files"]) == ("v0", {"rows": 3}, 1503)
    assert walk(view, ".artifactfs/info/data/v0.json").size == len(content(view, ".artifactfs/info/data/v0.json"))
    refused(errno.ENOENT, walk, view, ".artifactfs/nope")
    refused(errno.ENOENT, walk, view, ".artifactfs/info/data/v7.json")


def test_a_damaged_file_is_an_error_that_names_it_and_the_others_are_read(repository, tree, tmp_path, caplog):
    (tree / "big").write_bytes(os.urandom(3 << 20))
    put(repository, tree)
    pack = max((tmp_path / "repository").rglob("*.pack"), key=lambda path: path.stat().st_size)
    entry = repository.entry(repository.registry.versions("data")[0], "big")
    place = repository.registry.locate([entry.digest])[entry.digest]
    assert place.pack in pack.name
    with pack.open("r+b") as file:
        file.seek(place.offset + 12345)
        byte = file.read(1)[0]
        file.seek(place.offset + 12345)
        file.write(bytes([byte ^ 1]))
    view = make(repository)
    with pytest.raises(Integrity):
        content(view, "data/v0/big")
    assert "data:v0/big: " in caplog.text
    assert b"damaged" in view.getxattr(walk(view, "data/v0/big").node, b"user.artifactfs.last_error")
    assert content(view, "data/v0/images/0001.png") == b"png1"
    refused(errno.ENODATA, view.getxattr, walk(view, "data/v0/run").node, b"user.artifactfs.last_error")


def test_reads_and_bytes_are_counted(repository, tree):
    (tree / "big").write_bytes(os.urandom(2 << 20))
    put(repository, tree)
    repository.close()
    with Repository.open(repository.location) as opened:
        view = make(opened)
        assert view.counters() == {"reads": 0, "bytes_served": 0, "bytes_fetched": 0}
        node = walk(view, "data/v0/big").node
        before = view.counters()["bytes_fetched"]
        file = view.open(node, os.O_RDONLY, ME)
        for offset in range(0, 2 << 20, 1 << 18):
            view.read(file.fh, offset, 1 << 18)
        # Served in pieces, fetched once as a whole: it is one chunk.
        assert view.counters() == {"reads": 8, "bytes_served": 2 << 20, "bytes_fetched": before + (2 << 20)}


def test_statfs_is_the_disk_s(repository):
    numbers = make(repository).statfs(ROOT)
    real = os.statvfs(repository.location)
    assert (numbers.bsize, numbers.blocks) == (real.f_frsize, real.f_blocks)
