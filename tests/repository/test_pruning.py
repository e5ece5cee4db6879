"""Which versions a rule deletes, and deleting them step by step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from artifactfs.errors import NotFound
from artifactfs.model.retention import Permissions, RetentionRule, Tombstone
from artifactfs.pruning import Kept, apply_rules, carry_out, plan
from artifactfs.registry.sql import SQLRegistry
from tests.conformance.registry import NAME, Clock, commit

DAY = 86_400


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(tmp_path: Path, clock: Clock) -> Iterator[SQLRegistry]:
    """Versions v0 to v5 of an artifact, a day apart; v1 is `best`. Now is a day after the last."""
    with closing(SQLRegistry(tmp_path / "registry.db", create=True, clock=clock)) as registry:
        for number in range(6):
            commit(registry, number, metadata={"step": number}, aliases=("best",) if number == 1 else ())
            clock.now += DAY
        yield registry


def gone(registry: SQLRegistry, clock: Clock, rule: RetentionRule, **words) -> list[int]:
    return [version.number for version in plan(registry, [rule], now=int(clock.now * 1e9), **words).gone]


@pytest.mark.parametrize(
    ("rule", "numbers"),
    [
        (RetentionRule(keep_last=1), [0, 2, 3, 4]),
        (RetentionRule(keep_last=4), [0]),
        (RetentionRule(keep_last=6), []),
        (RetentionRule(keep_last=100), []),
        (RetentionRule(older_than=3 * DAY), [0, 2]),
        (RetentionRule(older_than=0), [0, 2, 3, 4]),
        (RetentionRule(older_than=100 * DAY), []),
        (RetentionRule(where="metadata.step >= 3"), [3, 4]),
        (RetentionRule(where="metadata.step >= 3", keep_last=2), [3]),
        (RetentionRule(keep_aliased=True), [0, 2, 3, 4]),
    ],
)
def test_a_rule_means_what_all_of_it_holds_for(registry, clock, rule, numbers):
    assert gone(registry, clock, rule) == numbers


def test_aliases_go_when_it_is_permitted_and_latest_never(registry, clock):
    rule = RetentionRule(older_than=0)
    assert gone(registry, clock, rule, permissions=Permissions(aliases=True)) == [0, 1, 2, 3, 4]
    registry.retention.protect("best")
    assert gone(registry, clock, rule, permissions=Permissions(aliases=True)) == [0, 2, 3, 4]
    assert gone(registry, clock, rule, permissions=Permissions(aliases=True, protected=True)) == [0, 1, 2, 3, 4]
    registry.move_aliases(NAME, 0, ["latest"])
    assert 0 not in gone(registry, clock, rule, permissions=Permissions(aliases=True, protected=True))


def test_what_is_in_use_stays_and_says_why(registry, clock):
    session = registry.open_session("mount", seconds=60)
    registry.retention.hold(session, {registry.version(NAME, 0).id: "pinned at you@laptop:/data"})
    found = plan(registry, [RetentionRule(keep_last=4)], now=int(clock.now * 1e9))
    assert found.gone == []
    assert [(each.version.number, each.reason) for each in found.kept] == [
        (0, "in use: pinned at you@laptop:/data (--in-use)"),
        (1, "alias best (--delete-aliases)"),
    ]
    assert gone(registry, clock, RetentionRule(keep_last=4), permissions=Permissions(in_use=True)) == [0]


def test_the_rule_of_an_artifact_stands_for_that_of_all(registry, clock):
    commit(registry, "x", artifact="another")
    commit(registry, "y", artifact="another")
    now = int(clock.now * 1e9)
    rules = [RetentionRule(keep_last=1), RetentionRule(artifact=NAME, keep_last=5)]
    assert [version.name for version in plan(registry, rules, now=now).gone] == ["another:v0", f"{NAME}:v0"]
    assert [version.name for version in plan(registry, rules, ["another"], now=now).gone] == ["another:v0"]
    assert [version.name for version in plan(registry, rules[1:], now=now).gone] == [f"{NAME}:v0"]
    with pytest.raises(NotFound):
        plan(registry, rules, ["absent"], now=now)


def test_what_became_needed_since_the_plan_stays(registry, clock):
    found = plan(registry, [RetentionRule(keep_last=2)], now=int(clock.now * 1e9))
    assert [version.number for version in found.gone] == [0, 2, 3]
    registry.move_aliases(NAME, 2, ["wanted"])
    registry.delete(NAME, 3)
    first, second = carry_out(registry, found.gone)
    assert isinstance(first, Tombstone)
    assert isinstance(second, Kept)
    assert second.reason.startswith(f"{NAME}:v2 has the alias wanted")
    assert [version.number for version in registry.versions(NAME)] == [1, 2, 4, 5]


def test_kept_rules_are_applied_in_bounded_steps(registry, clock):
    now = int(clock.now * 1e9)
    assert apply_rules(registry, now=now, by="a rule").deleted == []
    registry.retention.set_rule(RetentionRule(keep_last=1))
    step = apply_rules(registry, now=now, by="a rule", most=3)
    assert [(each.number, each.deleted_by) for each in step.deleted] == [(0, "a rule"), (2, "a rule"), (3, "a rule")]
    assert step.more
    step = apply_rules(registry, now=now, by="a rule", most=3)
    assert ([each.number for each in step.deleted], step.more) == ([4], False)
    assert apply_rules(registry, now=now, by="a rule").deleted == []
