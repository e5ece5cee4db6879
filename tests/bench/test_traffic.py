"""How scripts/bench counts what passed: kinds of requests, and how many may have waited for one another."""

from __future__ import annotations

import importlib
import json
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
BEGIN = 1_700_000_000.0


@pytest.fixture
def far(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("benchmarks.far")


def line(method: str, path: str, begin: float, seconds: float, sent: int = 0) -> str:
    """A line of the access log, whose time is that of the request's end."""
    end = datetime.fromtimestamp(BEGIN + begin + seconds, UTC).isoformat(timespec="milliseconds")
    fields = {"time": end, "method": method, "path": path, "bytes": sent, "duration_ms": seconds * 1000}
    return json.dumps({**fields, "status": 200})


def traffic(far: ModuleType, *lines: str):
    text = "".join(f"{each}\n" for each in ("serving http://127.0.0.1:1", '{"message": "up"}', *lines))
    return far.Traffic([far.request(each) for each in far.access(f'{text}{{"cut')], 0, 0)


def test_requests_are_told_apart_by_what_they_are_for(far):
    passed = traffic(
        far,
        line("GET", "/v1/projects/default/revision", 0, 1.0),
        line("POST", "/v1/projects/default/nodes", 0, 0.001),
        line("GET", "/v1/projects/default/objects/packs/ab/abcd.pack", 0, 0.001, sent=70),
        line("GET", "/v1/projects/default/objects/packs/ab/abcd.pack", 0, 0.001, sent=5),
        line("HEAD", "/v1/projects/default/objects/packs/ab/abcd.pack", 0, 0.001),
        line("GET", "/metrics", 0, 0.001, sent=1000),
    )
    assert (len(passed.requests), len(passed.asked)) == (5, 4)
    assert [request.sent for request in passed.objects] == [70, 5]
    assert passed.spelled() == "GET revision 1, POST nodes 1, GET objects 2, HEAD objects 1"


def test_only_requests_a_round_trip_apart_may_have_waited_for_one_another(far):
    nodes = "/v1/projects/default/nodes"
    apart = traffic(far, *(line("POST", nodes, number * 0.0205, 0.004) for number in range(4)))
    assert apart.turns == 4
    together = traffic(far, *(line("POST", nodes, number * 0.004, 0.004) for number in range(4)))
    assert together.turns == 1
    # Begun while the first one's answer, of many bytes, was still coming: it may have asked for what had come.
    nested = traffic(far, line("GET", "/v1/projects/default/objects/a", 0, 0.100), line("POST", nodes, 0.030, 0.001))
    assert nested.turns == 2
    waiting = traffic(far, line("GET", "/v1/projects/default/revision", 0, 0.5), line("POST", nodes, 0.030, 0.001))
    assert waiting.turns == 1
