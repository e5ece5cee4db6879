"""Retention on a server: who may what, who deleted, and rules that the server applies."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from artifactfs.errors import Conflict
from artifactfs.model.retention import RetentionRule
from tests.access.conftest import Guarded
from tests.conformance.registry import commit
from tests.conftest import Cli, eventually


@pytest.fixture
def client(guarded: Guarded, tmp_path: Path) -> Callable[[str], Cli]:
    """The command line with a token of a role."""
    with closing(guarded.registry()) as registry:
        for number in range(4):
            commit(registry, number, artifact="data")
        registry.move_aliases("data", 1, ["production"])

    def client(role: str) -> Cli:
        home = tmp_path / role
        home.mkdir(exist_ok=True)
        return guarded.client(home, guarded.token(role))

    return client


def test_admins_alone_delete_protect_and_set_rules(guarded, client):
    guarded.start()
    admin, writer = client("admin"), client("write")
    admin("alias", "protect", "production")
    for words in (
        ("delete", "data:v0"),
        ("rename", "data", "numbers"),
        ("alias", "protect", "best"),
        ("alias", "unprotect", "production"),
        ("retention", "set", "--keep-last", "1"),
        ("quota", "set", "1GB"),
    ):
        finished = writer.run(*words)
        assert "role admin, and the token has the role write" in finished.stderr + finished.stdout, words
    assert "protected" in writer.refuses("alias", "add", "data:v2", "production")
    message = writer.refuses("alias", "add", "data:v2", "production", "--protected")
    assert "with the role admin, and the token has the role write" in message
    assert "role admin" in writer.refuses("alias", "remove", "data", "production", "--protected")
    writer("alias", "add", "data:v2", "best")
    assert admin("alias", "add", "data:v2", "production", "--protected").lines == ["data:v2"]
    admin("delete", "data:v0")
    (gone,) = json.loads(client("read")("log", "data", "--deleted", "--json").stdout)
    assert gone["deleted_by"].startswith("token ")
    assert "afs_" not in gone["deleted_by"]
    admin("retention", "set", "--keep-last", "1")
    (rule,) = json.loads(client("read")("retention", "show", "--json").stdout)
    assert rule["changed_by"].startswith("token ")


def test_who_may_write_brings_back_what_an_admin_deleted(guarded, client):
    guarded.start()
    admin, writer, reader = client("admin"), client("write"), client("read")
    (writer.home / "file").write_text("content")
    writer("put", "files", writer.home / "file")
    admin("delete", "files:v0")
    assert "role write, and the token has the role read" in reader.refuses("restore", "files:v0")
    assert reader("restore", "files:v0", "--dry-run").lines == ["would restore files:v0  7 B"]
    assert writer("restore", "files:v0").lines == ["files:v1"]
    reader("get", "files", reader.home / "out")
    assert (reader.home / "out/file").read_text() == "content"


def test_a_server_applies_the_rules_that_are_kept(guarded, client):
    with closing(guarded.registry()) as registry:
        other = registry.of_project("others")
        for number in range(3):
            commit(other, number, artifact="data")
        session = registry.open_session("mount", seconds=600)
        registry.retention.hold(session, {registry.version("data", 0).id: "pinned"})
        registry.retention.set_rule(RetentionRule(keep_last=1))
        other.retention.set_rule(RetentionRule(artifact="data", keep_aliased=True))
        guarded.start("--upkeep-interval", "1m")
        # The first round comes 10 s after the start.
        eventually(lambda: len(other.versions("data")) == 1)
        eventually(lambda: len(registry.versions("data")) == 3)
        assert [version.number for version in registry.versions("data")] == [0, 1, 3]  # in use, with an alias, latest
        (gone,) = registry.retention.tombstones()
        assert (gone.name, gone.deleted_by) == ("data:v2", "a retention rule")
        with pytest.raises(Conflict):
            registry.retention.delete("data", [0])
    eventually(lambda: "deleted others/data:v1: a retention rule" in guarded.log)
