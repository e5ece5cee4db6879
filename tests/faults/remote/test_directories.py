"""What goes wrong while directories are asked for: they are right in the end or an error, and never empty, nor wrong."""

from __future__ import annotations

import os

import pytest

from tests.conftest import eventually
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
    ERRNOS,
    LARGE,
    NODES,
    PATIENCE,
    finish,
    in_time,
    no_wrong_bytes,
    read,
    read_again,
    read_all,
)

PASSING = {
    "cut": cut_response(10),
    "503": answering(503, "Retry-After: 1"),
    "short": short_response(10),
}
LASTING = {
    "500": answering(500),
    "wrong-bytes": flipped_response,
    "shortened": shortened_response,
    "trickle": trickle_response(10),
    "silence": silence,
}


@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_while_directories_are_asked_for_is_not_noticed(server, proxy, new_machine, fault):
    there = new_machine(seconds=PATIENCE)
    there.mount()
    with proxy.fault(PASSING[fault], NODES, times=2) as happened:
        assert sorted(path.name for path in (there.root / "data/v0").iterdir()) == [LARGE, "other.bin", "small"]
    assert happened.met == 2
    assert read_all(there.root / "data/v0/small") == read_all(server.source / "small")
    there.unmount()


@pytest.mark.parametrize("fault", LASTING)
def test_directories_that_do_not_come_are_an_error_not_empty(server, proxy, new_machine, begin, tmp_path, fault):
    there = new_machine("mount", seconds=1)
    there.complaints = 100 if fault in {"wrong-bytes", "shortened"} else 0
    in_time(there.mount)
    with proxy.fault(LASTING[fault], NODES) as happened:
        here = new_machine("get", seconds=1)
        getting = begin(here, "get", "data", tmp_path / "out")
        with pytest.raises(OSError) as caught:
            read_all(there.root / "data/v0")
        assert caught.value.errno in ERRNOS
        assert finish(getting).status == 1
    assert happened.met >= 1  # by the mount; `get` may have had too little time to come so far
    no_wrong_bytes(tmp_path / "out", server.source)
    assert read_again(there.root / "data/v0") == read_all(server.source)
    there.unmount()
    here.cli.env["ARTIFACTFS_TIMEOUT"] = str(PATIENCE)
    assert finish(begin(here, "get", "data", tmp_path / "out")).status == 0
    assert read_all(tmp_path / "out") == read_all(server.source)


def test_a_server_that_never_answers_anything(server, proxy, new_machine, begin, tmp_path):
    """Every command says so, and so does a mount of what was never seen; one of what was seen comes about, offline."""
    there = new_machine(seconds=1)
    there.complaints = 1
    with proxy.fault(silence, ""):
        put = ("put", "data", server.source)
        for words in (("ls",), ("get", "data", tmp_path / "out"), put, ("mount", there.root)):
            done = finish(begin(there, *words))
            assert done.status == 1
            assert "does not answer" in done.stderr
    in_time(there.mount)
    assert len(in_time(lambda: os.listdir(there.root / "data/v0"))) == 3
    there.unmount()
    with proxy.fault(silence, ""):
        there.mount()
        assert there.status()["online"] is False
        assert len(os.listdir(there.root / "data/v0")) == 3
        assert read(there.root / "data/v0" / LARGE) in ERRNOS
    eventually(lambda: there.status()["online"])
    assert read_again(there.root / "data/v0") == read_all(server.source)
    assert server.versions("data") == ["data:v0"]
    there.unmount()
