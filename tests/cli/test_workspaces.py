"""Staging areas that were lost track of: listed, committed, exported and discarded without their mount."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import daemons_below, end_daemon


@pytest.fixture
def staging(cli, mounted) -> Path:
    """The staging directory of bike-dataset, which has one version and is mounted."""
    source = cli.home / "bikes"
    (source / "images").mkdir(parents=True)
    (source / "images" / "cat.png").write_bytes(b"cat" * 1000)
    (source / "images" / "dog.png").write_bytes(b"dog" * 1000)
    (source / "labels.csv").write_text("name,label\n")
    cli("put", "bike-dataset", source)
    return mounted() / "bike-dataset" / "staging"


@pytest.fixture
def forgotten(cli, staging) -> str:
    """Changes of a mount whose mount point was removed; the name of its workspace."""
    (staging / "new").write_bytes(b"n" * 5000)
    with (staging / "images" / "cat.png").open("r+b") as file:
        file.write(b"DOG")
    (staging / "labels.csv").unlink()
    (staging / "images" / "dog.png").rename(staging / "images" / "hound.png")
    cli("unmount")
    cli.mountpoint.rmdir()
    return str(listed(cli)[0]["workspace"])


def listed(cli) -> list[dict[str, object]]:
    found = json.loads(cli("status", "--all", "--json").stdout)
    assert isinstance(found, list)
    return found


def test_every_staging_area_with_changes_is_listed(cli, staging, mounted):
    assert cli("status", "--all").stdout == "no staging area has changes\n"
    other = cli.home / "other"
    mounted("--binding", "fusepy", mountpoint=other)
    (staging / "new").write_bytes(b"n" * 5000)
    (staging / "labels.csv").unlink()
    (staging / "passing").write_text("made and removed")
    (staging / "passing").unlink()
    (other / "bike-dataset/staging/images/cat.png").write_text("x")
    (other / "fresh").mkdir()
    (other / "fresh/staging/first").write_text("1")
    cli("unmount", other)
    found = {(row["mountpoint"], row["artifact"]): row for row in listed(cli)}
    assert set(found) == {
        (str(cli.mountpoint), "bike-dataset"),
        (str(other), "bike-dataset"),
        (str(other), "fresh"),
    }
    mine = found[str(cli.mountpoint), "bike-dataset"]
    assert (mine["base"], mine["changes"], mine["project"], mine["discarded"]) == ("v0", 2, "default", None)
    assert mine["repository"] == str(cli.home / ".local/share/artifactfs/repository")
    assert mine["pid"] == daemons_below(cli.home)[0]
    assert 5000 <= mine["bytes"] < 100_000
    assert found[str(other), "fresh"]["base"] is None
    assert found[str(other), "fresh"]["pid"] is None
    shown = cli("status", "--all").stdout
    assert f"{cli.mountpoint}  (mounted, process {mine['pid']})" in shown
    assert f"{other}  (not mounted)" in shown
    assert "staging     bike-dataset: 2 changes from v0, " in shown
    assert "staging     fresh: 1 change from nothing, " in shown
    # The mount goes on as before.
    assert cli("diff", "bike-dataset").stdout == "D\tlabels.csv\nA\tnew\n"


def test_a_killed_mount_is_listed(cli, staging):
    (staging / "new").write_text("new")
    end_daemon(cli.home)
    (row,) = listed(cli)
    assert (row["artifact"], row["changes"], row["pid"]) == ("bike-dataset", 1, None)
    cli("unmount", "--force", cli.mountpoint)
    cli("commit", "--workspace", row["workspace"])
    assert listed(cli) == []


def test_what_was_forgotten_is_committed(cli, forgotten):
    assert cli("diff", "--workspace", forgotten).stdout.splitlines() == [
        "M\timages/cat.png",
        "D\timages/dog.png",
        "A\timages/hound.png",
        "D\tlabels.csv",
        "A\tnew",
    ]
    finished = cli("commit", "bike-dataset", "--workspace", forgotten, "--alias", "found", "--description", "late")
    assert finished.stdout == "bike-dataset:v1\n"
    assert listed(cli) == []
    cli("get", "bike-dataset:found", cli.home / "out")
    assert (cli.home / "out/images/cat.png").read_bytes() == b"DOG" + (b"cat" * 1000)[3:]
    assert sorted(os.listdir(cli.home / "out")) == ["images", "new"]
    assert cli("commit", "bike-dataset", "--workspace", forgotten).stdout == "bike-dataset:v1\n"


def test_commit_without_a_mount_says_that_latest_has_moved(cli, forgotten):
    (cli.home / "bikes/more").write_text("more")
    cli("put", "bike-dataset", cli.home / "bikes")
    assert "rebase" in cli.refuses("commit", "--workspace", forgotten)
    cli("rebase", "--workspace", forgotten)
    assert cli("commit", "--workspace", forgotten).stdout == "bike-dataset:v2\n"


def test_what_was_forgotten_is_discarded_and_brought_back(cli, forgotten, mounted):
    finished = cli("discard", "--workspace", forgotten)
    assert f"artifactfs discard bike-dataset --undo --workspace {forgotten}" in finished.stderr
    (row,) = listed(cli)
    assert row["discarded"] < row["undo_until"]
    assert row["changes"] == 5
    assert "can be undone for 23 hours" in cli("status", "--all").stdout
    cli("discard", "--workspace", forgotten, "--undo")
    assert listed(cli)[0]["discarded"] is None
    root = mounted()
    assert (root / "bike-dataset/staging/new").read_bytes() == b"n" * 5000
    assert len(cli("diff", "bike-dataset").stdout.splitlines()) == 5


def test_what_was_forgotten_is_exported(cli, forgotten):
    target = cli.home / "rescued"
    finished = cli("export", "bike-dataset", target, "--workspace", forgotten)
    assert finished.stdout == f"{target}\n"
    assert "gone from its base: labels.csv" in finished.stderr
    assert "gone from its base: images/dog.png" in finished.stderr
    found = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert found == {
        "new": b"n" * 5000,
        "images/cat.png": b"DOG" + (b"cat" * 1000)[3:],
        "images/hound.png": b"dog" * 1000,
    }
    assert "is not empty" in cli.refuses("export", "bike-dataset", target, "--workspace", forgotten)
    assert listed(cli)[0]["changes"] > 0


def test_export_writes_what_references_refer_to(cli, mounted):
    sources = cli.home / "sources"
    sources.mkdir()
    large = os.urandom(6 << 20)
    (sources / "large").write_bytes(large)
    (sources / "gone").write_bytes(b"g" * 100)
    cli("put", "raw", "--reference", sources.as_uri())
    staging = mounted() / "raw/staging"
    (staging / "moved").mkdir()
    for name in ("large", "gone"):
        (staging / name).rename(staging / "moved" / name)
    cli("unmount")
    (sources / "gone").unlink()
    workspace, target = str(listed(cli)[0]["workspace"]), cli.home / "rescued"
    finished = cli.run("export", "raw", target, "--workspace", workspace)
    assert finished.status == 1
    assert "1 path of raw could not be written; staging still has it" in finished.stderr
    assert "not written: moved/gone: " in finished.stderr
    assert os.listdir(target / "moved") == ["large"]
    assert (target / "moved/large").read_bytes() == large
    assert (target / "moved/large").stat().st_mode & 0o777 == 0o644


def test_export_without_the_repository_writes_what_is_local(cli, forgotten):
    shutil.rmtree(cli.home / ".local/share/artifactfs/repository")
    target = cli.home / "rescued"
    finished = cli.run("export", "bike-dataset", target, "--workspace", forgotten)
    assert finished.status == 1
    assert "2 paths of bike-dataset could not be written; staging still has them" in finished.stderr
    assert "not written: images/cat.png: " in finished.stderr
    assert "not written: images/hound.png: " in finished.stderr
    assert [str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()] == ["new"]
    assert "repository" in cli.refuses("commit", "--workspace", forgotten)
    cli("discard", "--workspace", forgotten)
    cli("discard", "--workspace", forgotten, "--undo")
    cli("discard", "--workspace", forgotten)
    assert [row["discarded"] is None for row in listed(cli)] == [False]
    assert not (cli.home / ".local/share/artifactfs/repository").exists()


def test_a_workspace_that_is_mounted_is_refused_naming_the_mount(cli, staging):
    (staging / "new").write_text("new")
    (row,) = listed(cli)
    for words in (["commit"], ["discard"], ["diff"], ["rebase"], ["export", "bike-dataset", cli.home / "out"]):
        message = cli.refuses(*words, "--workspace", row["workspace"])
        assert f"belongs to the mount at {cli.mountpoint} (process {row['pid']})" in message
    assert not (cli.home / "out").exists()
    assert cli("commit", "bike-dataset").stdout == "bike-dataset:v1\n"


def test_workspaces_are_found_by_name_beginning_and_mount_point(cli, staging, mounted):
    other = mounted(mountpoint=cli.home / "other")
    for root in (cli.mountpoint, other):
        (root / "bike-dataset/staging/new").write_text(str(root))
        cli("unmount", root)
    for name in ("other", other, listed(cli)[1]["path"]):
        assert cli("diff", "--workspace", name).stdout == "A\tnew\n"
    assert "no workspace nowhere" in cli.refuses("commit", "--workspace", "nowhere")
    (cli.home / ".local/state/artifactfs/mounts/artifacts-twin").mkdir()
    (cli.home / ".local/state/artifactfs/mounts/artifacts-twin/workspace.db").write_bytes(b"")
    assert "several workspaces" in cli.refuses("commit", "--workspace", "artifacts", status=2)
    assert "has no staging of nothing" in cli.refuses("export", "nothing", "out", "--workspace", "other")
    cli("discard", "--workspace", "other")
    assert "no changes" in cli.refuses("commit", "--workspace", "other")


def test_several_areas_need_a_name(cli, staging):
    (staging / "new").write_text("new")
    (cli.mountpoint / "fresh").mkdir()
    (cli.mountpoint / "fresh/staging/first").write_text("1")
    cli("unmount")
    message = cli.refuses("commit", "--workspace", "artifacts", status=2)
    assert message.endswith("name one of: bike-dataset, fresh")
    assert cli("commit", "fresh", "--workspace", "artifacts").stdout == "fresh:v0\n"
    assert cli("commit", "--workspace", "artifacts").stdout == "bike-dataset:v1\n"


def test_a_damaged_workspace_does_not_hide_the_others(cli, forgotten):
    broken = cli.home / ".local/state/artifactfs/mounts/broken-0"
    broken.mkdir()
    (broken / "workspace.db").write_bytes(b"no database " * 1000)
    found = {row["workspace"]: row for row in listed(cli)}
    assert set(found) == {forgotten, "broken-0"}
    assert "trouble" in found["broken-0"]
    assert "trouble     its tables cannot be read" in cli("status", "--all").stdout


def test_a_discard_is_undone_in_the_mount(cli, staging):
    (staging / "new").write_text("new")
    (staging / "labels.csv").unlink()
    cli("discard", cwd=staging)
    assert (staging / "labels.csv").read_text() == "name,label\n"
    undone = cli("discard", "--undo", cwd=staging)
    assert undone.stderr == f"{staging} has its changes again, from bike-dataset:v0\n"
    assert (staging / "new").read_text() == "new"
    assert not (staging / "labels.csv").exists()
    assert "has changes" in cli.refuses("discard", "--undo", cwd=staging)
    cli("stage", "bike-dataset:v0", "--force")
    cli("discard", "--undo", "bike-dataset")
    assert cli("commit", "bike-dataset").stdout == "bike-dataset:v1\n"
    assert "nothing was discarded" in cli.refuses("discard", "--undo", "bike-dataset")


def test_staging_counts_in_a_limit(cli, put_small, mounted):
    root = mounted("--staging-size", "8MiB")
    staging = root / "data/staging"
    (staging / "kept").write_bytes(b"k" * (3 << 20))
    with pytest.raises(OSError, match="Disk quota exceeded"):
        (staging / "large").write_bytes(b"l" * (9 << 20))
    assert (staging / "kept").stat().st_size == 3 << 20
    assert os.statvfs(staging).f_blocks * os.statvfs(staging).f_frsize == 8 << 20
    assert "of 8.0 MiB" in cli("status").stdout
    staged, *_ = json.loads(
        cli("status", "--json").stdout
    )  # a dead mount of another test, which runs beside it, is root's too
    assert staged["staging_limit"] == 8 << 20
    assert 3 << 20 <= staged["staging_bytes"] <= 8 << 20
    (staging / "large").unlink(missing_ok=True)
    # What was discarded makes room.
    cli("discard", "data")
    (staging / "other").write_bytes(b"o" * (7 << 20))
    assert [row["discarded"] for row in listed(cli)] == [None]
    message = cli.refuses("mount", root, "--staging-size", "9MiB")
    assert "staging-size is 8388608" in message


@pytest.fixture
def put_small(cli) -> None:
    (cli.home / "small").mkdir()
    (cli.home / "small/file").write_text("small")
    cli("put", "data", cli.home / "small")
