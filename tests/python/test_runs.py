"""Runs: begun, joined, taken up, ended, killed; what they used and made."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import artifactfs
from artifactfs import Api, Artifact, Conflict, InvalidInput, NotFound
from artifactfs.model.lineage import NewRun, RunRecord
from artifactfs.run import RunLife, commit_hash, describe
from tests.conftest import eventually
from tests.python.conftest import made, program, write

# -- init --------------------------------------------------------------------------------------------------------------


def test_what_can_be_known_is_recorded(start, api, monkeypatch, home):
    monkeypatch.setattr("artifactfs.run.GIT_SECONDS", 60.0)  # on a busy machine it takes more than it is given
    git = ["git", "-c", "user.name=me", "-c", "user.email=me@host"]
    subprocess.run([*git, "init", "-q", "."], check=True)
    write(home, program="1")
    subprocess.run([*git, "add", "program.txt"], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    run = start(job_type="train", name="seventh", config={"lr": 0.1})
    seen = api.run(run.id)
    assert (seen.name, seen.job_type, seen.state, seen.config) == ("seventh", "train", "running", {"lr": 0.1})
    assert (seen.host, seen.command) == (os.uname().nodename, tuple(sys.orig_argv))
    assert (seen.commit_hash, seen.ended_at, seen.exit_status) == (head, None, None)
    assert seen.started_at.endswith("Z")
    run.finish()
    write(home, program="2")
    assert commit_hash() == f"{head}+"


def test_outside_of_git_there_is_no_commit(home):
    assert commit_hash(home) == ""
    assert describe().commit_hash == ""


def test_a_git_that_takes_too_long_is_not_waited_for(tmp_path, monkeypatch):
    slow = tmp_path / "git"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("artifactfs.run.GIT_SECONDS", 0.1)
    assert commit_hash() == ""


def test_a_second_init_returns_the_active_run_or_ends_it(start, api):
    first = start(job_type="train", config={"a": 1})
    assert start() is first
    assert start(job_type="train", config={"b": 2}) is first
    assert dict(first.config) == {"a": 1, "b": 2}
    second = start(job_type="evaluate")
    assert second is not first
    assert (first.state, api.run(first.id).state, second.state) == ("finished", "finished", "running")
    artifactfs.finish()
    assert second.state == "finished"
    artifactfs.finish()
    assert start() is not second


def test_a_run_is_taken_up_again_by_its_id(start, api):
    with start(id="night-42", config={"a": 1}) as run:
        run.log_artifact(made())
    with start(id="night-42", config={"b": 2}) as again:
        assert again.id == "night-42"
        assert api.run("night-42").state == "running"
        again.log_artifact(made(a="2"))
    seen = api.run("night-42")
    assert (seen.state, seen.config) == ("finished", {"a": 1, "b": 2})
    assert [each.name for each in seen.logged_artifacts()] == ["data:v0", "data:v1"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"id": "a b"}, "not the id of a run: 'a b'"),
        ({"config": 3}, "config is a int; give a dict"),
        ({"config": {"x": {1}}}, r"config\.x is a set, which JSON cannot hold"),
        ({"project": "a b"}, "'a-b' would do"),
        ({"repository": "ftp://host"}, "a repository is a directory, or http"),
        ({"repository": 5}, "repository=5 is a int; give a path"),
        ({"project": 5}, "project=5 is a int; give a text"),
        ({"job_type": 5}, "job_type=5 is a int; give a text"),
        ({"id": 5}, "id=5 is a int; give a text"),
    ],
)
def test_what_cannot_begin_is_said(tmp_path, words, said):
    with pytest.raises(InvalidInput, match=said):
        artifactfs.init(**{"repository": str(tmp_path / "r"), **words})


def test_a_repository_may_be_a_path(tmp_path):
    run = artifactfs.init(repository=tmp_path / "r", project="p")
    assert [found.id for found in Api(repository=tmp_path / "r", project="p").runs()] == [run.id]


def test_a_configuration_that_cannot_be_written_does_not_keep_a_run_alive(start, api):
    run = start(config={"layers": [1]})
    run.config["layers"].append({2})
    with pytest.raises(
        InvalidInput, match=r"has ended with its configuration as last written: config\.layers\[1\] is a set"
    ):
        run.finish()
    assert (run.state, api.run(run.id).state, api.run(run.id).config) == ("finished", "finished", {"layers": [1]})


def test_changes_within_the_first_values_of_a_configuration_are_written(start, api):
    run = start(config={"optimizer": {"lr": 1}})
    run.config["optimizer"]["lr"] = 2
    run.finish()
    assert api.run(run.id).config == {"optimizer": {"lr": 2}}


def test_threads_and_children_may_set_values_at_the_same_time(start, api):
    run = start()
    threads = [threading.Thread(target=run.config.update, args=({f"k{n}": n},)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    api.run(run.id)._where.repository.registry.update_run(run.id, config={**run.config, "child": 1})
    run.config["last"] = 1
    assert api.run(run.id).config == {**{f"k{n}": n for n in range(16)}, "child": 1, "last": 1}


def test_an_end_that_could_not_be_recorded_is_tried_again(start, api, monkeypatch):
    run = start()
    life = run._life
    monkeypatch.setattr(life, "end", lambda **_: (_ for _ in ()).throw(artifactfs.Unavailable("not now")))
    with pytest.raises(artifactfs.Unavailable):
        run.finish(exit_code=4)
    assert (run.state, api.run(run.id).state) == ("running", "running")
    monkeypatch.undo()
    assert start(id="next").id == "next"
    seen = api.run(run.id)
    assert (seen.state, seen.exit_status) == ("failed", 4)


def test_a_server_that_does_not_come_back_does_not_keep_another_run_from_beginning(start, monkeypatch):
    run = start()
    monkeypatch.setattr(run._life, "end", lambda **_: (_ for _ in ()).throw(artifactfs.Unavailable("not now")))
    with pytest.raises(artifactfs.Unavailable):
        start(id="next")
    with pytest.warns(UserWarning, match="could not be recorded: not now"):
        assert start(id="next").id == "next"
    assert not run._life.mine


@pytest.mark.parametrize("given", ["3", 1.5, True])
def test_an_exit_code_is_a_number(run, given):
    with pytest.raises(InvalidInput, match=f"exit_code={given!r} is no whole number"):
        run.finish(exit_code=given)
    assert run.state == "running"


def test_config_is_a_mapping_with_attributes(start, api):
    run = start(config=argparse.Namespace(lr=0.1, layers=2))
    config = run.config
    config.lr = 0.2
    config["optimizer"] = {"name": "sgd"}
    config.update({"seed": 1}, batch=8)
    del config["layers"]
    assert (config.lr, config["seed"], config.get("none"), "layers" in config, len(config)) == (0.2, 1, None, False, 4)
    expected = {"lr": 0.2, "optimizer": {"name": "sgd"}, "seed": 1, "batch": 8}
    assert api.run(run.id).config == expected == config.as_dict()
    config["optimizer"]["name"] = "adam"  # within a value: written at the end
    with pytest.raises(AttributeError, match="the configuration has no 'none'; it has"):
        _ = config.none
    with pytest.raises(InvalidInput, match=r"config\.bad is a object"):
        config.bad = object()
    run.finish()
    assert api.run(run.id).config["optimizer"] == {"name": "adam"}
    with pytest.raises(Conflict, match="its configuration stays as it is"):
        config.lr = 1


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "state", "status"),
    [(None, "finished", None), (KeyError("x"), "failed", 1), (SystemExit(0), "finished", 0), (SystemExit(3), "failed", 3)],
)  # fmt: skip
def test_a_block_ends_the_run_by_how_it_ends(start, api, error, state, status):
    def block() -> None:
        with start() as run:
            found.append(run)
            if error is not None:
                raise error

    found: list = []
    if error is None:
        block()
    else:
        with pytest.raises(type(error)):
            block()
    (run,) = found
    seen = api.run(run.id)
    assert (run.state, seen.state, seen.exit_status) == (state, state, status)
    with pytest.raises(Conflict, match=r"the run .* has ended, so log_artifact cannot be recorded; begin another"):
        run.log_artifact(made())


PROGRAM = """
import sys, artifactfs
run = artifactfs.init(id="r", job_type="test")
{end}
"""


@pytest.mark.parametrize(
    ("end", "state", "status", "left"),
    [
        ("", "finished", None, 0),
        ("sys.exit()", "finished", 0, 0),
        ("sys.exit(3)", "failed", 3, 3),
        ("sys.exit('bad')", "failed", 1, 1),
        ("exit(3)", "failed", 3, 3),
        ("quit()", "finished", 0, 0),
        (
            "import threading; t = threading.Thread(target=sys.exit, args=(3,)); t.start(); t.join()",
            "finished",
            None,
            0,
        ),
        ("raise KeyError('x')", "failed", 1, 1),
        ("artifactfs.finish(); raise KeyError('x')", "finished", None, 1),
        ("run.finish(exit_code=4)", "failed", 4, 0),
    ],
)
def test_a_program_ends_its_run_by_how_it_ends(location, project, api, end, state, status, left):
    done = program(PROGRAM.format(end=end), env={"ARTIFACTFS_REPOSITORY": location, "ARTIFACTFS_PROJECT": project})
    assert done.returncode == left, done.stderr
    seen = api.run("r")
    assert (seen.state, seen.exit_status) == (state, status)
    assert ("Traceback" in done.stderr) == ("KeyError" in end)


def test_a_killed_program_leaves_a_crashed_run_and_what_it_logged(location, project, api):
    text = """
import os, signal
import artifactfs.run
artifactfs.run.LIFETIME_SECONDS = 1.0
import artifactfs
run = artifactfs.init(id="killed")
a = artifactfs.Artifact("data", type="dataset")
with a.new_file("x") as f: f.write("1")
run.log_artifact(a)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = program(text, env={"ARTIFACTFS_REPOSITORY": location, "ARTIFACTFS_PROJECT": project})
    assert done.returncode == -signal.SIGKILL, done.stderr
    eventually(lambda: api.run("killed").state == "crashed")
    assert [run.id for run in api.runs(state="crashed")] == ["killed"]
    assert api.run("killed").ended_at is not None
    assert api.artifact("data:v0").logged_by().id == "killed"


class _Heart:
    """A registry that counts renewals."""

    def __init__(self) -> None:
        self.renewed = 0
        self.ended: list[tuple[str | None, int | None]] = []

    def start_run(self, new: NewRun) -> RunRecord:
        return RunRecord(
            id=new.id, name=new.name, job_type="", state="running", started=1, ended=None, config={}, host="", command=(),
            commit_hash="", exit_status=None, inputs=0, outputs=0,
        )  # fmt: skip

    def renew_run(self, run: str, *, seconds: float) -> None:
        assert (run, seconds) == ("r", 120.0)
        self.renewed += 1
        if self.renewed == 2:
            raise artifactfs.Unavailable("not now")

    def update_run(self, run: str, *, state: str | None = None, exit_status: int | None = None) -> None:
        self.ended.append((state, exit_status))


def test_a_run_is_renewed_until_it_ends():
    heart = _Heart()
    life = RunLife(heart, NewRun(id="r", name="r"), every=0.01)
    eventually(lambda: heart.renewed > 4)
    child = os.fork()
    if not child:
        os._exit(0 if life.end() is None and not life.mine else 1)
    assert os.waitpid(child, 0)[1] == 0, "a forked child does not end it"
    assert heart.ended == []
    life.end(exit_status=2)
    life.end()
    seen = heart.renewed
    time.sleep(0.05)
    assert heart.renewed == seen
    assert heart.ended == [("failed", 2)]


# -- joining -----------------------------------------------------------------------------------------------------------


def test_a_program_within_a_run_joins_it(location, project, api, start):
    outer = start(job_type="outer", config={"a": 1})
    text = """
import artifactfs
run = artifactfs.init(job_type="inner", config=dict(b=2))
assert run.joined and run.id == "{id}" and run.job_type == "outer", run
a = artifactfs.Artifact("data", type="dataset")
with a.new_file("x") as f: f.write("1")
run.log_artifact(a)
run.finish()
raise SystemExit(3)
"""
    around = {"ARTIFACTFS_REPOSITORY": location, "ARTIFACTFS_PROJECT": project, "ARTIFACTFS_RUN": outer.id}
    done = program(text.format(id=outer.id), env=around)
    assert done.returncode == 3, done.stderr
    seen = api.run(outer.id)
    assert (seen.state, seen.config) == ("running", {"a": 1, "b": 2})
    assert [each.name for each in outer.logged_artifacts()] == ["data:v0"]


def test_a_program_whose_environment_was_cleared_joins_its_ancestors_run(location, project, start):
    outer = start()
    inner = f"""
import artifactfs
run = artifactfs.init(repository={location!r}, project={project!r})
assert run.joined and run.id == {outer.id!r}, run
"""
    clearing = """
import os, subprocess, sys
kept = {name: os.environ[name] for name in ("HOME", "PATH")}
raise SystemExit(subprocess.run([sys.executable, "-c", sys.argv[1]], env=kept).returncode)
"""
    done = program(clearing, inner, env={"ARTIFACTFS_RUN": outer.id})
    assert done.returncode == 0, done.stderr


def test_a_run_of_another_project_is_not_joined(monkeypatch, start, run):
    monkeypatch.setenv("ARTIFACTFS_RUN", run.id)
    with pytest.warns(UserWarning, match=f"started in the run {run.id}, which is not of the project 'elsewhere'"):
        other = start(project="elsewhere")
    with other:
        assert not other.joined
        assert other.id != run.id
    with start(id="own") as own:
        assert (own.joined, own.id) == (False, "own")


def test_a_forked_child_works_in_its_parents_run(run, api):
    context = multiprocessing.get_context("fork")

    def work(number: int) -> None:
        made_here = run.log_artifact(made(f"data-{number}", a=str(number)))
        assert run.use_artifact(made_here.name).download().is_dir()
        run.finish()

    workers = [context.Process(target=work, args=(number,), daemon=True) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert api.run(run.id).state == "running"
    assert sorted(each.name for each in run.logged_artifacts()) == ["data-0:v0", "data-1:v0", "data-2:v0"]
    run.log_artifact(made("after"))


# -- inputs and outputs ------------------------------------------------------------------------------------------------


def test_log_artifact_takes_paths_and_uris(run, home, tmp_path):
    write(home / "my files", a="1", sub__b="2")
    directory = run.log_artifact("my files", tags=["checked"])
    assert (directory.name, directory.type) == (f"run-{run.id}-my-files:v0", "unspecified")
    assert (list(directory.manifest), directory.tags) == (["a.txt", "sub/b.txt"], ["checked"])
    file = run.log_artifact(home / "my files" / "a.txt", name="alone", type="result", aliases=["best"])
    assert (file.name, file.type, list(file.manifest), file.aliases) == (
        "alone:v0",
        "result",
        ["a.txt"],
        ["best", "latest"],
    )
    reference = run.log_artifact((home / "my files" / "a.txt").as_uri(), name="outside")
    assert reference.get_path("a.txt").kind == "reference"
    with pytest.raises(NotFound, match="cannot add gone"):
        run.log_artifact("gone")
    with pytest.raises(InvalidInput, match="name='x' is not the name of the artifact, 'data'"):
        run.log_artifact(made(), name="x")
    with pytest.raises(InvalidInput, match="an Artifact, a path or a URI is logged; this is a int"):
        run.log_artifact(3)
    with pytest.raises(InvalidInput, match=r"aliases='best' is a text; give a list of them: aliases=\['best'\]"):
        run.log_artifact(made(), aliases="best")


def test_models_by_their_path(run, home):
    (home / "model.h5").write_text("weights")
    logged = run.log_model("model.h5", name="net", aliases=["good"])
    assert (logged.type, logged.aliases) == ("model", ["good", "latest"])
    assert run.use_model("net:good").read_text() == "weights"
    run.log_artifact(made("nets", type="model", a="1", b="2"))
    assert run.use_model("nets:latest").is_dir()
    run.log_artifact(made())
    with pytest.raises(Conflict, match="data:v0 has the type 'dataset', not type='model'"):
        run.use_model("data:latest")


def test_use_artifact_takes_what_was_logged(run, start, project):
    logged = run.log_artifact(made())
    with start(job_type="other") as other:
        assert other.use_artifact(logged) is logged
        assert other.use_artifact(f"{project}/data@{logged.digest}").name == "data:v0"
        assert [each.name for each in other.used_artifacts()] == ["data:v0"]
        with pytest.raises(Conflict, match="data:v0 has the type 'dataset', not type='model'"):
            other.use_artifact(logged, type="model")
    with start(project="elsewhere") as far:
        with pytest.raises(InvalidInput, match="lineage stays within a project"):
            far.use_artifact(logged)
        with pytest.raises(InvalidInput, match=rf"artifactfs\.Api\(project='{project}'\)"):
            far.use_artifact(f"{project}/data:latest")
        with pytest.raises(InvalidInput, match=r"names a path; use the version, then get_path\('a.txt'\)"):
            far.use_artifact("data:latest/a.txt")


def test_use_of_what_was_not_logged_makes_it_once(run, start, api):
    existing = run.log_artifact(made(a="1"))
    run.log_artifact(made(a="2"))
    with start(job_type="many") as many:
        with ThreadPoolExecutor(8) as pool:
            names = set(pool.map(lambda _: many.use_artifact(made(a="3")).name, range(8)))
        assert names == {"data:v2"}
        found = many.use_artifact(made(a="1"))
        assert (found.name, found.aliases, found.digest) == ("data:v0", [], existing.digest)
        assert sorted(each.name for each in many.used_artifacts()) == ["data:v0", "data:v2"]
        assert many.logged_artifacts() == []
    assert api.artifact("data:latest").version == "v2"
    assert [each.id for each in api.artifact("data:v2").used_by()] == [many.id]


# -- several processes, one version ------------------------------------------------------------------------------------

WORKER = """
import sys, artifactfs
with artifactfs.init(job_type="shard") as run:
    part = artifactfs.Artifact("shards", type="dataset")
    for name in sys.argv[1:]:
        with part.new_file(name) as f: f.write(name)
    run.upsert_artifact(part, distributed_id="night")
"""


def test_many_processes_fill_one_version(run, location, project, api):
    around = {**os.environ, "ARTIFACTFS_REPOSITORY": location, "ARTIFACTFS_PROJECT": project}
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, *names], env=around)
        for names in (["same", "sub/1"], ["same", "sub/2", "sub/deep/x"], ["3"])
    ]
    assert [worker.wait(120) for worker in workers] == [0, 0, 0]
    mine = made("shards", mine="4")
    run.upsert_artifact(mine, distributed_id="night")
    assert mine.state == "PENDING"
    with pytest.raises(artifactfs.ArtifactFinalizedError, match="shards was finalized"):
        mine.add_file("/etc/hostname")
    with pytest.raises(artifactfs.WaitTimeoutError, match="the draft 'night' of shards was not finished within 0 s"):
        mine.wait(timeout=0)
    assert not api.artifact_exists("shards")
    whole = run.finish_artifact(Artifact("shards", type="dataset"), aliases=["all"], distributed_id="night")
    assert (whole.name, whole.aliases) == ("shards:v0", ["all", "latest"])
    assert list(whole.manifest) == ["3", "mine.txt", "same", "sub/1", "sub/2", "sub/deep/x"]
    run.log_artifact(made("shards", later="5"))
    assert mine.wait(timeout=10).name == "shards:v0"
    assert mine.state == "COMMITTED"
    assert [each.name for each in run.logged_artifacts()] == ["shards:v0", "shards:v1"]


def test_parts_with_different_contents_at_a_path_are_named(run):
    run.upsert_artifact(made(a="1", sub__same="1"), distributed_id="night")
    run.upsert_artifact(made(a="2", sub__same="1"), distributed_id="night")
    with pytest.raises(Conflict) as told:
        run.finish_artifact(Artifact("data", type="dataset"), distributed_id="night")
    assert "1 path was added by several parts with different contents" in str(told.value)
    assert "a.txt" in str(told.value)


def test_a_draft_without_parts_is_no_version(run, api):
    with pytest.raises(NotFound, match="data has no parts under distributed_id='nihgt'"):
        run.finish_artifact(made(), distributed_id="nihgt")
    run.upsert_artifact(made(), distributed_id="night")
    run.finish_artifact(Artifact("data", type="dataset"), distributed_id="night")
    with pytest.raises(NotFound, match="they are gone once the version is made"):
        run.finish_artifact(Artifact("data", type="dataset"), distributed_id="night")
    assert [version.name for version in api.artifacts(name="data")] == ["data:v0"]


@pytest.mark.parametrize("call", ["upsert_artifact", "finish_artifact"])
def test_a_draft_has_a_name(run, call):
    with pytest.raises(InvalidInput, match="distributed_id is missing"):
        getattr(run, call)(made())
