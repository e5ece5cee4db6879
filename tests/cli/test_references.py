"""`get`, `ls`, `show`, `diff` and `verify` with references: what they say of them, and what they do when a source is not as it was."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.export import export
from artifactfs.repository import Repository
from tests.conftest import Cli
from tests.web import Web, web_server

LARGE = random.Random(1).randbytes(9 << 20)


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server() as running:
        running.put("day.csv", b"day,rented\n1,985\n")
        running.put("large.bin", LARGE)
        yield running


@pytest.fixture
def raw(cli: Cli, web: Web) -> Cli:
    """``raw:v0``: a file, two references to the web, one to a local file, and one of an unknown scheme."""
    (cli.home / "notes.txt").write_text("notes\n")
    (cli.home / "local.bin").write_bytes(LARGE[::-1])
    cli(
        "put", "raw", cli.home / "notes.txt",
        "--reference", f"{web.uri('day.csv')}=in/day.csv", "--reference", f"{web.uri('large.bin')}=in/large.bin",
        "--reference", f"{(cli.home / 'local.bin').as_uri()}=in/local.bin", "--reference", "odd://host/x=in/odd",
    )  # fmt: skip
    web.asked.clear()
    return cli


def repository_of(cli: Cli) -> Path:
    return cli.home / ".local/share/artifactfs/repository"


def written(cli: Cli) -> dict[str, bytes]:
    return {
        str(path.relative_to(cli.home / "out")): path.read_bytes()
        for path in (cli.home / "out").rglob("*")
        if path.is_file()
    }


CONTENT = {
    "notes.txt": b"notes\n", "in/day.csv": b"day,rented\n1,985\n", "in/large.bin": LARGE, "in/local.bin": LARGE[::-1],
}  # fmt: skip


def test_get_fetches_them_and_lists_those_of_unknown_schemes(raw: Cli, web: Web):
    finished = raw("get", "raw", raw.home / "out")
    assert finished.stdout == f"{raw.home / 'out'}\n"
    first, second = finished.stderr.splitlines()
    assert first == "left out, as nothing here reads its scheme: in/odd -> odd://host/x"
    assert second.startswith("4 files written")
    assert written(raw) == CONTENT
    assert web.asked["HEAD day.csv"] == 0


def test_get_again_asks_for_nothing(raw: Cli, web: Web):
    raw("get", "raw", raw.home / "out")
    web.asked.clear()
    web.objects.clear()
    (raw.home / "local.bin").unlink()
    assert raw("get", "raw", raw.home / "out").stderr.splitlines()[1] == "0 files written (0 B), 4 kept"
    assert web.asked.total() == 0
    # What was changed there is not taken for the reference: of the local one by its digest, of the other one by size and time.
    os.utime(raw.home / "out/in/day.csv")
    with (raw.home / "out/in/local.bin").open("r+b") as file:
        file.write(b"x")
    said = raw.run("get", "raw", raw.home / "out")
    assert said.status == 1
    assert "1 file written (17 B), 2 kept" in said.stderr  # day.csv, from the cache
    assert "1 reference could not be had" in said.stderr
    assert web.asked.total() == 0


def test_get_of_one_path(raw: Cli):
    raw("get", "raw:v0/in/day.csv", raw.home / "out")
    assert written(raw) == {"in/day.csv": CONTENT["in/day.csv"]}


def test_what_cannot_be_had_is_named_and_all_else_is_there(raw: Cli, web: Web):
    web.objects["day.csv"] = b"day,rented\n1,986\n"
    del web.objects["large.bin"]
    said = raw.run("get", "raw", raw.home / "out")
    assert (said.status, said.stdout) == (1, "")
    lines = said.stderr.splitlines()
    assert lines[2] == f"artifactfs: 2 references could not be had; the rest is in {raw.home / 'out'}:"
    assert lines[3].startswith(f"  raw:v0/in/day.csv: the source {web.uri('day.csv')} has changed: recorded etag")
    assert lines[4].startswith(f"  raw:v0/in/large.bin: {web.uri('large.bin')} is not there")
    assert written(raw) == {name: CONTENT[name] for name in ("notes.txt", "in/local.bin")}
    assert not [path for path in (raw.home / "out/in").iterdir() if path.name.startswith(".artifactfs-")]


def test_what_stands_in_a_references_way(raw: Cli):
    (raw.home / "out/in/day.csv").mkdir(parents=True)
    assert "is in the way" in raw.run("get", "raw", raw.home / "out").stderr


def test_python_may_leave_out_what_is_missing(raw: Cli, web: Web, tmp_path: Path):
    web.objects.clear()
    with Repository.open(str(repository_of(raw)), seconds=3) as repository:
        version = repository.registry.resolve("raw", "latest")
        assert version is not None
        result = export(repository, version, "", tmp_path / "out")
    assert [text.partition(":v0/")[2].partition(":")[0] for text in result.missing] == ["in/day.csv", "in/large.bin"]
    assert result.references == ["in/odd -> odd://host/x"]
    assert (result.written, result.failures) == (2, [])


def test_ls_tells_them_from_files(raw: Cli, web: Web):
    lines = {line.split(" -> ")[0].split()[-1]: line.split() for line in raw("ls", "-l", "raw:v0/in").lines}
    assert lines["day.csv"][0] == "reference"
    assert lines["day.csv"][3].startswith('etag:"')
    assert lines["local.bin"][3].startswith("blake3:")
    assert lines["odd"][:3] == ["reference", "-", "-"]
    assert lines["odd"][-1] == "odd://host/x"
    whole = [line.split()[0] for line in raw("ls", "-l", "raw:v0").lines]
    assert whole == ["directory", "file"]
    # Without -l as ever.
    assert f"day.csv -> {web.uri('day.csv')}" in raw("ls", "raw:v0/in").stdout
    found = {entry["path"]: entry for entry in json.loads(raw("ls", "raw:v0/in", "--json").stdout)}
    assert found["day.csv"] | {"etag": None} == {
        "path": "day.csv", "kind": "reference", "uri": web.uri("day.csv"), "size": 17, "checksum": None, "etag": None,
        "version_id": None,
    }  # fmt: skip


def test_show_counts_them_and_says_what_is_known_of_one(raw: Cli, web: Web):
    text = raw("show", "raw:v0").stdout
    assert re.search(r"\nreferences +4\n", text)
    assert re.search(r"\nlogged by +no run\n", text)
    assert re.search(r"\nused by +no run\n", text)
    one = json.loads(raw("show", "raw:v0/in/day.csv", "--json").stdout)
    assert (one["kind"], one["uri"], one["size"]) == ("reference", web.uri("day.csv"), 17)
    assert one["etag"] in raw("show", "raw:v0/in/day.csv").stdout
    assert json.loads(raw("show", "raw:v0", "--json").stdout)["references"] == 4
    assert web.asked.total() == 0


def test_diff_says_what_is_recorded_otherwise(raw: Cli, web: Web):
    web.put("day.csv", b"day,rented\n1,985\n2,801\n")
    raw(
        "put", "raw", raw.home / "notes.txt", f"{raw.home / 'notes.txt'}=in/odd",
        "--reference", f"{web.uri('day.csv')}=in/day.csv", "--reference", f"{web.uri('large.bin')}=in/large.bin",
        "--reference", f"{(raw.home / 'local.bin').as_uri()}=in/local.bin",
    )  # fmt: skip
    changed, replaced = raw("diff", "raw:v0", "raw:v1").lines
    assert changed.startswith("M\tin/day.csv\tsize 17 -> 23, etag ")
    assert replaced == "M\tin/odd\treference -> file"
    assert json.loads(raw("diff", "raw:v0", "raw:v1", "--json").stdout)[1]["what"] == "reference -> file"


def test_verify_of_versions_without_references_says_so(raw: Cli):
    raw("put", "plain", f"{raw.home / 'notes.txt'}=notes.txt")
    assert raw("verify", "--references", "plain").stderr == "nothing to ask for in 1 version\n"


def test_verify_asks_sources_without_downloading(raw: Cli, web: Web):
    said = raw("verify", "--references", "raw:v0")
    assert said.stdout == ""
    assert said.stderr.splitlines() == [
        "1 reference of unknown schemes not checked",
        "asked for 3 references of 1 version: all are as recorded",
    ]
    assert web.asked == {"HEAD day.csv": 1, "HEAD large.bin": 1}
    assert web.sent == 0
    raw("put", "again", "--reference", web.uri("day.csv"))
    web.asked.clear()
    report = json.loads(raw("verify", "--references", "--json").stdout)
    assert report == {"versions": 2, "references": 3, "unrecorded": 0, "unknown": 1, "damages": []}
    assert web.asked["HEAD day.csv"] == 1  # once, though two versions have it


def test_verify_names_each_source_that_is_not_as_it_was(raw: Cli, web: Web):
    web.objects["day.csv"] = b"other"
    del web.objects["large.bin"]
    (raw.home / "local.bin").write_bytes(LARGE)
    said = raw.run("verify", "--references", "raw")
    assert said.status == 1
    first, second, third = said.stdout.splitlines()
    assert first.startswith("not as recorded: raw:v0/in/day.csv: the source ")
    assert "recorded" in first
    assert second.startswith("not as recorded: raw:v0/in/large.bin: ")
    assert "is not there" in second
    assert third.startswith("not as recorded: raw:v0/in/local.bin: the source file://")
    assert "recorded checksum blake3:" in third
    assert said.stderr.splitlines()[-1] == "asked for 3 references of 1 version: 3 not as recorded"
    # What is stored is another matter.
    assert raw("verify", "raw").stderr.endswith("everything is sound\n")


def test_verify_of_what_was_never_recorded(raw: Cli, web: Web):
    raw("put", "bare", "--no-checksum", "--reference", web.uri("day.csv"), "--reference", web.uri("gone"))
    said = raw.run("verify", "--references", "bare")
    assert said.status == 1
    assert [line.partition(": ")[2].partition(": ")[0] for line in said.stdout.splitlines()] == ["bare:v0/gone"]
    assert "2 references recorded by the URI alone" in said.stderr
