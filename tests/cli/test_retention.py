"""retention, quota and stats: rules that are kept, what a project may take, and what takes the space."""

from __future__ import annotations

import json
import os
import re

from tests.cli.conftest import versions

# -- rules ---------------------------------------------------------------------------------------------------------


def test_rules_are_set_shown_applied_and_removed(cli, bikes):
    assert "no rules" in cli("retention", "show").stderr
    assert cli("retention", "set", "--keep-last", "1", "--older-than", "30d").lines == [
        "(all): delete versions without an alias, older than 30d, not the last"
    ]
    cli("retention", "set", "bike-dataset", "--keep-last", "3", "--where", "size > 0")
    rows = [re.split(r"  +", line) for line in cli("retention", "show").lines[1:]]
    assert [row[:2] for row in rows] == [
        ["(all)", "delete versions without an alias, older than 30d, not the last"],
        ["bike-dataset", "delete versions without an alias, not among the last 3, where size > 0"],
    ]
    assert re.fullmatch(r"\w+@.+", rows[0][3])
    assert [rule["artifact"] for rule in json.loads(cli("retention", "show", "--json").stdout)] == [
        None,
        "bike-dataset",
    ]
    told = json.loads(cli("prune", "--dry-run", "--json").stdout)
    assert [each["name"] for each in told["versions"]] == ["bike-dataset:v0", "bike-dataset:v1"]
    cli("prune")
    assert versions(cli) == ["v2", "v3", "v4"]
    cli("retention", "remove", "bike-dataset")
    assert json.loads(cli("prune", "--json").stdout)["versions"] == []  # the rule of all, and they are young
    cli("retention", "remove")
    assert "no retention rule" in cli.refuses("retention", "remove")


def test_rules_that_say_nothing_are_refused(cli, bikes):
    cli.refuses("retention", "set", status=2)
    cli.refuses("retention", "set", "bike-dataset", "--older-than", "soon", status=2)
    assert "no artifact 'cars'" in cli.refuses("retention", "set", "cars", "--keep-last", "1")


# -- quotas --------------------------------------------------------------------------------------------------------


def test_a_put_beyond_the_quota_is_refused_with_numbers_and_stores_nothing(cli, bikes):
    packs = cli.home / ".local/share/artifactfs/repository/store/default/packs"
    before = sorted(packs.rglob("*"))
    used = json.loads(cli("quota", "show", "--json").stdout)
    assert (used["logical"], used["versions"], used["quota_stored"]) == (300_010, 5, None)
    cli("quota", "set", "150kB")
    (bikes / "own").write_bytes(os.urandom(60_000))
    message = cli.refuses("put", "bike-dataset", bikes)
    found = re.match(
        r"the project default is full: its quota is 150,000 bytes stored, ([\d,]+) are used, and this takes at least ([\d,]+) more; ",
        message,
    )
    assert found, message
    assert int(found[1].replace(",", "")) == used["stored"]
    assert int(found[2].replace(",", "")) >= 60_000
    assert sorted(packs.rglob("*")) == before
    (bikes / "own").write_bytes(b"small")
    assert cli("put", "bike-dataset", bikes).lines == ["bike-dataset:v5"]
    cli("quota", "set", "any")
    (bikes / "own").write_bytes(os.urandom(60_000))
    cli("put", "bike-dataset", bikes)


def test_logical_bytes_are_bounded_too(cli, bikes):
    cli("quota", "set", "--logical", "320kB")
    rows = [line.split() for line in cli("quota", "show").lines[1:]]
    assert rows[1] == ["logical", "293.0", "KiB", "312.5", "KiB"]
    assert rows[0][-1] == "any"
    (bikes / "own").write_bytes(b"other")
    message = cli.refuses("put", "bike-dataset", bikes)
    assert "its quota is 320,000 bytes in its versions, 300,010 are used, and this takes 50,005 more" in message
    cli("get", "bike-dataset:v2", cli.home / "again")
    assert cli("put", "bike-dataset", cli.home / "again").lines == ["bike-dataset:v2"]  # takes nothing more
    cli("delete", "bike-dataset:v0")
    assert cli("put", "bike-dataset", bikes).lines == ["bike-dataset:v5"]


def test_what_is_no_size_is_refused(cli):
    assert "not a quota: 'much'; give 500GB, 2TiB, or any" in cli.refuses("quota", "set", "much", status=2)
    cli.refuses("quota", "set", status=2)


# -- stats ---------------------------------------------------------------------------------------------------------


def test_stats_say_what_takes_the_space(cli, bikes):
    cli("put", "copy", bikes)
    (bikes / "own").write_bytes(os.urandom(90_000))
    cli("put", "other", bikes / "own")
    told = json.loads(cli("stats", "--json").stdout)
    assert told["held"] == told["stored"]
    assert told["unheld"] == 0
    by_name = {each["name"]: each for each in told["artifacts"]}
    assert 90_000 <= by_name["other"]["own"] < 90_300
    assert by_name["copy"]["own"] == 0  # all of it is in bike-dataset:v4 too
    assert 40_000 <= by_name["bike-dataset"]["own"] < 42_000
    assert 60_000 <= told["shared"] < 61_000
    assert sum(each["own"] for each in told["artifacts"]) + told["shared"] == told["held"]
    assert sum(each["added"] for each in told["versions"]) == told["held"]
    versions = {each["name"]: each for each in told["versions"]}
    assert 10_001 <= versions["bike-dataset:v1"]["own"] < 10_400
    assert 60_000 <= versions["bike-dataset:v0"]["added"] < 60_400
    assert versions["bike-dataset:v4"]["own"] == 0
    lines = [re.split(r"  +", line.strip()) for line in cli("stats").lines]
    assert lines[0] == ["ARTIFACT", "VERSIONS", "LOGICAL", "OWN"]
    assert [line[0] for line in lines[1:]] == [
        "other", "bike-dataset", "copy", "(held by several)", "(held by none)", "(all)",
    ]  # fmt: skip
    assert [line.split()[0] for line in cli("stats", "bike-dataset").lines[1:]] == ["v0", "v1", "v2", "v3", "v4"]


def test_what_a_version_alone_holds_is_what_its_deletion_would_free(cli, bikes):
    told = json.loads(cli("stats", "bike-dataset", "--json").stdout)
    for each in told["versions"][:2]:
        freed = json.loads(cli("delete", each["name"], "--dry-run", "--json").stdout)["frees"]["bytes"]
        assert freed == each["own"]
    cli("delete", "bike-dataset:v1")
    after = json.loads(cli("stats", "--json").stdout)
    assert after["unheld"] == told["versions"][1]["own"]  # until garbage is collected


def test_growth_is_drawn(cli, bikes):
    lines = cli("stats", "--plot").lines
    assert lines[0] == "default  stored MiB, by version in the order of their making"
    assert "bike-dataset:v0" in lines[-1]
    picture = cli.home / "growth.svg"
    assert cli("stats", "bike-dataset", "--plot", "--output", picture).lines == [str(picture)]
    assert picture.read_bytes().startswith(b"<?xml")
    assert "not a picture" in cli.refuses("stats", "--plot", "--output", "growth.txt", status=2)
    assert "--plot" in cli.refuses("stats", "--output", "growth.svg", status=2)
    assert "two formats" in cli.refuses("stats", "--plot", "--json", status=2)


def test_an_empty_project_has_nothing_to_draw(cli):
    cli("init")
    assert "no version yet" in cli.refuses("stats", "--plot")
    assert cli("stats").lines[-1].split() == ["(all)", "0", "0", "B", "0", "B"]
