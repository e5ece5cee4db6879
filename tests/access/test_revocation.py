"""What is under way when a token ends: followers are sent away, and what was still being sent changes nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from artifactfs.remote import wire
from tests.conformance.registry import request
from tests.conftest import eventually
from tests.server.conftest import PROJECT, Answer, Served, answer_of, connect, serving


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A server that looks a token up ten times a second instead of every 5 s."""
    for module in ("access", "calls", "versions"):
        monkeypatch.setattr(f"artifactfs.server.{module}.KEPT_SECONDS", 0.1)
    with serving(tmp_path) as running:
        yield running


def follow(served: Served, token: str = "") -> tuple[threading.Thread, list[Answer]]:
    """Begin to wait for news, of which there are none, for longer than the test may take."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answers: list[Answer] = []

    def wait() -> None:
        answers.append(served.ask("GET", "revision?after=0&seconds=50", headers=headers))

    thread = threading.Thread(target=wait)
    thread.start()
    eventually(lambda: served.service.changes.following == 1)
    return thread, answers


def test_a_follower_is_sent_away(asked: Served):
    new = asked.registry.tokens.create(project="default", role="read")
    thread, answers = follow(asked, new.token)
    asked.registry.tokens.revoke(new.record.id)
    thread.join(60)
    assert [(answer.status, answer.code) for answer in answers] == [(401, "access")]
    assert wire.REVISION_HEADER.lower() not in answers[0].headers
    assert asked.service.changes.following == 0


def test_a_follower_whose_token_expires_is_sent_away(asked: Served, monkeypatch: pytest.MonkeyPatch):
    new = asked.registry.tokens.create(project="default", role="read", seconds=3600)
    thread, answers = follow(asked, new.token)
    monkeypatch.setattr(asked.app.state.access.tokens, "now", lambda: new.record.expires)
    thread.join(60)
    assert answers[0].status == 401
    assert "has expired" in answers[0].json["message"]


def test_who_came_in_without_a_token_is_sent_away_when_there_is_one(asked: Served):
    thread, answers = follow(asked)
    asked.registry.tokens.create(project="default", role="read")
    thread.join(60)
    assert answers[0].status == 401


def test_a_follower_with_a_good_token_is_told_of_news(asked: Served):
    thread, answers = follow(asked, asked.registry.tokens.create(project="default", role="read").token)
    threading.Event().wait(0.5)  # several looks
    assert answers == []
    asked.registry.commit(request("a"))
    thread.join(60)
    assert answers[0].status == 200


def received(served: Served) -> float:
    """Bytes of bodies that came, as the server counts them."""
    found = [
        line
        for line in served.service.metrics.text().decode().splitlines()
        if line.startswith("artifactfs_received_bytes_total ")
    ]
    return float(found[0].split()[1])


def slowly(
    served: Served, method: str, path: str, body: bytes, headers: dict[str, str], pause: Callable[[], None]
) -> Answer:
    before = received(served)
    with closing(connect(served.url)) as connection:
        connection.putrequest(method, f"{PROJECT}/{path}")
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            connection.putheader(name, value)
        connection.endheaders(body[:10])
        eventually(lambda: received(served) >= before + 10)
        pause()
        threading.Event().wait(0.2)  # as long as a token is kept for, and longer
        connection.send(body[10:])
        return answer_of(connection)


@pytest.mark.parametrize("kind", ["object", "message"])
def test_what_was_being_sent_changes_nothing(asked: Served, kind: str):
    new = asked.registry.tokens.create(project="default", role="write")
    if kind == "object":
        method, path, body, media = "PUT", "objects/a", b"x" * 1000, wire.BYTES
    else:
        method, path, body, media = "POST", "commits", wire.encode(request("a")), wire.MSGPACK
    headers = {"Authorization": f"Bearer {new.token}", "Content-Type": media}
    answer = slowly(asked, method, path, body, headers, lambda: asked.registry.tokens.revoke(new.record.id))
    assert (answer.status, answer.code) == (401, "access")
    assert asked.registry.artifacts() == []
    assert list(asked.store.list()) == []
    assert list(asked.store.root.glob("tmp/*")) == []
    good = asked.registry.tokens.create(project="default", role="write").token
    headers["Authorization"] = f"Bearer {good}"
    assert slowly(asked, method, path, body, headers, lambda: None).status in {200, 204}
