"""Whoever may read alone, by real commands: everything that reads works, what would change anything is refused before it begins."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.access.conftest import Guarded
from tests.conftest import Cli, clear_below


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    clear_below(tmp_path)


@pytest.fixture
def reader(guarded: Guarded, place: Path) -> Cli:
    """The command line of somebody who may read the project, in which there are two versions."""
    (place / "input").mkdir()
    for number in range(2):
        for name in ("a", "b"):
            (place / "input" / name).write_bytes(f"{name}{number}".encode() * 200_000)
        guarded.cli("put", "data", place / "input")
    guarded.token("admin", "")
    guarded.start("--scrub-days", 0)  # it would note in the registry, after a minute, how far it is
    return guarded.client(place / "reader", guarded.token("read"))


def rows(guarded: Guarded) -> list[str]:
    with closing(sqlite3.connect(f"file:{guarded.repository / 'registry.db'}?mode=ro", uri=True)) as file:
        return list(file.iterdump())


def test_whatever_reads_works_and_leaves_no_trace(guarded: Guarded, reader: Cli, place: Path):
    before = rows(guarded)
    assert "data" in reader("ls").stdout
    reader("show", "data")
    reader("log", "data")
    reader("find")
    reader("cache", "warm", "data:v0")
    reader("get", "data:v0", place / "copy")
    assert (place / "copy/a").read_bytes() == b"a0" * 200_000
    root = place / "mnt"
    reader("mount", root)
    assert (root / "data/latest/b").read_bytes() == b"b1" * 200_000
    assert sorted(os.listdir(root / "data/v0")) == ["a", "b"]
    assert reader("status").status == 0
    reader("unmount", root)
    # Tests that run beside this one kill mounts of theirs, of which it tells too.
    found = reader.run("doctor").stdout.splitlines()
    assert any(line.startswith("ok    token ") for line in found)
    assert [line for line in found if line.startswith("fail") and not line.startswith("fail  mount ")] == []
    assert rows(guarded) == before


def test_whatever_writes_is_refused(guarded: Guarded, reader: Cli, place: Path):
    root = place / "mnt"
    reader("mount", root)
    (root / "data/staging/new").write_text("new")
    before = rows(guarded)
    for words in (
        ("put", "data", place / "input"),
        ("put", "other", place / "input"),
        ("commit", root / "data/staging"),
        ("alias", "add", "data:v0", "best"),
        ("edit", "data:v0", "--description", "words"),
        ("run", "--job-type", "train", "--", "true"),
        ("token", "create", "--role", "read"),
        ("token", "list"),
    ):
        message = reader.refuses(*words)
        assert "this needs the role" in message, (words, message)
        assert "the token has the role read; ask an admin for another token" in message, (words, message)
    assert rows(guarded) == before
    # What was staged is still there, for whoever gets another token.
    assert (root / "data/staging/new").read_text() == "new"
    reader("discard", root / "data/staging")
    reader("unmount", root)
