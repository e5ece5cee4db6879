"""copy and cache warm: between directories, and over a server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SIZE = r"[0-9.]+ [KMG]?i?B"


@pytest.fixture
def bikes(cli) -> Path:
    """A small directory with everything that an artifact keeps."""
    root = cli.home / "bikes"
    (root / "images").mkdir(parents=True)
    for number in range(50):
        (root / "images" / f"{number:02d}.png").write_bytes(os.urandom(5000))
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "link").symlink_to("run.sh")
    return root


@pytest.fixture
def served(cli) -> Iterator[Callable[[Path], str]]:
    """Serves the repository in a directory; gives its URL."""
    processes: list[subprocess.Popen[str]] = []

    def serve(directory: Path) -> str:
        process = cli.start("--repository", directory, "serve", "--port", "0", "--no-access-log")
        processes.append(process)
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found is not None, (line, process.poll())
        return found[0]

    yield serve
    for process in processes:
        with process:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)


def shown(cli, repository: object, address: str) -> dict[str, object]:
    return json.loads(cli("--repository", repository, "show", address, "--json").stdout)


# -- copy --------------------------------------------------------------------------------------------------------------


def test_copy_prints_the_version_there_and_nothing_else(cli, bikes):
    cli(
        "put",
        "bike-dataset",
        bikes,
        "--alias",
        "best",
        "--metadata",
        "rows=50",
        "--description",
        "first",
        "--type",
        "x",
    )
    team = cli.home / "team"
    finished = cli("copy", "bike-dataset:best", "--to", "team")
    assert finished.stdout == "bike-dataset:v0\n"
    made, summary = finished.stderr.splitlines()
    assert made == f"made a new repository in {team}"
    assert re.fullmatch(rf"52 files, 244\.2 KiB: 244\.2 KiB sent, {SIZE} stored", summary)
    here, there = (
        shown(cli, cli.home / ".local/share/artifactfs/repository", "bike-dataset"),
        shown(cli, team, "bike-dataset"),
    )
    assert there["aliases"] == ["best", "latest"]
    assert {**here, "created": "", "repository": ""} == {**there, "created": "", "repository": ""}
    cli("--repository", team, "get", "bike-dataset", "out")
    subprocess.run(["diff", "-r", "--no-dereference", bikes, cli.home / "out"], check=True)


def test_copy_of_what_is_there_says_so(cli, bikes):
    cli("put", "bike-dataset", bikes)
    cli("copy", "bike-dataset", "--to", "team")
    finished = cli("copy", "bike-dataset", "--to", "team")
    assert finished.stdout == "bike-dataset:v0\n"
    assert finished.stderr.splitlines() == [
        "52 files, 244.2 KiB: 0 B sent, 0 B stored",
        "unchanged: same contents as bike-dataset:v0",
    ]
    cli("edit", "bike-dataset", "--description", "new words")
    cli("alias", "add", "bike-dataset", "best")
    finished = cli("copy", "bike-dataset", "--to", "team")
    assert "its description and metadata stay as they are; change them with: artifactfs edit" in finished.stderr
    assert shown(cli, "team", "bike-dataset:best")["description"] == ""


def test_copy_of_all_versions(cli, bikes):
    for number in range(3):
        (bikes / "number").write_text(str(number))
        cli("put", "bike-dataset", bikes)
    cli("alias", "add", "bike-dataset:v1", "best")
    finished = cli("copy", "bike-dataset", "--all-versions", "--to", "team")
    assert finished.lines == ["bike-dataset:v0", "bike-dataset:v1", "bike-dataset:v2"]
    assert finished.stderr.splitlines()[-1] == "3 versions: 3 new, 0 there already"
    (bikes / "number").write_text("3")
    cli("put", "bike-dataset", bikes)
    finished = cli("copy", "bike-dataset", "--all-versions", "--to", "team")
    assert finished.stderr.splitlines()[-1] == "4 versions: 1 new, 3 there already"
    assert [shown(cli, "team", f"bike-dataset:{alias}")["version"] for alias in ("best", "latest")] == ["v1", "v3"]


def test_copy_to_another_project(cli, bikes):
    cli("put", "bike-dataset", bikes)
    here = cli.home / ".local/share/artifactfs/repository"
    assert cli("copy", "bike-dataset", "--to", here, "--to-project", "archive").stdout == "bike-dataset:v0\n"
    assert cli("--project", "archive", "ls", "bike-dataset", "--json").stdout.count('"version"') == 1
    assert cli("copy", "archive/bike-dataset:v0", "--to", "team").stdout == "bike-dataset:v0\n"
    assert shown(cli, "team", "archive/bike-dataset:v0")["project"] == "archive"


def test_copy_refuses(cli, bikes):
    assert "`artifactfs init" in cli.refuses("copy", "bike-dataset", "--to", "team")
    cli("put", "bike-dataset", bikes)
    here = cli.home / ".local/share/artifactfs/repository"
    assert "to itself" in cli.refuses("copy", "bike-dataset", "--to", here, status=2)
    assert "whole versions are copied" in cli.refuses("copy", "bike-dataset:v0/images", "--to", "team", status=2)
    assert "names one version" in cli.refuses("copy", "bike-dataset:v0", "--all-versions", "--to", "team", status=2)
    assert "--to is empty" in cli.refuses("copy", "bike-dataset", "--to", "", status=2)
    assert "'--to'" in cli.refuses("copy", "bike-dataset", status=2)
    assert "did you mean bike-dataset?" in cli.refuses("copy", "bike-datset", "--to", "team")
    assert "no version or alias 'v7'" in cli.refuses("copy", "bike-dataset:v7", "--to", "team")
    assert "'a-b' would do" in cli.refuses("copy", "bike-dataset", "--to", "team", "--to-project", "a/b", status=2)
    assert not (cli.home / "team").exists(), "no repository is made for nothing"
    cli("--repository", "team", "put", "bike-dataset", bikes, "--type", "model")
    assert "has the type 'model' at the destination" in cli.refuses("copy", "bike-dataset", "--to", "team")


def test_copy_over_a_server_both_ways(cli, bikes, served):
    cli("put", "bike-dataset", bikes, "--alias", "best")
    (bikes / "new").write_text("new")
    cli("put", "bike-dataset", bikes)
    url = served(cli.home / "team")
    finished = cli("copy", "bike-dataset", "--all-versions", "--to", url)
    assert finished.lines == ["bike-dataset:v0", "bike-dataset:v1"]
    # Beside the directory packs are read, and counted; through the server files alone.
    there = re.sub(r" \d+ packs,", "", cli("--repository", "team", "verify").stderr)
    assert cli("--repository", url, "verify").stderr == there
    assert "to itself" in cli.refuses("--repository", url, "copy", "bike-dataset", "--to", f"{url}/", status=2)
    finished = cli("--repository", url, "copy", "bike-dataset:best", "--to", "back")
    assert finished.stdout == "bike-dataset:v0\n"
    assert "52 files, 244.2 KiB: 244.2 KiB sent" in finished.stderr
    (bikes / "new").unlink()
    cli("--repository", "back", "get", "bike-dataset", "out")
    subprocess.run(["diff", "-r", "--no-dereference", bikes, cli.home / "out"], check=True)


# -- cache warm --------------------------------------------------------------------------------------------------------


def test_cache_warm_brings_a_version_in(cli, bikes, served):
    url = served(cli.home / "team")
    cli("--repository", url, "put", "bike-dataset", bikes)
    finished = cli("--repository", url, "cache", "warm", "bike-dataset:v0/images/07.png")
    assert finished.stdout == ""
    assert re.fullmatch(rf"1 file, 4\.9 KiB: {SIZE} fetched\n", finished.stderr)
    assert json.loads(cli("cache", "status", "--json").stdout)["chunks"] == 1
    finished = cli("--repository", url, "cache", "warm", "bike-dataset", "--pin")
    assert re.fullmatch(rf"52 files, 244\.2 KiB: {SIZE} fetched\n", finished.stderr)
    status = json.loads(cli("cache", "status", "--json").stdout)
    assert status["chunks"] == 51
    assert status["pinned_bytes"] >= 250_000
    cli("cache", "clear")
    finished = cli("--repository", url, "cache", "warm", "bike-dataset")
    assert finished.stderr == "52 files, 244.2 KiB: 0 B fetched\n"


def test_cache_warm_says_when_the_cache_is_too_small(cli, bikes, served):
    url = served(cli.home / "team")
    cli("--repository", url, "put", "bike-dataset", bikes)
    finished = cli.run("--repository", url, "--cache-size", "0", "cache", "warm", "bike-dataset")
    assert finished.status == 1
    assert "artifactfs: the cache does not keep all of bike-dataset:v0: " in finished.stderr


def test_cache_warm_of_a_directory_has_nothing_to_do(cli, bikes):
    cli("put", "bike-dataset", bikes)
    here = cli.home / ".local/share/artifactfs/repository"
    finished = cli("cache", "warm", "bike-dataset:latest/images")
    assert finished.stdout == ""
    assert finished.stderr == f"nothing to warm: all of bike-dataset:v0/images is on this machine, in {here}\n"
    assert "has no 'nope'" in cli.refuses("cache", "warm", "bike-dataset:latest/nope")
