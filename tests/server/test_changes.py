"""Followers: woken at once, few looks, no threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from artifactfs.errors import Unavailable
from artifactfs.registry.sql import SQLRegistry
from artifactfs.remote import wire
from artifactfs.server.changes import Changes
from tests.conformance.registry import commit, request
from tests.conftest import eventually
from tests.server.conftest import PROJECT, Served, answer_of, connect, serving


class Revisions:
    """What a registry would tell; counts how often it is asked."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}
        self.looks = 0
        self.error: Exception | None = None
        self.held: asyncio.Event | None = None

    async def look(self, project: str) -> int:
        self.looks += 1
        found = self.of.get(project, 0)
        if self.held is not None:
            await self.held.wait()
        if self.error is not None:
            raise self.error
        return found


def run(body: Callable[[Revisions, Changes], Awaitable[None]], *, interval: float = 0.01) -> None:
    async def main() -> None:
        revisions = Revisions()
        await body(revisions, Changes(revisions.look, interval=interval))

    asyncio.run(asyncio.wait_for(main(), 30))


def never() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
        await asyncio.sleep(0.001)


def test_what_has_changed_already_is_told_at_once():
    async def body(revisions: Revisions, changes: Changes) -> None:
        revisions.of["p"] = 5
        assert await changes.wait("p", 4, 10, never()) == 5
        assert await changes.wait("p", 6, 10, never()) == 5
        assert await changes.wait("p", 5, 0, never()) == 5
        assert revisions.looks == 3
        assert changes.following == 0

    run(body)


def test_hundreds_of_followers_of_a_project_have_one_poller():
    async def body(revisions: Revisions, changes: Changes) -> None:
        waiting = [asyncio.create_task(changes.wait("p", 0, 20, never())) for _ in range(500)]
        await until(lambda: changes.following == 500)
        before = revisions.looks
        await asyncio.sleep(0.1)
        assert 0 < revisions.looks - before < 100  # every 0.01 s, however many follow
        revisions.of["p"] = 1
        assert await asyncio.gather(*waiting) == [1] * 500
        assert changes.following == 0
        after = revisions.looks
        await asyncio.sleep(0.05)
        assert revisions.looks == after  # nobody follows, nobody looks

    run(body)


def test_what_a_call_saw_wakes_followers_of_its_project_without_a_look():
    async def body(revisions: Revisions, changes: Changes) -> None:
        here = asyncio.create_task(changes.wait("p", 0, 20, never()))
        there = asyncio.create_task(changes.wait("q", 0, 20, never()))
        await until(lambda: changes.following == 2)
        looks = revisions.looks
        changes.saw("p", 3)
        assert await here == 3
        assert revisions.looks == looks
        assert changes.following == 1
        there.cancel()

    run(body, interval=60)


def test_an_older_revision_wakes_nobody():
    async def body(revisions: Revisions, changes: Changes) -> None:
        revisions.of["p"] = 4
        waiting = asyncio.create_task(changes.wait("p", 4, 20, never()))
        await until(lambda: changes.following == 1)
        changes.saw("p", 3)
        changes.saw("p", 4)
        await asyncio.sleep(0.02)
        assert not waiting.done()
        changes.saw("p", 5)
        assert await waiting == 5

    run(body, interval=60)


def test_a_look_that_was_overtaken_is_forgotten():
    async def body(revisions: Revisions, changes: Changes) -> None:
        first = asyncio.create_task(changes.wait("p", 0, 20, never()))
        await until(lambda: changes.following == 1)
        second = asyncio.create_task(changes.wait("p", 0, 20, never()))
        await until(lambda: changes.following == 2)
        revisions.held = asyncio.Event()
        looks = revisions.looks
        await until(lambda: revisions.looks > looks)  # the poller has found 0
        changes.saw("p", 7)
        assert [await first, await second] == [7, 7]
        revisions.of["p"] = 7
        held, revisions.held = revisions.held, None
        third = asyncio.create_task(changes.wait("p", 7, 0.1, never()))
        held.set()
        assert await third == 7

    run(body)


def test_a_registry_that_was_put_back_is_a_change():
    async def body(revisions: Revisions, changes: Changes) -> None:
        revisions.of["p"] = 9
        waiting = asyncio.create_task(changes.wait("p", 9, 20, never()))
        await until(lambda: changes.following == 1)
        revisions.of["p"] = 2
        assert await waiting == 2

    run(body)


def test_nothing_new_is_told_when_the_time_is_over():
    async def body(revisions: Revisions, changes: Changes) -> None:
        assert await changes.wait("p", 0, 0.05, never()) == 0
        assert changes.following == 0

    run(body)


def test_who_has_gone_is_not_waited_for():
    async def body(revisions: Revisions, changes: Changes) -> None:
        gone = never()
        waiting = asyncio.create_task(changes.wait("p", 0, 20, gone))
        await until(lambda: changes.following == 1)
        gone.set_result(None)
        assert await waiting == 0
        assert changes.following == 0

    run(body)


def test_each_follower_is_told_why_nobody_can_look():
    async def body(revisions: Revisions, changes: Changes) -> None:
        waiting = [asyncio.create_task(changes.wait("p", 0, 20, never())) for _ in range(3)]
        await until(lambda: changes.following == 3)
        revisions.error = Unavailable("the disk reports an error")
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [str(error) for error in found] == ["the disk reports an error"] * 3
        assert len({id(error) for error in found}) == 3

    run(body)


def test_the_end_lets_all_go_and_nobody_wait():
    async def body(revisions: Revisions, changes: Changes) -> None:
        waiting = [asyncio.create_task(changes.wait("p", 0, 20, never())) for _ in range(3)]
        await until(lambda: changes.following == 3)
        changes.end()
        assert await asyncio.gather(*waiting) == [0, 0, 0]
        assert await changes.wait("p", 0, 20, never()) == 0

    run(body, interval=60)


# -- over the wire -----------------------------------------------------------------------------------------------------


@pytest.fixture
def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """The poller never looks within a test."""
    monkeypatch.setitem(Changes.__init__.__kwdefaults__, "interval", 600.0)


def poll(served: Served, after: int, **query: object) -> wire.Revision:
    words = "".join(f"&{name}={value}" for name, value in query.items())
    answer = served.ask("GET", f"revision?after={after}{words}")
    assert answer.status == 200
    found = answer.message(wire.Revision)
    assert answer.headers["artifactfs-revision"] == str(found.revision)
    return found.revision


def test_a_commit_through_the_server_wakes_followers_at_once(seldom, served):
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(poll, served, 0)
        eventually(lambda: served.service.changes.following == 1)
        assert served.ask("POST", "commits", request("a")).status == 200
        assert waiting.result(60) == served.registry.revision() > 0


def test_a_commit_of_another_process_is_noticed(served, tmp_path):
    with (
        ThreadPoolExecutor(1) as threads,
        closing(SQLRegistry(tmp_path / "registry.db")) as elsewhere,
    ):
        waiting = threads.submit(poll, served, 0)
        eventually(lambda: served.service.changes.following == 1)
        commit(elsewhere, "a")
        assert waiting.result(60) == elsewhere.revision() > 0


def test_a_follower_may_say_for_how_long(served):
    assert poll(served, 0, seconds=0.05) == 0
    assert poll(served, 0, seconds=0) == 0
    assert poll(served, 7, seconds=40) == 0
    for wrong in ("seconds=nan", "seconds=-1", "seconds=inf", "after=x", "seconds=soon"):
        answer = served.ask("GET", f"revision?after=0&{wrong}")
        assert (answer.status, answer.code) == (400, "invalid-input"), wrong


def test_no_poll_is_longer_than_a_proxy_waits(served, monkeypatch):
    monkeypatch.setattr("artifactfs.remote.wire.POLL_SECONDS", 0.05)
    assert poll(served, 0, seconds=3600) == 0


def test_followers_take_no_threads_and_leave_when_they_go(seldom, served):
    served.ask("GET", "revision")
    before = threading.active_count()
    followers = [connect(served.url) for _ in range(200)]
    try:
        for follower in followers:
            follower.request("GET", f"{PROJECT}/revision?after=0")
        eventually(lambda: served.service.changes.following == 200)
        assert threading.active_count() <= before + 8  # the threads that read, all of which may have begun
        assert served.metric("artifactfs_open_polls") == 200
        assert served.ask("GET", "artifacts").status == 200
        for follower in followers[:150]:
            follower.close()
        eventually(lambda: served.service.changes.following == 50)
        served.ask("POST", "commits", request("a"))
        assert {answer_of(follower).json["revision"] for follower in followers[150:]} == {served.registry.revision()}
    finally:
        for follower in followers:
            follower.close()
    eventually(lambda: served.service.changes.following == 0)


def test_stopping_ends_polls_with_the_present_revision(seldom, tmp_path: Path):
    with serving(tmp_path) as served, closing(connect(served.url)) as follower:
        served.ask("POST", "commits", request("a"))
        present = served.registry.revision()
        follower.request("GET", f"{PROJECT}/revision?after={present}")
        eventually(lambda: served.service.changes.following == 1)
        served.stop()
        answer = answer_of(follower)
        assert (answer.status, answer.json) == (200, {"revision": present})
