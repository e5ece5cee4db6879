"""Tokens in a registry: made, found, ended; compared in constant time; and the commands that do so."""

from __future__ import annotations

import hmac
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from artifactfs.errors import InvalidInput, NotFound
from artifactfs.model.access import split
from artifactfs.registry import tokens
from artifactfs.registry.sql import SQLRegistry

DAY = 86_400.0


@pytest.fixture
def now() -> list[float]:
    return [1_000_000.0]


@pytest.fixture
def registry(tmp_path: Path, now: list[float]) -> Iterator[SQLRegistry]:
    with closing(SQLRegistry(tmp_path / "registry.db", create=True, clock=lambda: now[0])) as opened:
        yield opened


def test_a_token_is_found_by_its_id_and_proved_by_its_secret(registry):
    assert not registry.tokens.exist()
    new = registry.tokens.create(project="bikes", role="write", name="ci", seconds=DAY)
    assert registry.tokens.exist()
    text = split(new.token)
    assert text is not None
    kept = registry.tokens.find(text.id)
    assert kept is not None
    assert kept.record == new.record
    assert (new.record.project, new.record.role, new.record.name) == ("bikes", "write", "ci")
    assert tokens.proves(kept, text)
    assert not tokens.proves(kept, text._replace(secret=text.secret[::-1]))
    assert not tokens.proves(None, text)
    assert registry.tokens.find("absent12") is None


def test_of_a_token_its_hash_is_kept_alone(registry, tmp_path):
    new = registry.tokens.create(project="", role="admin")
    registry.close()
    with closing(sqlite3.connect(tmp_path / "registry.db")) as file:
        rows = file.execute("SELECT * FROM token").fetchall()
    assert new.record.id in str(rows)
    secret = new.token[13:].encode()
    assert all(secret not in path.read_bytes() for path in tmp_path.iterdir())
    assert new.token not in repr(new)


def test_secrets_are_compared_in_constant_time(registry, monkeypatch):
    compared = []

    def counted(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", counted)
    new = registry.tokens.create(project="", role="read")
    text = split(new.token)
    assert text is not None
    kept = registry.tokens.find(text.id)
    assert tokens.proves(kept, text)
    assert not tokens.proves(None, text)
    # Also of one that is not there, and hashes of one length: nothing is told by the time it takes.
    assert [(len(one), len(other)) for one, other in compared] == [(32, 32), (32, 32)]


def test_a_token_ends(registry, now):
    short = registry.tokens.create(project="a", role="read", seconds=10).record
    never = registry.tokens.create(project="a", role="read").record
    assert [each.ended(registry.tokens.now()) for each in (short, never)] == ["", ""]
    now[0] += 10
    assert short.ended(registry.tokens.now()) == "has expired"
    assert never.ended(registry.tokens.now()) == ""
    now[0] += 1000
    ended = registry.tokens.revoke(never.id)
    assert ended.ended(registry.tokens.now()) == "was revoked"
    now[0] += 1
    assert registry.tokens.revoke(never.id) == ended
    with pytest.raises(NotFound):
        registry.tokens.revoke("absent12")
    assert [each.id for each in registry.of_project("b").tokens.records()] == [
        each.id for each in sorted((short, ended), key=lambda record: (record.created, record.id))
    ]


@pytest.mark.parametrize(
    "wrong", [{"role": "owner"}, {"project": "a/b"}, {"name": "a\nb"}, {"name": "x" * 256}, {"seconds": 0.0}, {"seconds": 1e12}]
)  # fmt: skip
def test_wrong_words_make_no_token(registry, wrong):
    words = {"project": "a", "role": "read", **wrong}
    with pytest.raises(InvalidInput):
        registry.tokens.create(**words)
    assert not registry.tokens.exist()


# -- commands ----------------------------------------------------------------------------------------------------------


def test_create_prints_the_token_alone_or_writes_it_for_its_owner(cli, tmp_path):
    printed = cli("token", "create", "--role", "admin", "--all-projects")
    assert split(printed.stdout.strip()) is not None
    assert len(printed.lines) == 1
    file = tmp_path / "ci.token"
    written = cli("token", "create", "--role", "write", "--project", "bikes", "--name", "nightly", "--output", file)
    assert written.stdout == ""
    assert file.stat().st_mode & 0o777 == 0o600
    text = split(file.read_text().strip())
    assert text is not None
    assert text.secret not in written.stderr
    before = file.read_text()
    message = cli.refuses("token", "create", "--role", "read", "--output", file, status=2)
    assert "is there already" in message
    assert file.read_text() == before
    found = json.loads(cli("token", "list", "--json").stdout)
    assert [(each["role"], each["project"], each["name"]) for each in found] == [
        ("admin", "", ""),
        ("write", "bikes", "nightly"),
    ]
    assert text.secret not in cli("token", "list").stdout
    assert f"revoked {text.id}" in cli("token", "revoke", text.id).stdout
    assert "revoked" in cli("token", "list").lines[2]


def test_no_link_and_no_umask_gives_a_token_to_others(cli, tmp_path):
    for target in (tmp_path / "theirs", tmp_path / "absent"):
        (tmp_path / "theirs").write_text("theirs")
        link = tmp_path / "link"
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        assert "is there already" in cli.refuses("token", "create", "--role", "read", "--output", link, status=2)
        assert (tmp_path / "theirs").read_text() == "theirs"
        assert not (tmp_path / "absent").exists()
    before = os.umask(0)
    try:
        cli("token", "create", "--role", "read", "--output", tmp_path / "token")
    finally:
        os.umask(before)
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    # What could not be written made no token.
    assert len(json.loads(cli("token", "list", "--json").stdout)) == 1


def test_commands_say_what_is_wrong(cli):
    assert "exclude each other" in cli.refuses(
        "token", "create", "--role", "read", "--project", "a", "--all-projects", status=2
    )
    assert "not a time to live" in cli.refuses("token", "create", "--role", "read", "--expires", "soon", status=2)
    cli("init")
    assert "no token" in cli.refuses("token", "revoke", "absent12")
    assert "takes the id of a token" in cli.refuses("token", "revoke", "afs_" + "a" * 52, status=2)
