"""stage, commit, diff, discard, rebase: from a shell, standing anywhere."""

from __future__ import annotations

import json
import mmap
import os
from pathlib import Path

import pytest

from tests.conftest import end_daemon, eventually


@pytest.fixture
def staging(cli, mounted) -> Path:
    """The staging directory of bike-dataset, which has one version."""
    source = cli.home / "bikes"
    (source / "images").mkdir(parents=True)
    (source / "images" / "cat.png").write_bytes(b"cat" * 1000)
    (source / "labels.csv").write_text("name,label\n")
    cli("put", "bike-dataset", source)
    return mounted() / "bike-dataset" / "staging"


def versions(cli, name: str = "bike-dataset") -> list[str]:
    return [version["version"] for version in json.loads(cli("ls", name, "--json").stdout)]


def test_a_change_becomes_the_next_version(cli, staging):
    (staging / "new").write_text("new")
    finished = cli("commit", "--alias", "best", "--description", "more", "--metadata", "rows=3", cwd=staging)
    assert finished.stdout == "bike-dataset:v1\n"
    assert finished.stderr.startswith("1 changed file, 3 B read, ")
    assert len(finished.stderr.splitlines()) == 1
    assert (staging.parent / "latest" / "new").read_text() == "new"
    assert os.readlink(staging.parent / "best") == "v1"
    assert not (staging.parent / "v0" / "new").exists()
    shown = json.loads(cli("show", "bike-dataset:best", "--json").stdout)
    assert (shown["description"], shown["metadata"], shown["version"]) == ("more", {"rows": 3}, "v1")
    assert cli("diff", cwd=staging).stdout == ""


def test_commit_finds_the_staging_it_is_meant_for(cli, staging):
    (cli.home / "shortcut").symlink_to(staging / "images")
    for number, (words, cwd) in enumerate(
        [
            ([], staging / "images"),
            ([], cli.home / "shortcut"),
            (["bike-dataset"], cli.home),
            (["bike-dataset"], staging.parent.parent),
            ([staging], cli.home),
            ([staging.parent], cli.home),
            (["."], staging),
            ([staging / "images" / "cat.png"], cli.home),
        ],
        start=1,
    ):
        (staging / f"file{number}").write_text(str(number))
        assert cli("commit", *words, cwd=cwd).stdout == f"bike-dataset:v{number}\n"
    assert versions(cli)[-1] == "v8"


def test_what_names_no_staging_is_refused(cli, staging):
    assert "not inside a staging directory" in cli.refuses("commit", status=2)
    assert "no staging directory" in cli.refuses("commit", cwd=staging.parent / "v0", status=2)
    assert "root of a mount" in cli.refuses("commit", staging.parent.parent, status=2)
    assert "is not below a mount" in cli.refuses("commit", cli.home / "bikes")
    assert "did you mean bike-dataset?" in cli.refuses("commit", "bike-datase")
    assert "did you mean bike-dataset?" in cli.refuses("discard", "bike-datase")
    assert not (staging.parent.parent / "bike-datase").exists()
    cli("unmount")
    assert "artifactfs mount" in cli.refuses("commit", "bike-dataset")


def test_nothing_changed_makes_no_version(cli, staging):
    finished = cli("commit", "bike-dataset", "--alias", "best")
    assert finished.stdout == "bike-dataset:v0\n"
    assert "unchanged: same contents as bike-dataset:v0" in finished.stderr
    assert versions(cli) == ["v0"]
    assert os.readlink(staging.parent / "best") == "v0"


def test_contents_of_an_older_version_are_said_to_be_so(cli, staging):
    (staging / "new").write_text("new")
    cli("commit", "bike-dataset")
    (staging / "new").unlink()
    finished = cli("commit", "bike-dataset")
    assert finished.stdout == "bike-dataset:v0\n"
    assert "same contents as the older bike-dataset:v0, which is latest again" in finished.stderr
    assert os.readlink(staging.parent / "latest") == "v0"


def test_diff_is_a_path_a_line(cli, staging):
    assert cli("diff", cwd=staging).stdout == ""
    (staging / "new").mkdir()
    (staging / "new" / "file").write_text("12345")
    (staging / "labels.csv").write_text("x")
    (staging / "images" / "cat.png").unlink()
    lines = cli("diff", cwd=staging).lines
    assert lines == ["D\timages/cat.png", "M\tlabels.csv", "A\tnew/", "A\tnew/file"]
    assert cli("diff", "bike-dataset").lines == lines
    assert cli("diff", staging).lines == lines
    finished = cli.run("diff", "bike-dataset", "--exit-code", "--json")
    assert finished.status == 1
    assert [item["kind"] for item in json.loads(finished.stdout)] == ["removed", "changed", "added", "added"]
    assert cli("diff", "bike-dataset", "--stat").lines[0].split() == ["added", "2", "paths", "5", "B"]
    (area,) = json.loads(cli("status", "--json").stdout)[0]["staging"]
    assert (area["name"], area["base"], area["changes"]) == ("bike-dataset", "v0", 4)
    assert "staging     bike-dataset: 4 changes, from v0" in cli("status").stdout


def test_discard_goes_back(cli, staging):
    (staging / "labels.csv").write_text("x")
    (staging / "new").write_text("x")
    finished = cli("discard", cwd=staging)
    assert finished.stdout == ""
    assert finished.stderr.splitlines() == [
        f"{staging} is again bike-dataset:v0",
        "for a day this brings the changes back: artifactfs discard bike-dataset --undo",
    ]
    assert (staging / "labels.csv").read_text() == "name,label\n"
    assert sorted(path.name for path in staging.iterdir()) == ["images", "labels.csv"]
    assert cli("diff", "bike-dataset").stdout == ""


def test_discard_waits_for_writers(cli, staging):
    with open(staging / "labels.csv", "a") as file:
        file.write("x")
        file.flush()
        message = cli.refuses("discard", "bike-dataset")
        assert "labels.csv" in message
        assert f"process {os.getpid()}" in message
    cli("discard", "bike-dataset")


def test_files_open_for_writing_refuse_a_commit_by_name(cli, staging):
    with open(staging / "labels.csv", "a") as file:
        file.write("cat,1\n")
        file.flush()
        message = cli.refuses("commit", "bike-dataset")
        assert "labels.csv" in message
        assert f"process {os.getpid()}" in message
        assert "--allow-open" in message
        assert versions(cli) == ["v0"]
        assert cli("commit", "bike-dataset", "--allow-open").stdout == "bike-dataset:v1\n"
        file.write("dog,2\n")
    assert (staging.parent / "v1" / "labels.csv").read_text() == "name,label\ncat,1\n"
    assert cli("commit", "bike-dataset").stdout == "bike-dataset:v2\n"
    assert (staging.parent / "v2" / "labels.csv").read_text() == "name,label\ncat,1\ndog,2\n"


def test_what_a_version_cannot_hold_is_refused_or_said(cli, staging):
    (staging / "out").symlink_to("/etc/passwd")
    assert "out" in cli.refuses("commit", "bike-dataset")
    assert versions(cli) == ["v0"]
    (staging / "out").unlink()
    (staging / "one").write_text("x")
    os.link(staging / "one", staging / "two")
    finished = cli("commit", "bike-dataset")
    assert finished.stdout == "bike-dataset:v1\n"
    assert "not stored: hard links" in finished.stderr


def move_latest(cli) -> None:
    (cli.home / "bikes" / "other").write_text("other")
    assert cli("put", "bike-dataset", cli.home / "bikes").stdout == "bike-dataset:v1\n"


def test_a_moved_latest_is_a_conflict_until_rebased(cli, staging):
    (staging / "new").write_text("new")
    move_latest(cli)
    message = cli.refuses("commit", "bike-dataset")
    assert "rebase" in message
    assert "--force" in message
    assert cli("rebase", cwd=staging).stderr == f"{staging} is now based on bike-dataset:v1\n"
    assert sorted(path.name for path in staging.iterdir()) == ["images", "labels.csv", "new", "other"]
    assert cli("commit", "bike-dataset").stdout == "bike-dataset:v2\n"


def test_a_moved_latest_can_be_overruled(cli, staging):
    (staging / "new").write_text("new")
    move_latest(cli)
    assert cli("commit", "bike-dataset", "--force").stdout == "bike-dataset:v2\n"
    assert sorted(path.name for path in (staging.parent / "v2").iterdir()) == ["images", "labels.csv", "new"]


def test_rebase_names_what_both_changed(cli, staging):
    (staging / "other").write_text("mine")
    move_latest(cli)
    assert cli.refuses("rebase", "bike-dataset").splitlines()[1:] == ["  other"]
    assert (staging / "other").read_text() == "mine"


def test_clean_staging_follows_latest(cli, staging):
    assert not (staging / "other").exists()
    move_latest(cli)
    eventually((staging / "other").exists)


def test_stage_chooses_the_base(cli, staging):
    (staging / "new").write_text("new")
    assert "has changes" in cli.refuses("stage", "bike-dataset:v0")
    cli("commit", "bike-dataset")
    finished = cli("stage", "bike-dataset:v0")
    assert finished.stdout == f"{staging}\n"
    assert finished.stderr == "staging starts from bike-dataset:v0\n"
    assert not (staging / "new").exists()
    (staging / "labels.csv").write_text("x")
    cli("stage", "bike-dataset", "--empty", "--force")
    assert list(staging.iterdir()) == []
    cli("stage", "bike-dataset")
    assert (staging / "new").read_text() == "new"
    assert "has no version or alias 'v9'" in cli.refuses("stage", "bike-dataset:v9")
    assert "no artifact 'nope'" in cli.refuses("stage", "nope")
    assert "cannot stage" in cli.refuses("stage", "bike-dataset:v0/images", status=2)


def test_an_artifact_begins_in_staging(cli, staging):
    root = staging.parent.parent
    path = Path(cli("stage", "fresh", "--empty", cwd=root).stdout.rstrip("\n"))
    assert path == root / "fresh" / "staging"
    assert "is empty" in cli.refuses("commit", "fresh")
    (path / "file").write_text("x")
    assert cli("commit", "fresh", "--type", "model").stdout == "fresh:v0\n"
    (root / "made").mkdir()
    (root / "made" / "staging" / "file").write_text("y")
    assert cli("commit", cwd=root / "made" / "staging").stdout == "made:v0\n"
    assert json.loads(cli("show", "fresh", "--json").stdout)["type"] == "model"
    assert "'model', not 'result'" in cli.refuses("commit", "fresh", "--type", "result")


def test_staging_survives_a_kill_and_a_new_mount(cli, staging):
    (staging / "new").write_text("new")
    end_daemon(cli.home)
    assert "artifactfs mount" in cli.refuses("commit", "bike-dataset")
    cli("mount", cli.mountpoint)
    assert (staging / "new").read_text() == "new"
    assert cli("diff", "bike-dataset").lines == ["A\tnew"]
    cli("unmount")
    cli("mount", cli.mountpoint)
    assert cli("commit", "bike-dataset").stdout == "bike-dataset:v1\n"


@pytest.mark.parametrize("binding", ["kernel", "fusepy"])
def test_what_is_stored_by_mmap_is_committed(cli, mounted, binding):
    (cli.home / "file").write_bytes(b"a" * 8192)
    cli("put", "maps", "file")
    path = mounted("--binding", binding) / "maps" / "staging" / "file"
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[5000:5003] = b"xyz"
    assert cli("commit", "maps").stdout == "maps:v1\n"
    assert (path.parent.parent / "v1" / "file").read_bytes()[4999:5004] == b"axyza"


def test_two_commits_at_once_never_lose_one(cli, staging):
    (staging / "new").write_text("new")
    with cli.start("commit", "bike-dataset") as one, cli.start("commit", "bike-dataset") as two:
        results = [(process.communicate(timeout=60), process.returncode) for process in (one, two)]
    assert sorted(status for _, status in results) in ([0, 0], [0, 1])
    for (stdout, stderr), status in results:
        assert "Traceback" not in stderr
        assert stdout == ("bike-dataset:v1\n" if status == 0 else "")
    assert versions(cli) == ["v0", "v1"]
