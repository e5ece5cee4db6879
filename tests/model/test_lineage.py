"""The walk along runs and versions: which are found, how far, and by how many questions."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from artifactfs.model import lineage
from artifactfs.model.lineage import FINISHED, Link, Links, RunRecord, walk
from artifactfs.model.records import VersionRecord


def version(number: int) -> VersionRecord:
    return VersionRecord(number, f"a{number}", "dataset", 0, bytes(32), 0, 0, 0, 0, "", {}, ())


def run(name: str) -> RunRecord:
    return RunRecord(
        id=name, name=name, job_type="", state=FINISHED, started=0, ended=0, config={}, host="", command=(),
        commit_hash="", exit_status=0, inputs=0, outputs=0,
    )  # fmt: skip


class Graph:
    """Runs as ``name: (inputs, outputs)``; counts how often it is asked."""

    def __init__(self, runs: dict[str, tuple[list[int], list[int]]], deleted: Collection[int] = ()) -> None:
        self.links = [
            Link(name, number, output, 0)
            for name, ends in runs.items()
            for output in (False, True)
            for number in ends[output]
        ]
        self.deleted = set(deleted)
        self.asked = 0

    def __call__(self, versions: Collection[int], runs: Collection[str]) -> Links:
        self.asked += 1
        found = [link for link in self.links if link.version in versions or link.run in runs]
        return Links(
            found,
            [run(name) for name in sorted({link.run for link in found})],
            [version(number) for number in sorted({link.version for link in found} - self.deleted)],
        )


PIPELINE = {
    "prepare": ([1], [2]),
    "train": ([2], [3]),
    "train again": ([2, 8], [4]),
    "evaluate": ([3, 4], [5]),
    "elsewhere": ([6], [7]),
}


def found(graph: Graph, root: int, **options: object) -> tuple[set[int], set[str], bool]:
    result = walk(version(root), graph, **options)
    keys = [(link.run, link.version, link.output) for link in result.links]
    assert len(keys) == len(set(keys))
    return set(result.versions), set(result.runs), result.complete


@pytest.mark.parametrize(
    ("root", "options", "versions", "runs"),
    [
        (1, {}, {1, 2, 3, 4, 5}, {"prepare", "train", "train again", "evaluate"}),
        (5, {}, {1, 2, 3, 4, 5, 8}, {"prepare", "train", "train again", "evaluate"}),
        (3, {}, {1, 2, 3, 5}, {"prepare", "train", "evaluate"}),
        (3, {"downstream": False}, {1, 2, 3}, {"prepare", "train"}),
        (3, {"upstream": False}, {3, 5}, {"evaluate"}),
        (9, {}, {9}, set()),
    ],
)
def test_a_walk_goes_up_to_what_it_was_made_from_and_down_to_what_was_made_from_it(root, options, versions, runs):
    assert found(Graph(PIPELINE), root, **options) == (versions, runs, True)


@pytest.mark.parametrize(
    ("depth", "versions", "complete"),
    [(0, {5}, False), (1, {3, 4, 5}, False), (2, {2, 3, 4, 5, 8}, False), (3, {1, 2, 3, 4, 5, 8}, True)],
)
def test_depth_is_how_many_runs_away(depth, versions, complete):
    assert found(Graph(PIPELINE), 5, depth=depth)[::2] == (versions, complete)


def test_one_question_is_asked_for_all_that_is_equally_far():
    wide = {f"r{number}": ([1], [100 + number]) for number in range(50)}
    graph = Graph(wide)
    assert len(found(graph, 1)[0]) == 51
    assert graph.asked == 3  # the root's, the runs', and that their outputs have no links


def test_cycles_end():
    graph = Graph({"a": ([1], [2]), "b": ([2], [1]), "itself": ([1], [1])})
    assert found(graph, 1) == ({1, 2}, {"a", "b", "itself"}, True)


def test_deleted_versions_have_links_and_lead_on():
    graph = Graph({"prepare": ([1], [2]), "train": ([2], [3])}, deleted=[2])
    result = walk(version(3), graph)
    assert set(result.versions) == {1, 3}
    assert set(result.runs) == {"prepare", "train"}
    assert result.used["train"] == [2]
    assert result.makers[2] == ["prepare"]


def test_a_walk_is_bounded(monkeypatch):
    monkeypatch.setattr(lineage, "MOST_NODES", 20)
    graph = Graph({f"r{number}": ([number], [number + 1]) for number in range(100)})
    versions, runs, complete = found(graph, 0)
    assert 20 <= len(versions) + len(runs) <= 23
    assert not complete
