"""What goes wrong while bytes are read: they are right in the end, or there is an error, and afterwards everything works."""

from __future__ import annotations

import os

import pytest

from tests.faults.proxy import (
    answering,
    cut_response,
    flipped_response,
    short_response,
    shortened_response,
    silence,
    trickle_response,
)
from tests.faults.remote.machines import (
    BACK_ENDS,
    ERRNOS,
    LARGE,
    PATIENCE,
    Reading,
    finish,
    in_time,
    no_wrong_bytes,
    read,
    read_again,
    read_all,
)

BOTH = pytest.mark.parametrize("running", BACK_ENDS, indirect=True)

PASSING = {
    "cut": cut_response(100_000),
    "500": answering(500),
    "503": answering(503, "Retry-After: 1"),
    "429": answering(429, "Retry-After: 1"),
    "wrong-bytes": flipped_response,
    "short": short_response(100_000),
    "shortened": shortened_response,
}
LASTING = {
    "cut": cut_response(0),
    "500": answering(500),
    "503": answering(503, "Retry-After: 60"),
    "429": answering(429),
    "wrong-bytes": flipped_response,
    "shortened": shortened_response,
    "trickle": trickle_response(1000),
    "silence": silence,
}


@BOTH
@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_is_not_noticed(server, packs, new_machine, begin, tmp_path, fault):
    """Neither by `get` nor by a mount: the bytes come, a moment later."""
    expected = read_all(server.source)
    times = 1 if fault == "wrong-bytes" else 4  # twice for one chunk they are an error
    here, there = new_machine("get", seconds=PATIENCE), new_machine("mount", seconds=PATIENCE)
    there.mount()
    assert len(os.listdir(there.root / "data/v0")) == 3
    with packs.fault(PASSING[fault], times=times) as happened:
        getting = begin(here, "get", "data", tmp_path / "out")
        assert read(there.root / "data/v0" / LARGE) == expected[LARGE]
        assert finish(getting).status == 0
    assert happened.met == times
    assert read_all(tmp_path / "out") == expected
    assert read_all(there.root / "data/v0") == expected
    there.unmount()


@BOTH
@pytest.mark.parametrize("fault", LASTING)
def test_what_lasts_ends_with_an_error_and_is_forgotten(server, packs, new_machine, begin, tmp_path, fault):
    expected = read_all(server.source)
    there = new_machine("mount", seconds=1)
    there.complaints = 100 if fault in {"wrong-bytes", "shortened"} else 0
    in_time(there.mount)
    assert len(in_time(lambda: os.listdir(there.root / "data/v0/small"))) == 41
    with packs.fault(LASTING[fault]) as happened:
        here = new_machine("get", seconds=1)
        getting = begin(here, "get", "data", tmp_path / "out")
        reading = Reading(there.root / "data/v0" / LARGE)
        small = Reading(there.root / "data/v0/small/f01")
        assert reading.result() in ERRNOS
        assert small.result() in ERRNOS
        got = finish(getting)
        assert got.status == 1, got
    assert happened.met >= 2  # by the mount; `get` may have had too little time to come so far
    no_wrong_bytes(tmp_path / "out", server.source)
    # The same mount, and the same cache.
    assert read_again(there.root / "data/v0") == expected
    there.unmount()
    here.cli.env["ARTIFACTFS_TIMEOUT"] = str(PATIENCE)
    assert finish(begin(here, "get", "data", tmp_path / "again")).status == 0
    assert read_all(tmp_path / "again") == expected


def test_a_connection_that_is_cut_again_and_again_gets_there(server, packs, new_machine, begin, tmp_path):
    """Each attempt goes on where the last one ended."""
    here = new_machine(seconds=PATIENCE)
    before = packs.received()
    with packs.fault(cut_response(300_000)) as happened:
        assert finish(begin(here, "get", "data", tmp_path / "out")).status == 0
    assert happened.met >= 40
    assert read_all(tmp_path / "out") == read_all(server.source)
    assert packs.received() - before < 2 * sum(path.stat().st_size for path in server.source.rglob("*.bin"))
