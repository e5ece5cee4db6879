"""The View and the registry that it follows: what a mount asks, tells the kernel, and answers when the registry is out of reach."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable

import pytest

from artifactfs.draft import Draft
from artifactfs.errors import Unavailable
from artifactfs.mount.contract import ROOT, Caller
from artifactfs.mount.sources import Sources
from artifactfs.mount.staging import Staging
from artifactfs.mount.view import View
from artifactfs.mount.workspace import Workspace
from artifactfs.repository import Repository
from tests.conftest import eventually
from tests.mount.scripted import ScriptedRegistry

ME = Caller(0, 0, 1)
MANY = 300


class Kernel:
    """Names that the View has had it forget."""

    def __init__(self) -> None:
        self.forgotten: list[tuple[int, bytes]] = []

    def inval_entry(self, parent: int, name: bytes) -> None:
        self.forgotten.append((parent, name))

    def inval_inode(self, node: int) -> None:
        pass


@pytest.fixture
def repository(tmp_path):
    with Repository.create(str(tmp_path / "repository")) as opened:
        yield opened


@pytest.fixture
def registry(repository):
    """Between the View and the repository's own."""
    repository.registry = ScriptedRegistry(real := repository.registry)
    yield repository.registry
    repository.registry.close()
    repository.registry = real


@pytest.fixture
def kernel():
    return Kernel()


@pytest.fixture
def make(repository, registry, kernel, tmp_path):
    workspaces = []

    def view(*, staging: bool = False) -> View:
        if staging:
            workspace = Workspace(tmp_path / "workspace")
            workspaces.append(
                Staging(workspace, repository.trees, repository.reader, Sources(repository), uid=1, gid=2)
            )
        made = View(
            repository, workspaces[-1] if staging else None, pins={}, uid=1, gid=2, status=lambda: {"online": True}
        )
        made.notifier = kernel
        return made

    yield view
    for staging in workspaces:
        staging.close()


@pytest.fixture
def put(repository, registry, tmp_path) -> Callable[[str, str], str]:
    (tmp_path / "source").mkdir()

    def put(name: str, text: str) -> str:
        (tmp_path / "source/file").write_text(text)
        draft = Draft(repository)
        draft.add(tmp_path / "source")
        return draft.commit(name).version.name

    return put


def delete(repository, name: str, number: int) -> None:
    path = os.path.join(repository.location, "registry.db")
    of = "artifact IN (SELECT id FROM artifact WHERE name = ?) AND number = ?"
    with sqlite3.connect(path) as database:
        database.execute(f"DELETE FROM alias WHERE version IN (SELECT id FROM version WHERE {of})", (name, number))  # noqa: S608
        database.execute(f"UPDATE version SET deleted = 1 WHERE {of}", (name, number))  # noqa: S608
        database.execute("UPDATE project SET revision = revision + 1")
    database.close()


def node_of(view, *path):
    node = ROOT
    for part in path:
        node = view.lookup(node, part.encode()).node
    return node


def read(view, *path):
    opened = view.open(node_of(view, *path), os.O_RDONLY, ME)
    data = b"".join(view.read(opened.fh, 0, 1 << 20))
    view.release(opened.fh)
    return data


def listing(view, node):
    opened = view.opendir(node, ME)
    names = [name.decode() for name, _ in view.readdir(node, opened.fh, 0)]
    view.releasedir(opened.fh)
    return names


def test_opening_many_artifacts_again_asks_and_fetches_nothing(registry, put, make):
    for number in range(MANY):
        put(f"data{number}", f"{number}")
    view = make()

    def open_all():
        assert len(listing(view, ROOT)) == MANY + 1
        for number in range(MANY):
            artifact = node_of(view, f"data{number}")
            assert listing(view, artifact) == ["v0", "latest"]
            assert view.readlink(view.lookup(artifact, b"latest").node) == b"v0"
            assert read(view, f"data{number}", "v0", "file") == b"%d" % number
            assert view.getxattr(node_of(view, f"data{number}", "v0"), b"user.artifactfs.version") == b"v0"

    assert registry.asked(open_all) == {"artifacts": 1, "versions": MANY}
    fetched = view.counters()["bytes_fetched"]
    assert registry.asked(open_all) == {}
    assert view.counters()["bytes_fetched"] == fetched


def test_what_vanished_is_forgotten_by_the_kernel(repository, put, make, kernel):
    for text in ("0", "1"):
        put("data", text)
        put("other", text)
    put("short", "lived")
    view = make()
    parents = {name: node_of(view, name) for name in ("data", "other", "short")}
    for name in parents:
        node_of(view, name, "v0")
    delete(repository, "data", 0)
    delete(repository, "short", 0)
    listing(view, ROOT)
    view.refresh()
    assert sorted(kernel.forgotten) == sorted([(ROOT, b"short"), (parents["short"], b"v0"), (parents["data"], b"v0")])
    view.refresh()
    assert len(kernel.forgotten) == 3


def test_a_started_view_follows_and_its_stop_does_not_wait(registry, put, make, kernel, repository):
    put("data", "0")
    put("data", "1")
    view = make()
    artifact = node_of(view, "data")
    node_of(view, "data", "v0")
    view.start()
    eventually(lambda: registry.calls["changed"] == 2)
    delete(repository, "data", 0)
    eventually(lambda: kernel.forgotten == [(artifact, b"v0")])
    registry.down = "no network"
    eventually(lambda: view.outage() is not None and view.outage().reason == "no network")
    registry.down = ""
    eventually(lambda: view.outage() is None)
    view.stop()
    put("data", "2")
    delete(repository, "data", 1)
    assert kernel.forgotten == [(artifact, b"v0")]


def test_out_of_reach_what_was_seen_is_shown_and_the_rest_fails_at_once(registry, put, make):
    put("seen", "text")
    put("listed", "text")
    view = make()
    assert read(view, "seen", "v0", "file") == b"text"
    registry.down = "no network"
    assert read(view, "seen", "v0", "file") == b"text"
    assert listing(view, ROOT) == [".artifactfs", "listed", "seen"]
    with pytest.raises(Unavailable, match="no network"):
        listing(view, node_of(view, "listed"))
    with pytest.raises(FileNotFoundError):
        node_of(view, "absent")


def test_staging_follows_also_when_one_area_cannot(repository, registry, put, make, monkeypatch):
    for name in ("a", "b", "c"):
        put(name, f"old {name}")
    view = make(staging=True)
    for name in ("a", "b", "c"):
        assert read(view, name, "staging", "file") == b"old " + name.encode()
    view.refresh()
    for name in ("a", "b", "c"):
        put(name, f"new {name}")
    broken = repository.registry.versions("b")[1].digest
    scan = repository.trees.scan

    def scan_unless_broken(directory, *position):
        if directory == broken:
            raise Unavailable("no network")
        return scan(directory, *position)

    monkeypatch.setattr(repository.trees, "scan", scan_unless_broken)
    with pytest.raises(Unavailable):
        view.refresh()
    assert [read(view, name, "staging", "file") for name in ("a", "b", "c")] == [b"new a", b"old b", b"new c"]
    monkeypatch.undo()
    view.refresh()
    assert read(view, "b", "staging", "file") == b"new b"
