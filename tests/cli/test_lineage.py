"""`lineage`: the graph as a tree, as JSON, and for Graphviz."""

from __future__ import annotations

import json
import re

import pytest

from artifactfs.cli.lineage import dot_lines, tree_lines
from artifactfs.model.lineage import FAILED, FINISHED, Lineage, Link, Links, NewRun, RunRecord, walk
from artifactfs.model.records import VersionRecord
from artifactfs.repository import Repository
from tests.conftest import Cli

# A statement of Graphviz's language, as far as it is used: https://graphviz.org/doc/info/lang.html
STRING = r'"(?:[^"\\\n]|\\.)*"'
ATTRIBUTES = rf"\[(?:\w+=(?:\w+|{STRING})(?:, )?)+\]"
STATEMENT = re.compile(rf"  (?:rankdir=LR; node {ATTRIBUTES}|{STRING} {ATTRIBUTES}|{STRING} -> {STRING});")


def record(number: int, name: str, kind: str = "dataset") -> VersionRecord:
    return VersionRecord(number, name, kind, 0, bytes(32), 0, 0, 0, 0, "", {}, ())


def run(identity: str, name: str = "", state: str = FINISHED) -> RunRecord:
    return RunRecord(
        id=identity, name=name or identity, job_type="train", state=state, started=0, ended=0, config={}, host="",
        command=(), commit_hash="", exit_status=0, inputs=0, outputs=0,
    )  # fmt: skip


def graph(root: VersionRecord, runs: dict[str, tuple[list[int], list[int]]], versions: list[VersionRecord]) -> Lineage:
    links = [
        Link(name, number, output, 0)
        for name, ends in runs.items()
        for output in (True, False)
        for number in ends[output]
    ]

    made = {name: run(name) for name in runs}

    def ask(wanted, ids) -> Links:
        found = [link for link in links if link.version in wanted or link.run in ids]
        return Links(found, [made[name] for name in {link.run for link in found}], versions)

    return walk(root, ask)


def drawn(found: Lineage) -> list[str]:
    return [re.sub(r"train, finished  [-0-9]+ [:0-9]+  ", "", line) for line in tree_lines(found, unicode=True)]


def test_the_tree_goes_up_and_down():
    root = record(2, "model", "model")
    versions = [record(1, "data"), root, record(3, "result", "result"), record(4, "other")]
    runs = {"prepare": ([], [1]), "fit": ([1, 9], [2, 4]), "evaluate": ([2, 1], [3])}
    assert drawn(graph(root, runs, versions)) == [
        "model:v0  model",
        "├── made by fit",
        "│   ├── from data:v0  dataset",
        "│   │   └── made by prepare",
        "│   └── from a deleted version",
        "└── used by evaluate",
        "    └── made result:v0  result",
    ]


def test_what_comes_again_is_written_once():
    root = record(3, "result")
    runs = {"a": ([1], [2]), "b": ([2], [3]), "c": ([2], [3])}
    assert drawn(graph(root, runs, [record(1, "raw"), record(2, "data"), root])) == [
        "result:v0  dataset",
        "├── made by b",
        "│   └── from data:v0  dataset",
        "│       └── made by a",
        "│           └── from raw:v0  dataset",
        "└── made by c",
        "    └── from data:v0  dataset  (above)",
    ]


def test_a_cycle_and_a_long_chain_end():
    root = record(1, "data")
    assert len(drawn(graph(root, {"a": ([1], [1])}, [root]))) < 10
    long = {f"r{number}": ([number], [number + 1]) for number in range(1, 2000)}
    found = graph(root, long, [record(number, f"v{number}") for number in range(1, 2001)])
    lines = drawn(found)
    assert len(lines) == 2 * len(long) + 1
    assert max(map(len, lines)) < 120  # what is a chain goes on below itself
    assert [line.index("used by") for line in lines if "used by" in line][:6] == [4, 12, 20, 28, 36, 36]


def test_the_graph_is_in_graphvizs_language_whatever_the_names():
    root = record(1, "data")
    found = graph(root, {"r1": ([1], [2])}, [root, record(2, "model")])
    found.runs["r1"] = run("r1", 'a "b" \\ c\n-> {evil} größe \x1b[0m', FAILED)
    first, *statements, last = dot_lines(found)
    assert (first, last) == ("digraph lineage {", "}")
    for statement in statements:
        assert STATEMENT.fullmatch(statement), statement
    assert statements[-2:] == ['  "v1" -> "run r1";', '  "run r1" -> "v2";']
    assert 'label="a \\"b\\" \\\\ c\\\\n-> {evil} größe \\\\x1b[0m\\ntrain, failed"' in "".join(statements)


@pytest.fixture
def pipeline(cli: Cli, repository: Repository) -> Repository:
    """data:v0 by no run, model:v0 by a Run from it, result:v0 by another."""
    source = cli.home / "file"
    registry = repository.registry
    for name, before, environment in (
        ("data", None, {}),
        ("model", "data", {"ARTIFACTFS_RUN": "fit"}),
        ("result", "model", {"ARTIFACTFS_RUN": "judge"}),
    ):
        if before is not None:
            registry.start_run(NewRun(id=environment["ARTIFACTFS_RUN"], name=f"to {name}", job_type="t"))
            registry.add_inputs(environment["ARTIFACTFS_RUN"], [registry.version(before, 0).id])
        source.write_text(name)
        cli("put", name, source, env=environment)
    return repository


def test_lineage_of_a_version(cli: Cli, pipeline: Repository):
    whole = cli("lineage", "model").stdout
    assert re.sub(r"  t, running  [-0-9]+ [:0-9]+  ", "  ", whole).splitlines() == [
        "model:v0  dataset",
        "├── made by to model  fit",
        "│   └── from data:v0  dataset",
        "└── used by to result  judge",
        "    └── made result:v0  dataset",
    ]
    assert "used by" not in cli("lineage", "model:v0", "--upstream").stdout
    assert "made by" not in cli("lineage", "model:latest", "--downstream").stdout
    near = cli("lineage", "data", "--depth", "1")
    assert "model:v0" in near.stdout
    assert "result:v0" not in near.stdout
    assert near.stderr == "there is more; --depth says how far to go\n"
    plain = cli("lineage", "model", env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}).lines
    assert plain[1].startswith("|-- made by")
    assert plain[-1].startswith("    `-- made result:v0")


def test_lineage_for_programs(cli: Cli, pipeline: Repository):
    found = json.loads(cli("lineage", "model", "--json").stdout)
    assert found["version"] == "model:v0"
    assert found["complete"] is True
    assert sorted(each["name"] for each in found["versions"]) == ["data:v0", "model:v0", "result:v0"]
    assert sorted(each["id"] for each in found["runs"]) == ["fit", "judge"]
    links = {(link["run"], link["version"], link["kind"]) for link in found["links"]}
    assert links == {
        ("fit", "data:v0", "input"), ("fit", "model:v0", "output"),
        ("judge", "model:v0", "input"), ("judge", "result:v0", "output"),
    }  # fmt: skip
    assert cli("lineage", "model", "--dot").lines[0] == "digraph lineage {"
    assert "two formats" in cli.refuses("lineage", "model", "--dot", "--json", status=2)
    assert "no artifact 'nothing'" in cli.refuses("lineage", "nothing")


def test_show_names_who_made_and_used_it(cli: Cli, pipeline: Repository):
    shown = cli("show", "model:v0").stdout
    assert re.search(r"^logged by +to model", shown, re.MULTILINE)
    assert re.search(r"^used by +to result", shown, re.MULTILINE)


def test_one_run(cli: Cli, pipeline: Repository):
    pipeline.registry.update_run("fit", config={"rate": 0.1, "note": "a\x1bb"}, state=FAILED, exit_status=3)
    lines = cli("runs", "fit").lines
    assert lines[:4] == ["run       fit", "name      to model", "job type  t", "state     failed, exit status 3"]
    assert "inputs    data:v0" in lines
    assert "outputs   model:v0" in lines
    assert lines[-3:] == ["config", "  note = a\\x1bb", "  rate = 0.1"]
    assert cli("runs", "to model").lines == lines  # by its name
    found = json.loads(cli("runs", "judge", "--json").stdout)
    assert (found["id"], found["state"], found["used"], found["logged"]) == (
        "judge",
        "running",
        ["model:v0"],
        ["result:v0"],
    )
    assert "ended     not yet" in cli("runs", "judge").lines
    pipeline.registry.add_inputs("fit", [pipeline.registry.version("result", 0).id])
    assert "inputs    data:v0\n          result:v0\n" in cli("runs", "fit").stdout
    pipeline.registry.delete("data", 0)
    assert json.loads(cli("runs", "fit", "--json").stdout)["used"] == ["data:v0", "result:v0"]
    assert "inputs    data:v0 (deleted)" in cli("runs", "fit").lines


def test_a_run_that_is_none_or_several(cli: Cli, pipeline: Repository):
    for number in range(7):
        pipeline.registry.start_run(NewRun(id=f"again{number}", name="again", job_type="t"))
    said = cli.refuses("runs", "again")
    assert "several runs are called 'again'" in said
    assert "again6, " in said
    assert said.count("again") == 1 + 5
    assert "no run has the id or name 'nobody'; `artifactfs runs` lists them" in cli.refuses("runs", "nobody")
    assert "one run" in cli.refuses("runs", "fit", "--limit", "1", status=2)
