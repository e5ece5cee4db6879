"""scripts/pipeline on real data: the best model and the lineage come out right, recorded by itself as by calls."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import artifactfs
from tests.conftest import TESTS, Cli, clear_below

SCRIPT = TESTS.parent / "scripts/pipeline"
SECONDS = 200
PROJECTS = ("called", "recorded")

# Job type, what it used, what it logged: of every Run there is.
RUNS = sorted(
    [
        ("prepare", ["penguins:v0"], ["penguins-split:v0"]),
        ("train", ["penguins-split:v0"], ["penguins-model:v0"]),
        ("train", ["penguins-split:v0"], ["penguins-model:v1"]),
        ("train", ["penguins-split:v0"], ["penguins-model:v2"]),
        ("evaluate", ["penguins-model:v1", "penguins-split:v0"], ["penguins-report:v0"]),
    ]
)


@dataclass
class Done:
    """A pipeline that has run: where, and what it said."""

    place: Path
    said: str

    def api(self, project: str) -> artifactfs.Api:
        return artifactfs.Api(str(self.place / "repository"), project)

    def json(self, project: str, *words: str):
        cli = Cli(self.place.parent)
        return json.loads(cli("--repository", self.place / "repository", "--project", project, *words, "--json").stdout)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Iterator[Done]:
    home = tmp_path_factory.mktemp("pipeline")
    try:
        finished = subprocess.run(
            [sys.executable, SCRIPT, "--directory", home / "work"],
            env=Cli(home).env, cwd=home, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            timeout=SECONDS,
        )  # fmt: skip
        assert finished.returncode == 0, finished.stdout + finished.stderr
        yield Done(home / "work", finished.stdout)
    finally:
        clear_below(home)


def names(artifacts) -> list[str]:
    return sorted(artifact.name for artifact in artifacts)


@pytest.mark.parametrize("project", PROJECTS)
def test_every_run_has_its_inputs_and_outputs(done, project):
    with done.api(project) as api:
        runs = api.runs()
        assert (
            sorted((run.job_type, names(run.used_artifacts()), names(run.logged_artifacts())) for run in runs) == RUNS
        )
        assert {run.state for run in runs} == {"finished"}
        assert {run.exit_status for run in runs} <= {0, None}
        configs = [run.config.get("rounds") for run in runs if run.job_type == "train"]
        assert sorted(configs) == [5, 100, 100]
        (maker,) = {artifact.logged_by().job_type for artifact in api.artifacts("model")}
        assert maker == "train"
        users = api.artifact("penguins-split:v0").used_by()
        assert sorted(run.job_type for run in users) == ["evaluate", "train", "train", "train"]


def test_what_recorded_itself_equals_what_was_said_by_calls(done):
    """Down to the contents: the same files came out on both ways."""

    def graph(project):
        with done.api(project) as api:
            return sorted(
                (
                    run.job_type,
                    json.dumps(run.config, sort_keys=True),
                    contents(run.used_artifacts()),
                    contents(run.logged_artifacts()),
                )
                for run in api.runs()
            )

    def contents(artifacts):
        return sorted((artifact.name, artifact.type, artifact.digest, str(artifact.metadata)) for artifact in artifacts)

    assert graph("recorded") == graph("called")
    assert len(graph("called")) == 5
    assert "The lineage that recorded itself equals the one that was recorded by calls: 5 Runs." in done.said


@pytest.mark.parametrize("project", PROJECTS)
def test_the_best_model_is_found_by_its_metadata(done, project):
    found = done.json(project, "find", "--type", "model", "--sort=-metadata.accuracy")
    best, *others = [(each["artifact"], each["version"], each["metadata"]["accuracy"]) for each in found]
    assert best[:2] == ("penguins-model", "v1")
    assert best[2] > 0.95
    assert [accuracy for _, _, accuracy in others] == sorted((accuracy for _, _, accuracy in others), reverse=True)
    assert best[2] > others[0][2] > others[1][2]
    narrow = done.json(project, "find", "--type", "model", "--where", "metadata.accuracy > 0.95")
    assert [each["version"] for each in narrow] == ["v1"]
    with done.api(project) as api:
        assert api.artifact("penguins-model:best").version == "v1"
        assert api.artifact("penguins-model:latest").version == "v2"
        report = api.artifact("penguins-report:latest")
        assert report.metadata["model"] == "penguins-model:v1"
        assert report.metadata["accuracy"] > 0.95


@pytest.mark.parametrize("project", PROJECTS)
def test_the_graph_of_the_report_leads_back_to_the_data(done, project):
    graph = done.json(project, "lineage", "penguins-report:latest", "--upstream")
    text = json.dumps(graph)
    for name in ("penguins-report", "penguins-model", "penguins-split", "prepare", "train", "evaluate"):
        assert name in text, name


def test_the_data_are_those_that_the_package_ships(done, tmp_path):
    with done.api("recorded") as api:
        path = api.artifact("penguins:v0").download(tmp_path)
    with (Path(path) / "penguins.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 344
    assert {row["species"] for row in rows} == {"Adelie", "Chinstrap", "Gentoo"}
