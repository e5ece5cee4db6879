"""find and plot: what a person sees."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from artifactfs.model.query import Query
from artifactfs.model.tree import FileEntry, build_tree
from artifactfs.repository import Repository

DOCUMENT = Path(__file__).parents[2] / "artifactfs" / "docs" / "search.md"
ACCURACIES = {0: 0.61, 1: 0.7, 2: None, 3: 0.95, 4: "unknown", 5: 0.93}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A repository with bike-model:v0 to v5, with an accuracy or without, and a dataset."""
    place = tmp_path_factory.mktemp("made") / "repository"
    with Repository.create(str(place)) as repository:
        for number, accuracy in ACCURACIES.items():
            with repository.writing("put") as writing:
                root = _one_file(writing, f"weights {number}")
                values = (
                    {} if accuracy is None else {"accuracy": accuracy, "dataset": {"name": "bikes", "rows": number}}
                )
                aliases = ("best",) if number == 3 else ()
                tags = ("checked",) if number > 3 else ()
                writing.commit("bike-model", root, type="model", metadata=values, aliases=aliases)
            repository.registry.edit("bike-model", number, tags=tags)
        with repository.writing("put") as writing:
            writing.commit("bike-dataset", _one_file(writing, "rows"), metadata={"accuracy": 1, "note": "clean"})
    return place


@pytest.fixture
def models(cli, made) -> Path:
    """That repository where the command line looks for one."""
    place = cli.home / ".local/share/artifactfs/repository"
    shutil.copytree(made, place)
    return place


def _one_file(writing, text: str):
    content = writing.writer.add_bytes(text.encode())
    return build_tree([FileEntry("file", content.size, content.digest, executable=False)], writing.writer.add_node)


def names(finished) -> list[str]:
    return [line.split()[0] for line in finished.lines[1:]]


# -- find ----------------------------------------------------------------------------------------------------------


def test_find_shows_the_best_first_with_what_it_was_found_by(cli, models):
    where = 'metadata.accuracy > 0.6 and metadata.dataset.name = "bikes"'
    finished = cli("find", "--type", "model", "--where", where, "--sort", "-metadata.accuracy")
    assert names(finished) == ["bike-model:v3", "bike-model:v5", "bike-model:v1", "bike-model:v0"]
    head, first, *_ = finished.lines
    assert head.split() == ["VERSION", "TYPE", "SIZE", "CREATED", "ALIASES", "accuracy", "dataset.name"]
    assert first.split()[-2:] == ["0.95", "bikes"]
    assert "best" in first


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ((), ["bike-dataset:v0", *(f"bike-model:v{number}" for number in range(6))]),
        (("bike-dataset",), ["bike-dataset:v0"]),
        (("--alias", "best"), ["bike-model:v3"]),
        (("--tag", "checked"), ["bike-model:v4", "bike-model:v5"]),
        (("--sort", "-size", "--sort", "-version", "--limit", "2"), ["bike-model:v5", "bike-model:v4"]),
        (("--where", "not metadata.accuracy exists"), ["bike-model:v2"]),
        (("--where", "metadata.note contains 'lea'", "--type", "dataset"), ["bike-dataset:v0"]),
        (("--limit", "0"), []),
        (("--where", "size > 1_000_000"), []),
        (("bike-dataset", "--alias", "best"), []),
    ],
)
def test_find(cli, models, arguments, found):
    finished = cli("find", *arguments)
    assert names(finished) == found
    assert finished.stderr == ("" if found else "no version is like that\n")


def test_find_shows_what_is_missing_and_cuts_what_is_long(cli, models):
    with Repository.open(str(models)) as repository:
        repository.registry.edit("bike-model", 1, metadata={"note": ["x" * 100]})
    finished = cli("find", "bike-model", "--where", "version < 2", "--sort", "metadata.note")
    none, long = finished.lines[1:]  # a list has no place in the order
    assert long.split()[-1] == '["' + "x" * 37 + "…"
    assert none.split()[-1] == "-"


def test_find_as_json_tells_all_of_a_version(cli, models):
    (found,) = json.loads(cli("find", "--alias", "best", "--json").stdout)
    assert found["name"] == "bike-model:v3"
    assert found["metadata"] == {"accuracy": 0.95, "dataset": {"name": "bikes", "rows": 3}}
    assert found["aliases"] == ["best"]
    assert json.loads(cli("find", "--where", "version > 9", "--json").stdout) == []


@pytest.mark.parametrize("words", [("find",), ("find", "--json"), ("plot", "size")])
def test_an_artifact_that_is_not_there_is_told_with_near_misses(cli, models, words):
    command, *options = words
    assert cli.refuses(command, "bike-modle", *options) == (
        "no artifact 'bike-modle' in project 'default'; did you mean bike-model or bike-dataset?"
    )


@pytest.mark.parametrize("name", [(), ("bikes",)])
def test_find_on_a_new_machine_finds_nothing(cli, name):
    finished = cli("find", *name, "--where", "metadata.a = 1")
    assert (finished.stdout, finished.stderr) == ("", "no version is like that\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--where", "metadata.accuracy >"), "--where: unexpected end at character 20 of the condition"),
        (("--where", "accuracy > 0.9"), "--where: unexpected 'accuracy' at character 1"),
        (("--sort", "accuracy"), "--sort: there is no field 'accuracy'; metadata.accuracy would do"),
        (("--sort", "-tag"), "--sort: cannot sort by tag"),
        (("--type", "a/b"), "not a type"),
        (("--alias", "v1"), "not an alias"),
        (("--tag", "a/b"), "'a b' would do"),
        (("--limit", "-1"), "--limit"),
        (("a b",), "'a-b' would do"),
    ],
)
def test_find_refuses_a_mistake_and_names_it(cli, models, arguments, words):
    message = cli.refuses("find", *arguments, status=2)
    assert words in message
    assert len(message.splitlines()) == 1


def test_the_conditions_of_the_document_are_ones(made):
    blocks = re.findall(r"^```text\n(.*?)^```$", DOCUMENT.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    conditions = blocks[1].splitlines()
    assert len(conditions) == 10
    with Repository.open(str(made)) as repository:
        found = [len(repository.registry.find(Query(where=condition))) for condition in conditions]
    assert found == [3, 5, 0, 0, 0, 0, 3, 0, 0, 0]


# -- plot ----------------------------------------------------------------------------------------------------------


def test_plot_draws_the_value_over_versions_and_says_where_it_is_missing(cli, models):
    finished = cli("plot", "bike-model", "metadata.accuracy")
    title, *rows, axis, numbers = finished.lines
    assert title == "bike-model  metadata.accuracy"
    assert len(rows) == 16
    assert max(map(len, finished.lines)) == 120
    assert sum(row.count("●") for row in rows) == 4
    assert rows[0].startswith("1.0 ┤")
    assert axis.count("┴") == 4
    assert numbers.split() == ["v0", "v1", "v3", "v5"]
    assert finished.stderr == "left out, without a number at metadata.accuracy: v2, v4 (2 of 6 versions)\n"


def test_plot_without_utf_8_is_ascii_and_as_wide_as_the_terminal(cli, models):
    cli.env.update(PYTHONIOENCODING="ascii", COLUMNS="60")
    finished = cli("plot", "bike-model", "size")
    assert finished.stdout.isascii()
    assert max(map(len, finished.lines)) == 60
    assert finished.stderr == ""
    assert cli("plot", "bike-model", "size", "--where", "version = 3").stdout.count("*") == 1


@pytest.mark.parametrize("name", ["plot.png", "plot.SVG"])
def test_plot_writes_a_picture(cli, models, name):
    finished = cli("plot", "bike-model", "metadata.accuracy", "--output", name)
    assert finished.stdout == f"{name}\n"
    assert "left out" in finished.stderr
    written = (cli.home / name).read_bytes()
    if name.endswith("png"):
        assert written.startswith(b"\x89PNG\r\n\x1a\n")
        assert int.from_bytes(written[16:20], "big") == 1200  # its width
    else:
        assert ET.fromstring(written).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - of our own making
    cli("plot", "bike-model", "metadata.accuracy", "--output", name)
    assert (cli.home / name).read_bytes() == written


def test_plot_says_how_to_get_what_draws_pictures(cli, models):
    # A package of that name that cannot be imported stands before the real one.
    (cli.home / "without").mkdir()
    (cli.home / "without" / "matplotlib.py").write_text("raise ModuleNotFoundError(name='matplotlib')\n")
    cli.env["PYTHONPATH"] = os.pathsep.join([str(cli.home / "without"), cli.env["PYTHONPATH"]])
    assert "pip install 'artifactfs[plot]'" in cli.refuses("plot", "bike-model", "size", "--output", "plot.png")
    assert not (cli.home / "plot.png").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("bike-model", "accuracy"), 2, "FIELD: there is no field 'accuracy'; metadata.accuracy would do"),
        (("bike-model", "name"), 2, "FIELD: cannot plot name, which is no number"),
        (("bike-model", "metadata.x", "--where", "metadata.x >"), 2, "--where: unexpected end"),
        (
            ("bike-model", "size", "--output", "plot.gif"),
            2,
            "--output: not a picture's name: 'plot.gif'; plot.png or .svg",
        ),
        (("bike-model", "size", "--output", "nowhere/plot.png"), 1, "--output nowhere/plot.png cannot be written"),
        (("nothing", "size"), 1, "no artifact 'nothing' in project 'default'"),
        (("bike-model", "size", "--where", "version > 9"), 1, "no version of bike-model is like that: version > 9"),
        (("bike-model", "metadata.dataset.name"), 1, "has them at metadata.accuracy, metadata.dataset.rows"),
        (("bike-dataset", "metadata.missing"), 1, "no version of bike-dataset has a number at metadata.missing"),
    ],
)
def test_plot_refuses_a_mistake_and_names_it(cli, models, arguments, status, words):
    message = cli.refuses("plot", *arguments, status=status)
    assert words in message
    assert len(message.splitlines()) == 1


def test_what_draws_and_what_searches_is_imported_on_demand(cli):
    program = (
        "import sys, artifactfs.cli.plotting, artifactfs.cli.finding; "
        "print([name for name in ('matplotlib', 'sqlalchemy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=cli.env)
    assert done.stdout == "[]\n"
