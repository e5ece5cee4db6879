"""The thread that follows a registry: one question that waits, a refresh for each change, and no end of trying."""

from __future__ import annotations

import threading

import pytest

from artifactfs.errors import Unavailable
from artifactfs.mount import follower as following
from artifactfs.mount.follower import Follower
from tests.conftest import eventually

FIRST, LONGEST = following.FIRST_SECONDS, following.LONGEST_SECONDS


class Registry:
    """Answers as the test says; ``questions`` are the calls of ``changed``: after which revision, and for how long."""

    online = True

    def __init__(self) -> None:
        self.revision = 7
        self.failures: list[Exception] = []
        self.questions: list[tuple[int, float]] = []
        self.lock = threading.Condition()  # taken from the question to its answer, but while it waits
        self.closed = False

    def changed(self, after: int, *, seconds: float) -> int:
        with self.lock:
            self.questions.append((after, seconds))
            if self.failures:
                self.online = False
                raise self.failures.pop(0)
            self.online = True
            if seconds and self.revision == after and not self.closed:
                self.lock.wait(60)
            if self.closed:
                raise Unavailable("closed")
            return self.revision

    def waits(self, count: int) -> bool:
        """Whether so many questions were asked, and the last one waits."""
        with self.lock:
            return len(self.questions) == count and self.questions[-1][1] > 0

    def answer(self) -> None:
        """The question's time is up."""
        with self.lock:
            self.lock.notify_all()

    def move(self) -> None:
        with self.lock:
            self.revision += 1
            self.lock.notify_all()

    def close(self) -> None:
        with self.lock:
            self.closed = True
            self.lock.notify_all()


@pytest.fixture
def registry():
    return Registry()


@pytest.fixture
def refreshed():
    return []


@pytest.fixture
def follower(registry, refreshed):
    others = set(threading.enumerate())  # such as that of a file system that fsspec keeps until the end of the process
    made = Follower(registry, lambda returned: refreshed.append((registry.revision, returned)))
    yield made
    made.stop()
    registry.close()
    eventually(lambda: not any(thread.name == "view-follow" for thread in set(threading.enumerate()) - others))


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(following, "FIRST_SECONDS", 0.001)
    monkeypatch.setattr(following, "LONGEST_SECONDS", 0.004)


def test_one_question_waits_and_each_change_is_one_refresh(registry, follower, refreshed):
    follower.start()
    eventually(lambda: registry.waits(2))
    assert registry.questions == [(0, 0.0), (7, following.POLL_SECONDS)]
    assert refreshed == [(7, False)]
    registry.answer()  # nothing has changed
    eventually(lambda: registry.waits(3))
    assert refreshed == [(7, False)]
    for count, revision in ((4, 8), (5, 9)):
        registry.move()
        eventually(lambda count=count: registry.waits(count))
        assert registry.questions[-1] == (revision, following.POLL_SECONDS)
    assert refreshed == [(7, False), (8, False), (9, False)]
    assert len(registry.questions) == 5
    assert follower.outage() is None


def test_out_of_reach_it_tries_again_and_refreshes_at_the_return(registry, follower, refreshed, caplog):
    caplog.set_level("INFO")
    registry.failures = [Unavailable("cannot reach it")] * 5
    follower.start()
    eventually(lambda: refreshed == [(7, True)])
    eventually(lambda: registry.waits(7))
    assert [seconds for _, seconds in registry.questions] == [0.0] * 6 + [following.POLL_SECONDS]
    registry.failures = [Unavailable("cannot reach it")]
    registry.answer()
    eventually(lambda: refreshed == [(7, True), (7, True)])  # what was read meanwhile was read from memory
    eventually(lambda: registry.questions[-1][1] > 0)  # what is said of the return is said after the refresh
    assert caplog.text.count("cannot reach it") == 2
    assert caplog.text.count("answers again") == 2
    assert "Traceback" not in caplog.text


def test_after_an_outage_what_is_new_is_shown_as_soon_as_ever(registry, monkeypatch):
    """Within two seconds: no pause is longer, however long the outage was, and an attempt needs some time too."""
    pauses = []

    class Hasty(threading.Event):
        def wait(self, timeout=None):
            pauses.append(timeout)
            return super().wait(0)

    monkeypatch.setattr(following, "Event", Hasty)
    monkeypatch.setattr(following, "FIRST_SECONDS", FIRST)
    monkeypatch.setattr(following, "LONGEST_SECONDS", LONGEST)
    refreshed = []
    follower = Follower(registry, refreshed.append)
    registry.failures = [Unavailable("cannot reach it")] * 20
    follower.start()
    eventually(lambda: refreshed == [True])
    follower.stop()
    registry.close()
    assert pauses[:20] == [0.5, 1.0] + [1.5] * 18


def test_an_outage_has_a_beginning_and_a_reason(registry, follower):
    assert follower.outage() is None
    registry.failures = [Unavailable("first")] + [Unavailable("then")] * 10_000
    follower.start()
    eventually(lambda: (outage := follower.outage()) is not None and outage.reason == "then")
    since = follower.outage().since
    count = len(registry.questions)
    eventually(lambda: len(registry.questions) > count + 3)
    assert follower.outage() == following.Outage(since, "then")
    with registry.lock:
        registry.failures.clear()
    eventually(lambda: registry.waits(len(registry.questions)))
    assert follower.outage() is None
    registry.online = False
    assert follower.outage().reason == "the last request failed"
    assert follower.outage().since > since


def test_a_refresh_that_fails_is_made_again(registry, refreshed, caplog):
    errors = [Unavailable("busy"), OSError(5, "io"), RuntimeError("a fault of ours")]

    def refresh(returned):
        if errors:
            raise errors.pop(0)
        refreshed.append(registry.revision)

    follower = Follower(registry, refresh)
    follower.start()
    eventually(lambda: refreshed == [7])
    assert caplog.text.count("Traceback") == 1
    follower.stop()
    registry.close()


def test_after_a_stop_nothing_is_refreshed(registry, refreshed):
    inside, go = threading.Event(), threading.Event()

    def refresh(returned):
        refreshed.append(registry.revision)
        inside.set()
        go.wait(60)

    others = set(threading.enumerate())
    follower = Follower(registry, refresh)
    follower.start()
    inside.wait(60)
    stopped = threading.Thread(target=follower.stop)
    stopped.start()
    assert stopped.is_alive()
    go.set()
    stopped.join(60)
    assert not stopped.is_alive()
    registry.move()
    registry.close()
    eventually(lambda: not any(thread.name == "view-follow" for thread in set(threading.enumerate()) - others))
    assert refreshed == [7]
