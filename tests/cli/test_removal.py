"""delete, restore, prune, rename, tags and protected aliases: what a person sees."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from tests.cli.conftest import five_versions, versions


@pytest.fixture
def bikes(cli) -> Path:
    """bike-dataset:v0 to v4: `common` is in all, `own` in one each, v0 has the alias best."""
    return five_versions(cli, first=("best",))


def stored(cli) -> int:
    """Bytes of all packs."""
    packs = cli.home / ".local/share/artifactfs/repository/store/default/packs"
    return sum(path.stat().st_size for path in packs.rglob("*") if path.is_file() and path.suffix != ".idx")


# -- delete --------------------------------------------------------------------------------------------------------


def test_delete_says_what_goes_and_what_would_come_free(cli, bikes):
    finished = cli("delete", "bike-dataset:v1", "bike-dataset:v2", "--dry-run", "--json")
    told = json.loads(finished.stdout)
    assert [each["name"] for each in told["versions"]] == ["bike-dataset:v1", "bike-dataset:v2"]
    # The two files that no other version has, and the two directories that name them.
    assert 20_003 <= told["frees"]["bytes"] <= 20_003 + 500
    assert told["frees"]["chunks"] == 4
    assert versions(cli) == ["v0", "v1", "v2", "v3", "v4"]
    finished = cli("delete", "bike-dataset:v1", "bike-dataset:v2")
    assert finished.lines == ["deleted bike-dataset:v1", "deleted bike-dataset:v2"]
    assert versions(cli) == ["v0", "v3", "v4"]


def test_an_alias_keeps_a_version_and_the_message_says_how_it_goes(cli, bikes):
    message = cli.refuses("delete", "bike-dataset:v0")
    assert message.startswith("bike-dataset:v0 has the alias best")
    assert "--delete-aliases" in message
    dry = json.loads(cli("delete", "bike-dataset:best", "--dry-run", "--json").stdout)
    assert (dry["versions"], [each["name"] for each in dry["kept"]]) == ([], ["bike-dataset:v0"])
    cli("delete", "bike-dataset:best", "--delete-aliases")
    assert versions(cli) == ["v1", "v2", "v3", "v4"]


def test_latest_moves_to_what_is_left(cli, bikes):
    cli("delete", "bike-dataset:latest")
    assert "latest" in json.loads(cli("show", "bike-dataset:v3", "--json").stdout)["aliases"]


def test_a_whole_artifact_goes_by_an_option_only(cli, bikes):
    assert "--all-versions" in cli.refuses("delete", "bike-dataset", status=2)
    assert "names one version" in cli.refuses("delete", "bike-dataset:v1", "--all-versions", status=2)
    assert "path" in cli.refuses("delete", "bike-dataset:v1/own", status=2)
    assert "alias best" in cli.refuses("delete", "bike-dataset", "--all-versions")
    told = json.loads(cli("delete", "bike-dataset", "--all-versions", "--delete-aliases", "--dry-run", "--json").stdout)
    assert len(told["versions"]) == 5
    assert told["frees"]["bytes"] == stored(cli)
    assert len(cli("delete", "bike-dataset", "--all-versions", "--delete-aliases").lines) == 5
    assert cli("ls").stdout == ""


def test_what_is_not_there_is_said(cli, bikes):
    assert "no version or alias 'v9'" in cli.refuses("delete", "bike-dataset:v9")
    assert "did you mean bike-dataset?" in cli.refuses("delete", "bike-datset:v1")
    assert "several projects" in cli.refuses("delete", "a/bikes:v1", "b/bikes:v1", status=2)


# -- tombstones ----------------------------------------------------------------------------------------------------


def test_what_was_deleted_is_still_told_of(cli, bikes):
    digest = json.loads(cli("show", "bike-dataset:v1", "--json").stdout)["digest"]
    cli("delete", "bike-dataset:v1")
    shown = cli("show", "bike-dataset:v1").stdout
    assert re.search(rf"^digest +{digest}$", shown, re.MULTILINE)
    assert re.search(r"^deleted by +\w+@", shown, re.MULTILINE)
    told = json.loads(cli("show", "bike-dataset:v1", "--json").stdout)
    assert (told["name"], told["size"], told["logged_by"]) == ("bike-dataset:v1", 60_001, None)
    (line,) = cli("log", "bike-dataset", "--deleted").lines[1:]
    assert line.split()[0] == "v1"
    (fields,) = json.loads(cli("log", "bike-dataset", "--deleted", "--json").stdout)
    assert fields["deleted_by"] == told["deleted_by"]
    message = cli.refuses("get", "bike-dataset:v1", cli.home / "out")
    assert re.match(r"bike-dataset:v1 was deleted at 20\d\d-\d\d-\d\d \d\d:\d\d UTC by \w+@", message)
    assert "no version of bike-dataset was deleted" not in cli("log", "bike-dataset", "--deleted").stderr


def test_lineage_names_what_was_deleted(cli, bikes):
    script = "artifactfs get bike-dataset:v1 data && artifactfs put bike-model data/own --type model"
    path = f"{cli.home}/bin"
    Path(path).mkdir()
    program = Path(path, "artifactfs")
    program.write_text(f'#!/bin/sh\nexec {" ".join(cli.program)} "$@"\n')
    program.chmod(0o755)
    cli("run", "--job-type", "train", "--", "sh", "-c", script, env={"PATH": f"{path}:{os.environ['PATH']}"})
    cli("delete", "bike-dataset:v1")
    tree = cli("lineage", "bike-model:v0").stdout
    assert re.search(r"from bike-dataset:v1  dataset, deleted 20\d\d-.* by \w+@", tree)
    assert "bike-model:v0" in cli("lineage", "bike-dataset:v1", "--downstream").stdout
    graph = json.loads(cli("lineage", "bike-model:v0", "--json").stdout)
    assert [each["name"] for each in graph["deleted"]] == ["bike-dataset:v1"]
    assert "bike-dataset:v1 (deleted)" in cli("runs", graph["runs"][0]["id"]).stdout


def test_nothing_deleted_is_said(cli, bikes):
    finished = cli("log", "bike-dataset", "--deleted")
    assert (finished.stdout, finished.stderr) == ("", "no version of bike-dataset was deleted\n")
    assert json.loads(cli("log", "bike-dataset", "--deleted", "--json").stdout) == []
    cli.refuses("log", "bikes", "--deleted")


# -- restore -------------------------------------------------------------------------------------------------------


def test_what_was_deleted_comes_back_as_the_next_version(cli, bikes):
    cli("edit", "bike-dataset:v1", "--description", "one", "--metadata", "rows=3")
    finished = cli("delete", "bike-dataset:v1")
    assert finished.stderr == "until garbage is collected this brings it back: artifactfs restore bike-dataset:v1\n"
    assert re.search("^metadata\n  rows = 3\nlogged by ", cli("show", "bike-dataset:v1").stdout, re.MULTILINE)
    finished = cli("restore", "bike-dataset:v1", "--dry-run")
    assert finished.lines == ["would restore bike-dataset:v1  58.6 KiB"]
    assert finished.stderr == "2 files; 0 B would be stored anew\n"
    assert versions(cli) == ["v0", "v2", "v3", "v4"]
    finished = cli("restore", "bike-dataset:v1", "--alias", "tried")
    assert finished.lines == ["bike-dataset:v5"]
    assert finished.stderr == "bike-dataset:v1 came back as bike-dataset:v5: 2 files, 58.6 KiB; 0 B stored anew\n"
    told = json.loads(cli("show", "bike-dataset:v5", "--json").stdout)
    assert (told["aliases"], told["description"], told["metadata"]) == (["latest", "tried"], "one", {"rows": 3})
    told = json.loads(cli("show", "bike-dataset:v1", "--json").stdout)
    assert (told["same_contents"], told["metadata"]) == ("bike-dataset:v5", {"rows": 3})
    assert cli("restore", "bike-dataset:v1", "--dry-run").lines == [
        "would restore bike-dataset:v1 as bike-dataset:v5, which has the same contents"
    ]
    finished = cli("restore", "bike-dataset:v1")
    assert (finished.lines, finished.stderr) == (["bike-dataset:v5"], "unchanged: same contents as bike-dataset:v5\n")
    cli("get", "bike-dataset:v5", cli.home / "out")
    assert (cli.home / "out/own").stat().st_size == 10_001


def test_what_cannot_be_restored_is_said_and_nothing_changes(cli, bikes):
    cli("delete", "bike-dataset:v0", "bike-dataset:v1", "--delete-aliases")
    cli("gc")
    before = stored(cli)
    for words in (["--dry-run"], []):
        message = cli.refuses("restore", "bike-dataset:v1", *words)
        assert message.startswith("bike-dataset:v1 cannot be restored: what it held is gone, as garbage was collected")
    assert "was not deleted" in cli.refuses("restore", "bike-dataset:v2")
    assert "there never was a version bike-dataset:v9" in cli.refuses("restore", "bike-dataset:v9")
    assert "did you mean bike-dataset?" in cli.refuses("restore", "bike-datset:v1")
    assert "give bike-dataset:vN" in cli.refuses("restore", "bike-dataset:best", status=2)
    assert "not an alias" in cli.refuses("restore", "bike-dataset:v1", "--alias", "v3", status=2)
    assert (versions(cli), stored(cli)) == (["v2", "v3", "v4"], before)


def test_a_whole_artifact_comes_back_through_a_server(cli, bikes):
    where = cli.home / ".local/share/artifactfs/repository"
    server = cli.start("--repository", where, "serve", "--port", "0", "--no-access-log")
    assert server.stdout is not None
    try:
        url = re.search(r"http://\S+", server.stdout.readline())
        assert url is not None
        cli.env["ARTIFACTFS_REPOSITORY"] = url[0]
        assert "restore NAME:vN" in cli("delete", "bike-dataset", "--all-versions", "--delete-aliases").stderr
        assert cli("ls").stdout == ""
        assert cli("restore", "bike-dataset:v3").lines == ["bike-dataset:v5"]
        assert cli("restore", "bike-dataset:v0").lines == ["bike-dataset:v6"]
        cli("gc")
        assert versions(cli) == ["v5", "v6"]
        cli("get", "bike-dataset:v6", cli.home / "out")
        assert (cli.home / "out/common").read_bytes() == (bikes / "common").read_bytes()
        message = cli.refuses("restore", "bike-dataset:v1")
        assert message.startswith("bike-dataset:v1 cannot be restored: ")
    finally:
        server.terminate()
        server.communicate(timeout=30)


# -- prune ---------------------------------------------------------------------------------------------------------


def test_prune_needs_a_rule(cli, bikes):
    assert "prune without a rule would delete everything" in cli.refuses("prune", status=2)
    assert versions(cli) == ["v0", "v1", "v2", "v3", "v4"]


def test_prune_says_first_and_keeps_what_has_an_alias(cli, bikes):
    finished = cli("prune", "bike-dataset", "--keep-last", "2", "--dry-run")
    assert [line.split("  ")[0] for line in finished.lines] == [
        "would delete bike-dataset:v1",
        "would delete bike-dataset:v2",
        "keep bike-dataset:v0",
    ]
    assert re.fullmatch(r"2 versions, 1 kept; \d\d\.\d KiB would come free when .*\n", finished.stderr)
    assert len(versions(cli)) == 5
    finished = cli("prune", "bike-dataset", "--keep-last", "2")
    assert [line.split("  ")[0] for line in finished.lines][:2] == ["delete bike-dataset:v1", "delete bike-dataset:v2"]
    assert finished.stderr.endswith("deleted 2 versions\n")
    assert versions(cli) == ["v0", "v3", "v4"]
    cli("prune", "--keep-last", "1", "--delete-aliases")
    assert versions(cli) == ["v4"]


def test_all_of_a_rule_must_hold(cli, bikes):
    assert json.loads(cli("prune", "--older-than", "1h", "--json").stdout)["versions"] == []
    assert "--older-than" in cli.refuses("prune", "--older-than", "soon", status=2)
    assert "condition" in cli.refuses("prune", "--where", "size >", status=2)
    assert "there is no artifact 'bikes'" in cli.refuses("prune", "bikes", "--keep-last", "1")
    told = json.loads(cli("prune", "--where", "size > 60001", "--keep-last", "1", "--dry-run", "--json").stdout)
    assert [each["name"] for each in told["versions"]] == ["bike-dataset:v2", "bike-dataset:v3"]
    told = json.loads(cli("prune", "--keep-aliased", "--json").stdout)
    assert [each["name"] for each in told["versions"]] == [f"bike-dataset:v{number}" for number in (1, 2, 3)]
    assert {each["name"]: each["reason"] for each in told["kept"]} == {
        "bike-dataset:v0": "alias best (--delete-aliases)",
        "bike-dataset:v4": "it is latest",
    }
    assert "exclude each other" in cli.refuses("prune", "--keep-aliased", "--delete-aliases", status=2)


# -- names and labels ----------------------------------------------------------------------------------------------


def test_a_renamed_artifact_is_found_by_both_names(cli, bikes):
    assert cli("rename", "bike-dataset", "bikes").lines == ["bikes"]
    assert versions(cli, "bikes") == ["v0", "v1", "v2", "v3", "v4"]
    assert json.loads(cli("show", "bike-dataset:best", "--json").stdout)["name"] == "bikes:v0"
    assert "was renamed to bikes" in cli.refuses("put", "bike-dataset", bikes / "own")
    assert "has this name" in cli.refuses("rename", "bikes", "bikes")
    assert "no artifact" in cli.refuses("rename", "cars", "wheels")
    cli("delete", "bikes:v1")
    assert json.loads(cli("show", "bike-dataset:v1", "--json").stdout)["name"] == "bikes:v1"
    cli("alias", "protect", "best", "--artifact", "bike-dataset")
    assert cli("alias", "protected").lines[1].split() == ["best", "bikes"]
    cli("alias", "unprotect", "best", "--artifact", "bike-dataset")
    assert "no alias is protected" in cli("alias", "protected").stderr


def test_tags_are_added_and_removed(cli, bikes):
    assert cli("tag", "add", "bike-dataset:v1", "cleaned", "two sensors").lines == ["bike-dataset:v1"]
    cli("tag", "add", "bike-dataset:v1", "cleaned", "checked")
    assert json.loads(cli("show", "bike-dataset:v1", "--json").stdout)["tags"] == ["checked", "cleaned", "two sensors"]
    assert cli("find", "--tag", "checked").lines[1].split()[0] == "bike-dataset:v1"
    cli("tag", "remove", "bike-dataset:v1", "cleaned", "two sensors")
    assert json.loads(cli("show", "bike-dataset:v1", "--json").stdout)["tags"] == ["checked"]
    assert "has no tag cleaned; its tags are checked" in cli.refuses("tag", "remove", "bike-dataset:v1", "cleaned")
    assert "not a tag" in cli.refuses("tag", "add", "bike-dataset:v1", "a/b", status=2)


def test_a_protected_alias_moves_on_purpose_only(cli, bikes):
    cli("alias", "add", "bike-dataset:v1", "production")
    assert "no alias is protected" in cli("alias", "protected").stderr
    cli("alias", "protect", "production")
    cli("alias", "protect", "best", "--artifact", "bike-dataset")
    assert [line.split() for line in cli("alias", "protected").lines[1:]] == [
        ["production", "(all)"],
        ["best", "bike-dataset"],
    ]
    message = cli.refuses("alias", "add", "bike-dataset:v2", "production")
    assert "the alias production is protected" in message
    assert "--protected" in message
    cli.refuses("alias", "remove", "bike-dataset", "production")
    assert "protected" in cli.refuses("put", "bike-dataset", bikes / "own", "--alias", "production")
    assert "--delete-aliases --protected" in cli.refuses("delete", "bike-dataset:v1", "--delete-aliases")
    cli("alias", "add", "bike-dataset:v2", "production", "--protected")
    kept = json.loads(cli("prune", "--keep-last", "1", "--delete-aliases", "--json").stdout)["kept"]
    assert [each["name"] for each in kept] == ["bike-dataset:v0", "bike-dataset:v2"]
    cli("alias", "unprotect", "production")
    cli("alias", "remove", "bike-dataset", "production")
    assert "not protected" in cli.refuses("alias", "unprotect", "production")
