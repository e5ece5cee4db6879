"""put, get, ls, show, log, alias, edit, verify, init: what a person sees on the two streams and as exit status."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from artifactfs.draft import Draft
from artifactfs.errors import ArtifactFSError
from artifactfs.repository import Repository


@pytest.fixture
def bikes(cli) -> Path:
    """A small directory with everything that an artifact keeps."""
    root = cli.home / "bikes"
    (root / "images" / "empty").mkdir(parents=True)
    (root / "images" / "cat.png").write_bytes(bytes(range(256)) * 40)
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "labels.csv").write_text("name,label\ncat,1\n")
    (root / "link").symlink_to("labels.csv")
    return root


def files_of(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): os.readlink(path) if path.is_symlink() else path.read_bytes().hex()
        for path in sorted(directory.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


# -- put ---------------------------------------------------------------------------------------------------------------


def test_put_prints_the_version_and_nothing_else(cli, bikes):
    finished = cli("put", "bike-dataset", bikes)
    assert finished.stdout == "bike-dataset:v0\n"
    where = cli.home / ".local/share/artifactfs/repository"
    made, summary = finished.stderr.splitlines()
    assert made == f"made a new repository in {where}"
    assert re.fullmatch(r"4 files, 10\.0 KiB read, [0-9.]+ K?i?B stored", summary)


def test_put_of_the_same_contents_makes_no_version(cli, bikes):
    cli("put", "bike-dataset", bikes)
    finished = cli("put", "bike-dataset", bikes, "--alias", "best")
    assert finished.stdout == "bike-dataset:v0\n"
    assert finished.stderr == ("4 files, 10.0 KiB read, 0 B stored\nunchanged: same contents as bike-dataset:v0\n")
    assert cli("ls", "bike-dataset", "--json").stdout.count('"version"') == 1
    assert "best" in cli("show", "bike-dataset:best").stdout


def test_put_of_an_older_version_says_so_and_names_edit(cli, bikes):
    cli("put", "bike-dataset", bikes)
    (bikes / "new").write_text("new")
    assert cli("put", "bike-dataset", bikes).stdout == "bike-dataset:v1\n"
    (bikes / "new").unlink()
    finished = cli("put", "bike-dataset", bikes, "--description", "as before")
    assert finished.stdout == "bike-dataset:v0\n"
    assert "same contents as the older bike-dataset:v0, which is latest again" in finished.stderr
    assert "artifactfs edit bike-dataset:v0" in finished.stderr
    assert json.loads(cli("show", "bike-dataset", "--json").stdout)["description"] == ""


def test_put_names_files_directories_and_references(cli, bikes):
    cli(
        "put", "mix", bikes / "labels.csv", f"{bikes / 'run.sh'}=bin/start", f"{bikes / 'images'}=pictures",
        "--reference", "s3://bucket/raw.bin", "--reference", "https://host/x?a=b", "--reference", "s3://bucket/y=refs/y",
        "--no-checksum",
        "--type", "model", "--alias", "best", "--alias", "prod", "--metadata", "rows=17379", "--metadata", "note=a=b",
        "--metadata", 'list=[1, "two"]', "--metadata", "nan=NaN", "--description", "first\nsecond",
    )  # fmt: skip
    assert sorted(line[14:] for line in cli("ls", "-R", "mix:v0").lines) == sorted([
        "bin/", "bin/start*", "labels.csv", "pictures/", "pictures/cat.png", "pictures/empty/",
        "raw.bin -> s3://bucket/raw.bin", "refs/", "refs/y -> s3://bucket/y", "x -> https://host/x?a=b",
    ])  # fmt: skip
    shown = json.loads(cli("show", "mix:prod", "--json").stdout)
    assert shown["type"] == "model"
    assert shown["aliases"] == ["best", "latest", "prod"]
    assert shown["description"] == "first\nsecond"
    assert shown["metadata"] == {"rows": 17379, "note": "a=b", "list": [1, "two"], "nan": None}


def test_put_records_what_is_known_of_references(cli, bikes):
    cli("put", "raw", "--reference", f"{bikes.as_uri()}=raw")
    entries = {entry["path"]: entry for entry in json.loads(cli("ls", "-R", "raw", "--json").stdout)}
    assert entries["raw/labels.csv"]["size"] == (bikes / "labels.csv").stat().st_size
    assert cli("get", "raw").stdout
    message = cli.refuses("put", "raw", "--reference", f"{bikes.as_uri()}=raw", "--max-objects", "1", status=2)
    assert "has more than 1 object" in message
    assert "--max-objects" in message
    message = cli.refuses("put", "raw", "--reference", "file:///gone/a", "--reference", "file:///gone/b")
    assert "2 paths cannot be stored; nothing was committed" in message
    assert "file:///gone/b" in message
    assert "--no-checksum records the URI alone" in message
    assert cli("put", "raw", "--reference", "file:///gone/a", "--no-checksum").stdout == "raw:v1\n"


def test_put_names_every_bad_path_and_commits_nothing(cli, bikes):
    missing = [cli.home / f"missing{number:02}" for number in range(25)]
    message = cli.refuses("put", "bike-dataset", bikes, *missing)
    heading, *named, rest = message.splitlines()
    assert heading.endswith("25 paths cannot be stored; nothing was committed:")
    assert [line.strip() for line in named] == [
        f"cannot read {path}: no such file or directory" for path in missing[:20]
    ]
    assert rest == "  and 5 more"
    assert not (cli.home / ".local/share").exists()


def test_put_names_bad_files_inside_directories(cli, bikes):
    cli("init")
    os.mkfifo(bikes / "pipe")
    (bikes / "images" / "out").symlink_to("/etc/passwd")
    message = cli.refuses("put", "bike-dataset", bikes)
    assert "2 files cannot be stored; nothing was committed" in message
    assert f"{bikes}/pipe: a FIFO cannot be stored" in message
    assert f"{bikes}/images/out: the symlink points outside the artifact" in message
    assert "no artifact 'bike-dataset'" in cli.refuses("ls", "bike-dataset")


def test_get_names_symlinks_that_lead_out_of_the_version(cli, bikes, monkeypatch):
    (bikes / "images" / "out").symlink_to("/nowhere/x\033[1m")
    cli("init")
    monkeypatch.setattr("artifactfs.building.leaves_artifact", lambda directory, target: False)
    with Repository.open(str(cli.home / ".local/share/artifactfs/repository")) as repository:
        draft = Draft(repository)  # of a client that keeps no rule
        draft.add(bikes)
        draft.commit("bike-dataset")
    done = cli("get", "bike-dataset", cli.home / "back")
    note = "this symlink leads out of the version, so do not write through it: images/out -> /nowhere/x\\x1b[1m"
    assert note in done.stderr.splitlines()
    assert os.readlink(cli.home / "back/images/out") == "/nowhere/x\033[1m"


def test_follow_links_stores_what_they_point_to(cli, bikes):
    (cli.home / "outside").write_text("from outside")
    (bikes / "out").symlink_to(cli.home / "outside")
    cli("put", "bike-dataset", bikes, "--follow-links")
    cli("get", "bike-dataset", cli.home / "back")
    assert (cli.home / "back" / "out").read_text() == "from outside"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bad name", "."], "'bad-name' would do"),
        (["..", "."], "reserved"),
        (["n"], "nothing to put"),
        (["n:best", "."], "--alias best"),
        (["n", ".", "--alias", "v3"], "version number"),
        (["n", ".", "--alias", "a/b"], "not an alias"),
        (["n", ".", "--alias", "staging"], "reserved"),
        (["n", ".", "--type", "a/b"], "not a type"),
        (["n", ".", "--metadata", "rows"], "KEY=VALUE"),
        (["n", ".", "--metadata", "a=1", "--metadata", "a=2"], "twice"),
        (["n", ".", "--metadata", "a=Infinity"], "infinite"),
        (["n", "bikes=../up"], "not a path inside an artifact"),
        (["n", "bikes=/abs"], "absolute"),
        (["n", "=name"], "not a source"),
        (["n", ".", "--no-such"], "see artifactfs put --help"),
    ],
)
def test_wrong_words_are_wrong_usage(cli, bikes, words, said):
    assert said in cli.refuses("put", *words, status=2)
    assert not (cli.home / ".local/share").exists()


def test_the_type_of_an_artifact_stays(cli, bikes):
    cli("put", "bike-dataset", bikes, "--type", "model")
    assert "has the type 'model', not 'result'" in cli.refuses(
        "put", "bike-dataset", bikes / "run.sh", "--type", "result"
    )


# -- get ---------------------------------------------------------------------------------------------------------------


def test_get_writes_what_was_put_and_keeps_what_is_right(cli, bikes):
    cli("put", "bike-dataset", bikes)
    finished = cli("get", "bike-dataset", cwd=cli.home)
    assert finished.stdout == "bike-dataset-v0\n"
    assert finished.stderr == "4 files written (10.0 KiB), 0 kept\n"
    copy = cli.home / "bike-dataset-v0"
    assert files_of(copy) == files_of(bikes)
    assert os.access(copy / "run.sh", os.X_OK)
    assert (copy / "images" / "empty").is_dir()
    (copy / "labels.csv").write_text("name,label\nbat,1\n")
    assert cli("get", "bike-dataset:v0", copy).stderr == "1 file written (17 B), 3 kept\n"
    assert files_of(copy) == files_of(bikes)


def test_get_of_a_path(cli, bikes):
    cli("put", "bike-dataset", bikes)
    assert cli("get", "bike-dataset:latest/images/cat.png", "out").stdout == "out\n"
    assert files_of(cli.home / "out") == {"images/cat.png": (bikes / "images/cat.png").read_bytes().hex()}


def test_get_into_a_file_is_refused(cli, bikes):
    cli("put", "bike-dataset", bikes)
    (cli.home / "file").write_text("mine")
    said = cli.refuses("get", "bike-dataset", cli.home / "file")
    assert said == f"cannot write below {cli.home / 'file'}: it is no directory; name another place"
    assert (cli.home / "file").read_text() == "mine"


def test_get_says_what_is_missing(cli, bikes):
    cli("put", "bike-dataset", bikes)
    assert "did you mean bike-dataset?" in cli.refuses("get", "bike-datase")
    assert "it has v0, aliases latest" in cli.refuses("get", "bike-dataset:v7")
    assert "has no 'nope'" in cli.refuses("get", "bike-dataset:v0/nope")
    assert "not an address" in cli.refuses("get", "bike-dataset:v0/../up", status=2)


def test_get_leaves_damage_out_and_names_it(cli, bikes):
    cli("put", "bike-dataset", bikes)
    damage(cli.home / ".local/share/artifactfs/repository/store", (bikes / "labels.csv").read_bytes())
    finished = cli.run("get", "bike-dataset", "out")
    assert finished.status == 1
    assert finished.stdout == ""
    assert "bike-dataset:v0/labels.csv" in finished.stderr
    assert sorted(files_of(cli.home / "out")) == ["images/cat.png", "link", "run.sh"]


def damage(store: Path, data: bytes) -> None:
    """Change one stored byte of a small file, which lies as it is in a pack."""
    for pack in store.rglob("*.pack"):
        stored = pack.read_bytes()
        if data in stored:
            place = stored.index(data)
            pack.chmod(0o600)
            pack.write_bytes(stored[:place] + bytes([stored[place] ^ 1]) + stored[place + 1 :])
            return
    raise AssertionError("not stored as it is")


# -- ls, show, log -----------------------------------------------------------------------------------------------------


def test_ls_before_anything_was_put(cli):
    finished = cli("ls")
    assert (finished.stdout, finished.stderr) == ("", "no artifacts yet; make one with: artifactfs put NAME PATH\n")
    assert cli("ls", "--json").stdout == "[]\n"


def test_ls_of_artifacts_versions_and_entries(cli, bikes):
    cli("put", "bike-dataset", bikes, "--description", "first\nmore")
    cli("put", "bike-model", bikes / "run.sh", "--type", "model")
    heading, dataset, model = (line.split() for line in cli("ls").lines)
    assert heading == ["NAME", "TYPE", "LATEST", "VERSIONS", "CREATED"]
    assert dataset[:4] == ["bike-dataset", "dataset", "v0", "1"]
    assert model[:4] == ["bike-model", "model", "v0", "1"]
    assert [item["name"] for item in json.loads(cli("ls", "--json").stdout)] == ["bike-dataset", "bike-model"]
    heading, version = cli("ls", "bike-dataset", "--bytes").lines
    assert heading.split() == ["VERSION", "SIZE", "FILES", "CREATED", "ALIASES", "DESCRIPTION"]
    assert version.split()[:3] == ["v0", "10267", "4"]
    assert version.split()[-2:] == ["latest", "first"]
    assert cli("ls", "bike-dataset:v0").lines == [
        "    10.0 KiB  images/",
        "        17 B  labels.csv",
        "           -  link -> labels.csv",
        "        10 B  run.sh*",
    ]
    assert cli("ls", "bike-dataset/images", "--bytes").lines == ["       10240  cat.png", "           0  empty/"]
    assert cli("ls", "bike-dataset:v0/labels.csv").lines == ["        17 B  labels.csv"]
    entries = json.loads(cli("ls", "-R", "bike-dataset:v0", "--json").stdout)
    assert [entry["path"] for entry in entries] == [
        "images", "images/cat.png", "images/empty", "labels.csv", "link", "run.sh"
    ]  # fmt: skip
    assert entries[-1]["executable"] is True
    assert entries[4] == {"path": "link", "kind": "symlink", "target": "labels.csv"}


def test_names_cannot_drive_the_terminal(cli, bikes):
    (bikes / "a\nb\x1b[2J").write_text("x")
    cli("put", "bike-dataset", bikes, "--description", "\x1b[31mred")
    assert "         1 B  a\\nb\\x1b[2J" in cli("ls", "bike-dataset:v0").lines
    for words in (["ls", "bike-dataset"], ["show", "bike-dataset"], ["log", "bike-dataset"]):
        assert "\x1b" not in cli(*words).stdout


def test_show_of_a_version_and_of_a_path(cli, bikes):
    cli("put", "bike-dataset", bikes, "--metadata", "rows=3", "--metadata", "who=me")
    text = cli("show", "bike-dataset").stdout
    assert "size         10.0 KiB (10,267 bytes)\n" in text
    assert "metadata\n  rows = 3\n  who = me\n" in text
    shown = json.loads(cli("show", "bike-dataset:v0/run.sh", "--json").stdout)
    assert shown["kind"] == "file"
    assert shown["executable"] is True
    assert shown["digest"].startswith("blake3:")
    by_digest = json.loads(cli("show", "bike-dataset", "--json").stdout)["digest"]
    assert json.loads(cli("show", f"bike-dataset@{by_digest}", "--json").stdout)["version"] == "v0"


def test_log_is_newest_first(cli, bikes):
    cli("put", "bike-dataset", bikes, "--description", "one")
    (bikes / "new").write_text("new")
    cli("put", "bike-dataset", bikes, "--description", "two", "--alias", "best")
    lines = cli("log", "bike-dataset").lines
    assert lines[0] == "bike-dataset:v1  (best, latest)"
    assert "bike-dataset:v0" in lines
    assert [item["description"] for item in json.loads(cli("log", "bike-dataset", "--json").stdout)] == ["two", "one"]
    assert "no artifact 'nope'" in cli.refuses("log", "nope")


def test_diff_of_versions(cli, bikes):
    cli("put", "bike-dataset", bikes)
    (bikes / "labels.csv").write_text("changed")
    (bikes / "images" / "empty").rmdir()
    (bikes / "new").mkdir()
    (bikes / "new" / "file").write_text("12345")
    cli("put", "bike-dataset", bikes)
    expected = ["D\timages/empty/", "M\tlabels.csv", "A\tnew/", "A\tnew/file"]
    assert cli("diff", "bike-dataset:v0", "bike-dataset:v1").lines == expected
    assert cli("diff", "bike-dataset:v0").lines == expected
    assert cli("diff", "bike-dataset:v0/images", "bike-dataset:v1/images").lines == ["D\tempty/"]
    finished = cli.run("diff", "bike-dataset:v0", "bike-dataset:v1", "--exit-code", "--stat", "--json")
    assert finished.status == 1
    assert json.loads(finished.stdout)["added"] == {"paths": 2, "bytes": 5}
    same = cli.run("diff", "bike-dataset:v1", "bike-dataset:latest", "--exit-code")
    assert (same.status, same.stdout) == (0, "")
    assert json.loads(cli("diff", "bike-dataset:v1", "bike-dataset:v0", "--json").stdout)[1] == {
        "kind": "changed", "path": "labels.csv", "size": 17
    }  # fmt: skip
    assert "is not a directory" in cli.refuses("diff", "bike-dataset:v0/run.sh", "bike-dataset:v1", status=2)


# -- alias, edit -------------------------------------------------------------------------------------------------------


def test_aliases_move_and_go(cli, bikes):
    cli("put", "bike-dataset", bikes)
    (bikes / "new").write_text("new")
    cli("put", "bike-dataset", bikes)
    assert cli("alias", "add", "bike-dataset:v0", "best", "prod").stdout == "bike-dataset:v0\n"
    assert cli("alias", "add", "bike-dataset", "best").stdout == "bike-dataset:v1\n"
    assert json.loads(cli("show", "bike-dataset:v0", "--json").stdout)["aliases"] == ["prod"]
    cli("alias", "remove", "bike-dataset", "prod")
    assert "no alias prod" in cli.refuses("alias", "remove", "bike-dataset", "best", "prod")
    assert json.loads(cli("show", "bike-dataset:best", "--json").stdout)["version"] == "v1"
    assert "latest" in cli.refuses("alias", "remove", "bike-dataset", "latest")
    assert "version number" in cli.refuses("alias", "add", "bike-dataset", "v3", status=2)
    assert "names a path" in cli.refuses("alias", "add", "bike-dataset:v0/run.sh", "best", status=2)


def test_edit_changes_what_is_said_and_not_what_is_stored(cli, bikes):
    cli("put", "bike-dataset", bikes, "--metadata", "rows=3", "--metadata", "who=me")
    before = json.loads(cli("show", "bike-dataset", "--json").stdout)
    finished = cli("edit", "bike-dataset", "--description", "new", "--metadata", "rows=4", "--remove-metadata", "who")
    assert finished.stdout == "bike-dataset:v0\n"
    after = json.loads(cli("show", "bike-dataset", "--json").stdout)
    assert after["updated"] is not None
    assert after == {**before, "description": "new", "metadata": {"rows": 4}, "updated": after["updated"]}
    assert "nothing to change" in cli.refuses("edit", "bike-dataset", status=2)
    assert "no metadata who" in cli.refuses("edit", "bike-dataset", "--remove-metadata", "who")


# -- init, verify ------------------------------------------------------------------------------------------------------


def test_init_makes_a_repository_once(cli):
    place = cli.home / "data"
    finished = cli("init", place)
    assert finished.stdout == f"{place}\n"
    assert f"export ARTIFACTFS_REPOSITORY={place}" in finished.stderr
    assert "is a repository already" in cli.refuses("init", place)
    assert "is not empty" in cli.refuses("init", cli.home, status=2)
    assert cli("init", env={"ARTIFACTFS_REPOSITORY": str(cli.home / "other")}).stdout == f"{cli.home / 'other'}\n"


def test_what_is_no_repository_is_refused(cli, bikes):
    assert "is not an ArtifactFS repository" in cli.refuses("--repository", bikes, "ls", status=2)
    assert "artifactfs init" in cli.refuses("--repository", cli.home / "nowhere", "ls")
    assert "a repository is a directory, or http" in cli.refuses("--repository", "ftp://host/x", "ls", status=2)
    cli("init", cli.home / "newer")
    (cli.home / "newer" / "repository.json").write_text('{"magic": "artifactfs-repository", "format": 3}')
    assert "format 2" in cli.refuses("--repository", cli.home / "newer", "put", "x", bikes)


def test_verify_names_damaged_files(cli, bikes):
    cli("put", "bike-dataset", bikes)
    (bikes / "new").write_text("new")
    cli("put", "bike-dataset", bikes)
    assert cli("verify").stderr.endswith(": everything is sound\n")
    damage(cli.home / ".local/share/artifactfs/repository/store", b"new")
    finished = cli.run("verify")
    assert finished.status == 1
    assert [line.split(": ")[:2] for line in finished.lines] == [["damaged", "bike-dataset:v1/new"]]
    found = json.loads(cli.run("verify", "bike-dataset", "--json").stdout)
    assert [(item["version"], item["path"]) for item in found["damages"]] == [("bike-dataset:v1", "new")]
    assert cli("verify", "bike-dataset:v0").stdout == ""


def test_errors_are_of_the_one_tree():
    assert {kind.__name__ for kind in ArtifactFSError.__subclasses__()} == {
        "NotFound", "Conflict", "InvalidInput", "ReadOnly", "Access", "Integrity", "Format", "Unavailable", "NoSpace",
    }  # fmt: skip
