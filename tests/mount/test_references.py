"""References in the View, without a kernel: what they look like, how they are read, and what is said when they cannot be."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.content.cache import CacheSettings
from artifactfs.draft import Draft
from artifactfs.errors import Access, Integrity, NotFound, Unavailable
from artifactfs.model.tree import RefEntry
from artifactfs.mount.contract import FOREVER, ROOT, Attr, Caller
from artifactfs.mount.sources import Sources, leads_into
from artifactfs.mount.view import View
from artifactfs.repository import Repository
from tests.web import Web, web_server

ME = Caller(0, 0, 1)
LARGE = bytes(range(256)) * (20 << 10)  # 5 MiB


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server() as running:
        yield running


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    settings = CacheSettings(tmp_path / "cache")
    with Repository.create(str(tmp_path / "repository"), cache=settings) as opened:
        yield opened


def put(repository: Repository, *references: tuple[str, str], checksum: bool = True) -> None:
    draft = Draft(repository)
    for uri, name in references:
        draft.add_reference(uri, name, checksum=checksum)
    draft.commit("raw")


def view_of(repository: Repository, sources: Sources | None = None) -> View:
    return View(repository, None, pins={}, uid=1, gid=2, status=lambda: {"counts": {}}, sources=sources)


def walk(view: View, path: str) -> Attr:
    attr = view.getattr(ROOT)
    for part in path.split("/"):
        attr = view.lookup(attr.node, part.encode())
    return attr


def read(view: View, path: str) -> bytes:
    opened = view.open(walk(view, path).node, os.O_RDONLY, ME)
    found = bytearray()
    while data := b"".join(view.read(opened.fh, len(found), 1 << 20)):
        found += data
    view.release(opened.fh)
    return bytes(found)


def xattr(view: View, path: str, name: str) -> bytes:
    return view.getxattr(walk(view, path).node, f"user.artifactfs.{name}".encode())


def test_a_known_scheme_is_a_file_and_an_unknown_one_a_symlink(repository: Repository, web: Web):
    put(repository, (web.put("a.csv", b"one,two\n"), "a.csv"), ("odd://host/b", "b"))
    view = view_of(repository)
    known, unknown = walk(view, "raw/v0/a.csv"), walk(view, "raw/v0/b")
    assert (known.mode, known.size, known.attr_valid) == (stat.S_IFREG | 0o644, 8, FOREVER)
    assert stat.S_ISLNK(unknown.mode)
    assert view.readlink(unknown.node) == b"odd://host/b"
    with pytest.raises(OSError, match="Invalid argument"):
        view.readlink(known.node)
    with pytest.raises(OSError) as caught:
        view.open(unknown.node, os.O_RDONLY, ME)
    assert caught.value.errno == errno.ELOOP
    listed = {name: attr.mode for name, attr in view.readdir(walk(view, "raw/v0").node, 0, 0)}
    assert listed == {b"a.csv": known.mode, b"b": unknown.mode}
    assert read(view, "raw/v0/a.csv") == b"one,two\n"


def test_attributes_of_the_vocabulary(repository: Repository, web: Web, tmp_path: Path):
    (tmp_path / "file").write_bytes(b"here")
    put(repository, (web.put("a.csv", b"one"), "a.csv"), ((tmp_path / "file").as_uri(), "file"))
    view = view_of(repository)
    assert xattr(view, "raw/v0/a.csv", "reference") == web.uri("a.csv").encode()
    assert xattr(view, "raw/v0/a.csv", "size") == b"3"
    assert xattr(view, "raw/v0/a.csv", "etag").startswith(b'"')
    assert xattr(view, "raw/v0/file", "checksum").startswith(b"blake3:")
    assert xattr(view, "raw/v0/a.csv", "cached") == b"0"
    read(view, "raw/v0/a.csv")
    assert xattr(view, "raw/v0/a.csv", "cached") == b"1"


def test_only_what_is_read_is_fetched_and_once(repository: Repository, web: Web):
    put(repository, (web.put("large", LARGE), "large"))
    web.asked.clear()
    view = view_of(repository)
    node = walk(view, "raw/v0/large").node
    opened = view.open(node, os.O_RDONLY, ME)
    assert (opened.keep_cache, opened.direct) == (True, False)
    assert web.asked.total() == 0
    assert not view.ready(opened.fh, 3 << 20, 100)
    assert b"".join(view.read(opened.fh, 3 << 20, 100)) == LARGE[3 << 20 : (3 << 20) + 100]
    assert view.ready(opened.fh, 3 << 20, 100)
    assert web.asked.total() == 1
    assert web.sent <= 1 << 20
    assert view.lseek(opened.fh, 0, os.SEEK_HOLE) == len(LARGE)
    view.release(opened.fh)
    assert read(view, "raw/v0/large") == LARGE
    before = web.sent
    assert read(view, "raw/v0/large") == LARGE
    assert web.sent == before
    assert view.counters()["bytes_fetched"] >= len(LARGE)


def test_a_changed_source_is_an_error_that_names_the_file_and_leaves_others_alone(repository: Repository, web: Web):
    put(repository, (web.put("a.csv", b"one"), "deep/a.csv"), (web.put("b.csv", b"two"), "deep/b.csv"))
    web.objects["a.csv"] = b"ONE"
    view = view_of(repository)
    with pytest.raises(Integrity, match=r"has changed.*recorded etag.*found"):
        read(view, "raw/v0/deep/a.csv")
    said = xattr(view, "raw/v0/deep/a.csv", "last_error").decode()
    assert said.startswith("raw:v0/deep/a.csv: the source http://")
    assert read(view, "raw/v0/deep/b.csv") == b"two"
    with pytest.raises(OSError, match="No data"):
        xattr(view, "raw/v0/deep/b.csv", "last_error")
    web.objects["a.csv"] = b"one"
    assert read(view, "raw/v0/deep/a.csv") == b"one"


def test_what_was_not_recorded_is_asked_at_the_open(repository: Repository, web: Web):
    put(repository, (web.put("a.csv", b"twelve bytes"), "a.csv"), checksum=False)
    assert web.asked.total() == 0
    staged = View(
        repository, _no_staging(), pins={}, uid=1, gid=2, status=lambda: {"counts": {}}
    )  # a mount that sees opens
    attr = walk(staged, "raw/v0/a.csv")
    assert (attr.size, attr.attr_valid, attr.entry_valid) == (0, 0.0, FOREVER)
    assert web.asked.total() == 0
    opened = staged.open(attr.node, os.O_RDONLY, ME)
    assert (opened.keep_cache, opened.direct) == (False, True)
    assert staged.getattr(attr.node).size == 12
    assert b"".join(staged.read(opened.fh, 0, 100)) == b"twelve bytes"
    # While it is open it stays what it was; later it is what is there then.
    web.objects["a.csv"] = b"fourteen bytes"
    other = staged.open(attr.node, os.O_RDONLY, ME)
    assert b"".join(staged.read(other.fh, 0, 100)) == b"fourteen bytes"
    assert staged.getattr(attr.node).size == 14


class _NoStaging:
    """Staging without areas, so that the View is that of a mount that can be written to."""

    def names(self) -> list[str]:
        return []


def _no_staging() -> _NoStaging:
    return _NoStaging()


def test_a_mount_without_opens_asks_when_it_is_looked_at(repository: Repository, web: Web):
    put(repository, (web.put("a.csv", b"twelve bytes"), "a.csv"), (web.uri("gone"), "gone"), checksum=False)
    view = view_of(repository)
    assert {attr.size for _, attr in view.readdir(walk(view, "raw/v0").node, 0, 0)} == {0}
    assert walk(view, "raw/v0/a.csv").size == 12
    with pytest.raises(NotFound, match="gone is not there"):
        walk(view, "raw/v0/gone")


def test_a_source_in_the_mount_itself_is_refused_without_touching_it(repository: Repository, tmp_path: Path):
    mountpoint = tmp_path / "artifacts"
    (mountpoint / "raw/v0").mkdir(parents=True)
    (mountpoint / "raw/v0/own").write_bytes(b"would wait for itself")
    (tmp_path / "link").symlink_to("artifacts/raw")
    put(
        repository,
        ((mountpoint / "raw/v0/own").as_uri(), "own"),
        ((tmp_path / "link/v0/own").as_uri(), "linked"),
    )
    view = view_of(repository, Sources(repository, str(mountpoint)))
    for name in ("own", "linked"):
        with pytest.raises(Unavailable, match="lies in this mount itself"):
            read(view, f"raw/v0/{name}")
        assert b"lies in this mount" in xattr(view, f"raw/v0/{name}", "last_error")


def test_a_mount_that_others_see_reads_no_file_of_the_machine_for_them(
    repository: Repository, web: Web, tmp_path: Path
):
    private = tmp_path / "of root.csv"
    private.write_bytes(b"not for everybody")
    put(repository, (private.as_uri(), "file.csv"), (web.put("a.csv", b"one,two\n"), "web.csv"))
    view = view_of(repository, Sources(repository, shared=True))
    link = walk(view, "raw/v0/file.csv")
    assert stat.S_ISLNK(link.mode)
    assert view.readlink(link.node) == os.fsencode(private)
    assert link.size == len(os.fsencode(private))
    assert read(view, "raw/v0/web.csv") == b"one,two\n"
    (entry,) = [
        entry
        for _, entry in repository.trees.walk(repository.registry.versions("raw")[0].digest)
        if entry.name == "file.csv"
    ]
    assert isinstance(entry, RefEntry)
    with pytest.raises(Access, match="other users see this mount"):
        Sources(repository, shared=True).open(entry)


def test_leading_into_a_directory(tmp_path: Path):
    inside = tmp_path / "inside"
    (tmp_path / "relative").symlink_to("inside/deep")
    (tmp_path / "absolute").symlink_to(inside)
    (tmp_path / "around").symlink_to("around")
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside/up").symlink_to("../inside")
    for path in ("inside", "inside/x", "relative", "absolute/y", "beside/up/z", "beside/../inside"):
        assert leads_into(str(tmp_path / path), str(inside)), path
    for path in ("", "insider", "beside/x", "around/x", "inside/../beside"):
        expected = path == "inside/../beside"  # the way leads through it
        assert leads_into(str(tmp_path / path), str(inside)) is expected, path
