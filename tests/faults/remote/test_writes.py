"""What goes wrong while a version is sent: it is there once and right, or there is an error and nothing; and it can be repeated."""

from __future__ import annotations

import os

import pytest

from tests.faults.proxy import (
    answering,
    cut_request,
    flipped_request,
    lost_reply,
    silence,
    trickle_request,
)
from tests.faults.remote.machines import COMMITS, PACK, PATIENCE, Reading, finish, in_time, read_again, read_all, shown

MESSAGES = r"/(missing|packs|sessions|commits)$"

PASSING = {
    "cut": cut_request(100_000),
    "lost-reply": lost_reply,
    "500": answering(500),
    "503": answering(503, "Retry-After: 1"),
    "429": answering(429, "Retry-After: 1"),
}
LASTING = {
    **PASSING,
    "503": answering(503, "Retry-After: 60"),
    "wrong-bytes": flipped_request,
    "trickle": trickle_request(1000),
    "silence": silence,
}


@pytest.fixture
def source(tmp_path):
    """Four megabytes that the server does not have."""
    root = tmp_path / "new"
    (root / "sub").mkdir(parents=True)
    (root / "large").write_bytes(os.urandom(4 << 20))
    for number in range(20):
        (root / f"sub/f{number}").write_bytes(os.urandom(2000))
    return root


def stage(machine, name, source):
    """Put into staging what is in a directory."""
    staging = machine.staging(name)
    (staging / "sub").mkdir(exist_ok=True)
    for path, data in read_all(source).items():
        (staging / path).write_bytes(data)


@pytest.mark.parametrize("where", [PACK, MESSAGES], ids=["packs", "messages"])
def test_what_passes_is_not_noticed(server, proxy, new_machine, begin, source, where):
    there = new_machine(seconds=PATIENCE)
    there.mount()
    for fault, act in {**PASSING, **({} if where == PACK else {"cut": cut_request(50)})}.items():
        put, staged = f"{fault}-{where == PACK}", f"{fault}-{where == PACK}-staged"
        (source / "large").write_bytes(os.urandom(1 << 20))
        stage(there, staged, source)
        (there.root / staged / "staging/large").write_bytes(os.urandom(1 << 20))
        with proxy.fault(act, where, times=4) as happened:
            commands = [begin(there, "put", put, source), begin(there, "commit", staged)]
            assert [finish(command).stdout for command in commands] == [f"{put}:v0\n", f"{staged}:v0\n"]
        assert happened.met == 4
        assert (server.versions(put), server.versions(staged)) == ([f"{put}:v0"], [f"{staged}:v0"])
        assert read_all(shown(there.root / put / "v0")) == read_all(source)
        assert read_all(there.root / staged / "v0") == read_all(there.root / staged / "staging")
    there.unmount()


@pytest.mark.parametrize("fault", LASTING)
def test_what_lasts_ends_with_an_error_and_the_work_is_not_lost(server, proxy, new_machine, begin, source, fault):
    name = f"lasts-{fault}"
    here = new_machine("put", seconds=1)
    there = new_machine("commit", seconds=1)
    there.complaints = 100 if fault == "wrong-bytes" else 0
    in_time(there.mount)
    in_time(lambda: stage(there, f"{name}-staged", source))
    expected = read_all(source)
    with proxy.fault(LASTING[fault], PACK, method="PUT") as happened:
        put = begin(here, "put", name, source)
        commit = begin(there, "commit", f"{name}-staged")
        assert (finish(put).status, finish(commit).status) == (1, 1)
        assert server.versions(name) == server.versions(f"{name}-staged") == []
        assert read_all(there.root / f"{name}-staged/staging") == expected
    assert happened.met >= 1  # either may have had too little time to come so far
    here.cli.env["ARTIFACTFS_TIMEOUT"] = str(PATIENCE)
    assert finish(begin(here, "put", name, source)).stdout == f"{name}:v0\n"
    assert in_time(lambda: there.commit(f"{name}-staged")) == f"{name}-staged:v0"
    assert server.versions(name) == [f"{name}:v0"]
    assert server.versions(f"{name}-staged") == [f"{name}-staged:v0"]
    assert read_again(shown(there.root / name / "v0")) == read_again(there.root / f"{name}-staged/v0") == expected
    there.unmount()


def test_a_commit_whose_reply_is_lost_made_one_version(server, proxy, new_machine, begin, source):
    """Asked again, the server says which."""
    there = new_machine(seconds=PATIENCE)
    there.mount()
    stage(there, "lost-staged", source)
    for name, words in (("lost", ("put", "lost", source)), ("lost-staged", ("commit", "lost-staged"))):
        with proxy.fault(lost_reply, COMMITS, times=2) as happened:
            assert finish(begin(there, *words)).stdout == f"{name}:v0\n"
        assert happened.met == 2
        assert len(proxy.requests(COMMITS)) == 3
        proxy.seen.clear()
        assert server.versions(name) == [f"{name}:v0"]
    # And of a version that is not the first, with others between.
    (there.root / "lost-staged/staging/more").write_bytes(b"more")
    with proxy.fault(lost_reply, COMMITS, times=1):
        assert there.commit("lost-staged") == "lost-staged:v1"
    assert server.versions("lost-staged") == ["lost-staged:v0", "lost-staged:v1"]
    assert (there.root / "lost-staged/latest/more").read_bytes() == b"more"
    there.unmount()


def test_a_commit_whose_replies_are_all_lost_is_not_made_twice_by_repeating_the_command(
    server, proxy, new_machine, begin, source
):
    there = new_machine(seconds=PATIENCE)
    there.mount()
    stage(there, "unheard-staged", source)
    for name, words in (
        ("unheard", ("put", "unheard", source)),
        ("unheard-staged", ("commit", "unheard-staged")),
    ):
        # Two of them, and then it is told that an answer would come too late.
        with (
            proxy.fault(lost_reply, COMMITS, times=2) as happened,
            proxy.fault(answering(503, "Retry-After: 3600"), COMMITS, skip=2) as last,
        ):
            assert finish(begin(there, *words)).status == 1
        assert (happened.met, last.met) == (2, 1)
        assert server.versions(name) == [f"{name}:v0"]
        assert finish(begin(there, *words)).status == 0
        assert server.versions(name) == [f"{name}:v0"]
        assert read_all(shown(there.root / name / "latest")) == read_all(source)
    there.unmount()


def test_what_is_written_while_a_commit_waits_is_not_lost(server, proxy, new_machine, begin, source):
    there = new_machine(seconds=1)
    in_time(there.mount)
    in_time(lambda: stage(there, "while", source))
    with proxy.fault(silence, PACK, method="PUT") as happened:
        commit = begin(there, "commit", "while")
        while not happened.met:
            if commit.poll() is not None:  # a second was too little to come so far
                assert finish(commit).status == 1
                commit = begin(there, "commit", "while")
        (there.root / "while/staging/meanwhile").write_bytes(b"meanwhile")
        (there.root / "while/staging/sub/f1").write_bytes(b"changed")
        other = Reading(there.root / "while/staging/meanwhile")
        assert other.result() == b"meanwhile"
        assert finish(commit).status == 1
    expected = {**read_all(source), "meanwhile": b"meanwhile", "sub/f1": b"changed"}
    assert read_all(there.root / "while/staging") == expected
    assert in_time(lambda: there.commit("while")) == "while:v0"
    assert server.versions("while") == ["while:v0"]
    assert read_again(there.root / "while/v0") == expected
    there.unmount()
