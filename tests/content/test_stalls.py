from __future__ import annotations

import pytest

from artifactfs.content import stalls
from artifactfs.errors import Unavailable
from artifactfs.model.digest import DATA, TREE

NAME = (DATA, b"n" * 32)


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(stalls.time, "monotonic", lambda: now[0])
    return now


def test_what_was_waited_for_long_is_told_for_a_moment(clock):
    stalled = stalls.Stalls()
    stalled.check(NAME)
    timeout = TimeoutError()
    error = Unavailable("no answer in time")
    error.__cause__ = timeout
    stalled.failed(NAME, error, began=97.0)
    with pytest.raises(Unavailable, match="no answer in time") as caught:
        stalled.check(NAME)
    assert caught.value is not error
    assert caught.value.__cause__ is error  # so that it is ETIMEDOUT to each
    stalled.check((TREE, NAME[1]))
    stalled.check((DATA, b"o" * 32))
    clock[0] += stalls.TOLD
    stalled.check(NAME)


def test_what_failed_quickly_is_tried_by_each(clock):
    stalled = stalls.Stalls()
    stalled.failed(NAME, Unavailable("connection refused"), began=99.9)
    stalled.check(NAME)


def test_it_does_not_grow_for_ever(clock, monkeypatch):
    monkeypatch.setattr(stalls, "MOST", 3)
    stalled = stalls.Stalls()
    for number in range(5):
        stalled.failed((DATA, bytes([number])), Unavailable("no answer in time"), began=90.0)
    assert len(stalled._failed) == 3
    clock[0] += stalls.TOLD
    stalled.failed((DATA, b"new"), Unavailable("no answer in time"), began=90.0)
    assert list(stalled._failed) == [(DATA, b"new")]
