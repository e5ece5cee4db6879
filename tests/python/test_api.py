"""Api: looking around without a run; and what importing the package costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import artifactfs
from artifactfs import Api, Conflict, InvalidInput, NotFound
from tests.python.conftest import made, program


@pytest.fixture
def filled(run, api) -> Api:
    for number in range(3):
        artifact = made("model", type="model", a=str(number))
        artifact.metadata = {"accuracy": [0.7, 0.9, 0.8][number], "data": {"name": "bikes"}}
        run.log_artifact(artifact, tags=["checked", "even one"] if number == 2 else ["checked"] if number else None)
    run.log_artifact(made("data"), aliases=["raw"])
    return api


def test_versions_are_found_by_what_is_said_of_them(filled):
    def names(*given, **words) -> list[str]:
        return [found.name for found in filled.artifacts(*given, **words)]

    assert names() == ["data:v0", "model:v0", "model:v1", "model:v2"]
    assert names("model", "model", 50) == ["model:v0", "model:v1", "model:v2"]
    assert names(name="data") == ["data:v0"]
    assert names(where="metadata.accuracy > 0.75", order="-metadata.accuracy") == ["model:v1", "model:v2"]
    assert names(order=["-type", "-version"], limit=2) == ["model:v2", "model:v1"]
    assert names(tags="checked") == ["model:v1", "model:v2"]
    assert names(tags=["checked", "even one"]) == ["model:v2"]
    assert names(where='type = "data" or metadata.accuracy < 0.85', tags=["checked"]) == ["model:v2"]
    assert names(alias="raw") == ["data:v0"]
    assert names("result") == []
    with pytest.raises(InvalidInput, match="at character"):
        names(where="metadata.accuracy >")
    with pytest.raises(InvalidInput, match="not a tag"):
        names(tags=['x" or name = "data'])


def test_an_artifact_is_looked_up_by_its_address(filled, project):
    assert filled.artifact("model").version == "v2"
    assert filled.artifact(f"{project}/model:v1", type="model").version == "v1"
    with pytest.raises(Conflict, match="model:v2 has the type 'model', not type='dataset'"):
        filled.artifact("model", type="dataset")
    with pytest.raises(NotFound, match="did you mean model"):
        filled.artifact("modle")
    with pytest.raises(InvalidInput, match=r"names a path; look up the version, then get_path\('a.txt'\)"):
        filled.artifact("model:v0/a.txt")
    assert filled.artifact_exists("model:v1")
    assert not filled.artifact_exists("model:v9")
    assert not filled.artifact_exists("model:v1", "dataset")


def test_another_project_of_the_repository_is_in_reach(filled, project, start):
    with start(project="second") as run:
        run.log_artifact(made("there"))
    assert filled.artifact("second/there:latest").project == "second"
    assert filled.project == project


def test_types_and_collections(filled):
    assert [found.name for found in filled.artifact_types()] == ["dataset", "model"]
    assert [found.name for found in filled.artifact_type("model").collections()] == ["model"]
    with pytest.raises(NotFound, match="there are dataset, model"):
        filled.artifact_type("result")
    assert [found.name for found in filled.artifact_collections()] == ["data", "model"]
    assert [found.name for found in filled.artifact_collections("dataset")] == ["data"]
    model = filled.artifact_collection("model", type_name="model")
    assert (model.name, model.type, len(model), model.aliases) == ("model", "model", 3, ["latest"])
    assert model.created_at.endswith("Z")
    assert [version.version for version in model.versions()] == ["v2", "v1", "v0"]
    with pytest.raises(Conflict, match="model has the type 'model', not 'dataset'"):
        filled.artifact_collection("model", type_name="dataset")
    with pytest.raises(NotFound, match=r"no artifact 'gone' in project .*; there are data, model"):
        filled.artifact_collection("gone")
    assert filled.artifact_collection_exists("data", "dataset")
    assert not filled.artifact_collection_exists("data", "model")


def test_runs_are_listed_with_filters(start, api):
    ids = []
    for kind in ("prepare", "train", "train"):
        with start(job_type=kind, name=f"{kind}-run") as run:
            ids.append(run.id)
            run.log_artifact(made(kind, a=run.id))
    assert [run.id for run in api.runs()] == ids[::-1]
    assert [run.id for run in api.runs(job_type="train", limit=1)] == ids[2:]
    assert [run.id for run in api.runs(name="prepare-run", state="finished")] == ids[:1]
    assert [run.id for run in api.runs(offset=1)] == ids[1::-1]
    assert [version.name for version in api.run(ids[0]).logged_artifacts()] == ["prepare:v0"]
    with pytest.raises(NotFound, match=r"no run 'gone' in project .*runs\(\) and `artifactfs runs` list them"):
        api.run("gone")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda a: a.artifacts(where='name = "x") or (name = "y"', tags=["t"]), r"unexpected '\)' at character 11"),
        (lambda a: a.artifacts(where=5), "where=5 is a int; give a text"),
        (lambda a: a.artifacts(limit="3"), "limit='3' is no whole number of 0 or more"),
        (lambda a: a.artifacts(name=5), "name=5 is a int; give a text"),
        (lambda a: a.artifact(5), "name=5 is a int; give a text"),
        (lambda a: a.run(5), "id=5 is a int; give a text"),
        (lambda a: a.runs(offset=-1), "offset=-1 is no whole number of 0 or more"),
    ],
)
def test_mistakes_are_told_by_their_argument(api, run, call, said):
    with pytest.raises(InvalidInput, match=said):
        call(api)


def test_a_closed_api_says_so(api, run):
    api.close()
    with pytest.raises(InvalidInput, match="this Api is closed"):
        api.runs()
    assert run.log_artifact(made()).version == "v0", "what others use stays open"


def test_reading_makes_no_repository(tmp_path):
    with Api(repository=str(tmp_path / "none")) as api, pytest.raises(NotFound, match="no repository at"):
        api.artifacts()
    assert not (tmp_path / "none").exists()


# -- the package -------------------------------------------------------------------------------------------------------


def test_importing_costs_nothing_and_using_needs_no_fuse(tmp_path):
    text = """
import sys, artifactfs
heavy = {"sqlalchemy", "requests", "diskcache", "mfusepy", "msgspec", "blake3"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert "init" in dir(artifactfs)
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"mfusepy", "fuse"} or name.startswith("artifactfs.mount"):
            raise ImportError(name)
sys.meta_path.insert(0, Refused())
with artifactfs.init(repository=sys.argv[1]) as run:
    a = artifactfs.Artifact("data", type="dataset")
    with a.new_file("x") as f: f.write("1")
    print(run.log_artifact(a).name)
"""
    done = program(text, str(tmp_path / "repository"))
    assert done.stdout == "data:v0\n", done.stderr


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'artifactfs' has no attribute 'nothing'"):
        _ = artifactfs.nothing


def test_the_interface_is_typed(tmp_path):
    """A program that uses it passes mypy as its users run it."""
    usage = Path(__file__).with_name("usage_typed.py")
    options = ["--strict", "--no-error-summary", "--cache-dir", tmp_path / "cache", "--config-file", ""]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, usage],
        capture_output=True, text=True, check=False, cwd=Path(artifactfs.__file__).parents[1],
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
