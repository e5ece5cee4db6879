"""About the server itself: what answers, health, metrics, log, protocol."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from artifactfs import __version__
from artifactfs.errors import Unavailable
from artifactfs.remote import wire
from artifactfs.server.log import Log
from artifactfs.server.threads import Threads
from tests.conformance.packs import packed
from tests.conformance.registry import request
from tests.conftest import eventually
from tests.server.conftest import PROJECT


def test_hello_says_what_answers(served):
    for media in (wire.JSON, wire.MSGPACK):
        hello = served.ask("GET", "/v1", media=media).message(wire.Hello)
        assert hello == wire.Hello("artifactfs", __version__, wire.PROTOCOL, wire.OLDEST_PROTOCOL)


def test_it_lives_and_is_ready(served):
    for path in ("/healthz", "/readyz"):
        answer = served.ask("GET", path)
        assert (answer.status, answer.json) == (200, {"status": "ok"})


def test_it_is_not_ready_when_a_part_cannot_be_used(served, monkeypatch):
    def fail() -> None:
        raise Unavailable("the disk reports an error")

    monkeypatch.setattr(served.stores, "check", fail)
    answer = served.ask("GET", "/readyz")
    assert (answer.status, answer.code) == (503, "unavailable")
    assert served.ask("GET", "/healthz").status == 200


def test_it_is_not_ready_when_it_stops(served):
    served.service.end()
    assert served.ask("GET", "/readyz").status == 503
    assert served.ask("GET", "/healthz").status == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not-found"),
        ("GET", "/v2", 404, "not-found"),
        ("GET", "/v1/", 404, "not-found"),
        ("GET", "/v1/projects", 404, "not-found"),
        ("GET", f"{PROJECT}/artifacts/", 404, "not-found"),
        ("GET", f"{PROJECT}/artifacts/a/b/c/d", 404, "not-found"),
        ("DELETE", f"{PROJECT}/artifacts", 405, "invalid-input"),
        ("GET", f"{PROJECT}/commits", 405, "invalid-input"),
    ],
)
def test_what_is_not_there_is_said_in_a_failure(served, method, path, status, code):
    answer = served.ask(method, path)
    assert (answer.status, answer.code) == (status, code)


@pytest.mark.parametrize(
    "path", ["/v1", "/healthz", "/metrics", "/openapi.json", "/nothing", f"{PROJECT}/artifacts/absent"]
)
def test_every_answer_says_the_protocol_and_its_id(served, path):
    answer = served.ask("GET", path)
    assert answer.headers[wire.PROTOCOL_HEADER.lower()] == str(wire.PROTOCOL)
    assert len(answer.headers["x-request-id"]) == 16
    assert answer.headers["x-request-id"] != served.ask("GET", path).headers["x-request-id"]
    for given in ("job-17.a", "x" * 64):
        assert served.ask("GET", path, headers={"X-Request-ID": given}).headers["x-request-id"] == given
    for given in ("a b", "x" * 65, "ä", ""):
        assert served.ask("GET", path, headers={"X-Request-ID": given}).headers["x-request-id"] != given


def test_a_client_that_is_too_old_is_told_so(served):
    for path in ("/v1", f"{PROJECT}/artifacts", f"{PROJECT}/nothing"):
        for spoken in ("0", "-1", "old"):
            answer = served.ask("GET", path, headers={wire.PROTOCOL_HEADER: spoken})
            assert (answer.status, answer.code) == (426, "format"), (path, spoken)
            assert answer.headers["upgrade"] == "ArtifactFS-Protocol/2"
    assert "too old" in served.ask("GET", "/v1", headers={wire.PROTOCOL_HEADER: "0"}).json["message"]
    for spoken in ("1", "2", "3"):
        assert served.ask("GET", f"{PROJECT}/artifacts", headers={wire.PROTOCOL_HEADER: spoken}).status == 200
    assert served.ask("GET", "/healthz", headers={wire.PROTOCOL_HEADER: "0"}).status == 200


def test_answers_below_a_project_say_its_revision(served):
    assert served.ask("GET", "artifacts").headers["artifactfs-revision"] == "0"
    served.ask("POST", "commits", request("a"))
    first = served.registry.revision()
    made = served.ask("POST", "commits", request("b"))
    present = str(served.registry.revision())
    assert made.headers["artifactfs-revision"] == present != str(first)
    assert served.ask("GET", "artifacts/absent").headers["artifactfs-revision"] == present
    assert served.ask("PUT", "objects/a", body=b"x").headers["artifactfs-revision"] == present
    for method in ("GET", "HEAD"):
        assert served.ask(method, "objects/a").headers["artifactfs-revision"] == present
    assert served.ask("GET", "/v1/projects/other/artifacts").headers["artifactfs-revision"] == "0"


def test_metrics_count_requests_bytes_and_packs(served):
    pack, data = packed("a", "b")
    served.put(f"packs/{pack.digest[:2]}/{pack.digest}.pack", data)
    served.ask("POST", "packs", wire.NewPacks([pack]), media=wire.MSGPACK)
    for number in range(3):
        served.ask("GET", f"artifacts/absent-{number}")
    served.ask("GET", "/nothing")
    served.ask("GET", f"objects/packs/{pack.digest[:2]}/{pack.digest}.pack")
    answer = served.ask("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.body.decode().splitlines()
    template = "/v1/projects/{project}"
    for line in (
        f'artifactfs_requests_total{{method="GET",route="{template}/artifacts/{{name}}",status="404"}} 3.0',
        f'artifactfs_requests_total{{method="PUT",route="{template}/objects/{{key}}",status="204"}} 1.0',
        'artifactfs_requests_total{method="GET",route="none",status="404"} 1.0',
        f'artifactfs_request_seconds_count{{method="GET",route="{template}/artifacts/{{name}}"}} 3.0',
        f"artifactfs_received_bytes_total {float(len(data) + len(wire.encode(wire.NewPacks([pack]))))}",
        "artifactfs_open_polls 0.0",
        "artifactfs_packs 1.0",
        f"artifactfs_packs_bytes {float(len(data))}",
        f'artifactfs_info{{version="{__version__}"}} 1.0',
    ):
        assert line in lines, line
    assert served.metric("artifactfs_sent_bytes_total") > len(data)
    assert "absent-1" not in answer.body.decode()


def test_the_size_of_the_repository_is_remembered_for_a_while(served, monkeypatch):
    pack, data = packed("a")
    assert served.metric("artifactfs_packs") == 0
    served.put(f"packs/{pack.digest[:2]}/{pack.digest}.pack", data)
    assert served.ask("POST", "packs", wire.NewPacks([pack])).status == 204
    assert served.metric("artifactfs_packs") == 0
    monkeypatch.setattr("artifactfs.server.metrics.SIZE_SECONDS", 0.0)
    assert served.metric("artifactfs_packs") == 1


# -- the log -----------------------------------------------------------------------------------------------------------


def test_each_request_is_one_line_of_json_without_secrets(served):
    served.ask(
        "GET",
        "objects?prefix=s3cret-query",
        headers={"Authorization": "Bearer s3cret", "Cookie": "s3cret", "X-Request-ID": "one"},
    )
    served.ask("PUT", "objects/a%20b%22%0A", body=b"s3cret-body")
    served.ask("PUT", "objects/a", body=b"s3cret-body")
    served.stop()
    first, second, third = served.log
    assert {key: first[key] for key in ("client", "method", "path", "status", "request")} == {
        "client": "127.0.0.1",
        "method": "GET",
        "path": f"{PROJECT}/objects",
        "status": 200,
        "request": "one",
    }
    assert first["bytes"] > 0
    assert first["duration_ms"] > 0
    assert first["time"].endswith("+00:00")
    assert (second["path"], second["status"]) == (f'{PROJECT}/objects/a b"\n', 400)
    assert (third["status"], third["bytes"], third["bytes_received"]) == (204, 0, 11)
    assert "s3cret" not in "".join(served.lines)
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in served.lines)


def test_who_speaks_no_http_is_a_line_too(served):

    parts = urlsplit(served.url)
    with socket.create_connection((parts.hostname, parts.port)) as line:
        line.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert line.recv(100).startswith(b"HTTP/1.1 400")
    eventually(lambda: served.lines)
    assert [(entry["level"], entry["message"]) for entry in served.log] == [
        ("warning", "Invalid HTTP request received.")
    ]


def test_a_log_that_nobody_takes_stops_nobody(monkeypatch):
    monkeypatch.setattr("artifactfs.server.log.LINES", 3)
    taken: list[str] = []

    go = threading.Event()

    def write(line: str) -> None:
        go.wait(30)
        taken.append(line)
        if len(taken) == 2:
            raise BrokenPipeError

    log = Log(write)
    for number in range(20):
        log.note("warning", f"number {number}")
    go.set()
    eventually(lambda: any("dropped" in line for line in taken))
    log.note("warning", "the last")
    log.close()
    log.close()
    assert "number 0" in taken[0]
    dropped = next(line for line in taken if "dropped" in line)
    written = sum("number" in line for line in taken)
    assert f"{20 - written} lines of this log were dropped" in dropped
    assert "the last" in taken[-1]


# -- threads -----------------------------------------------------------------------------------------------------------


def run_in(threads: Threads, works: list[Callable[[], object]]) -> list[object]:

    async def main() -> list[object]:
        return await asyncio.gather(*(threads.run(work) for work in works), return_exceptions=True)

    try:
        return asyncio.run(main())
    finally:
        threads.close()


def test_work_is_done_by_a_bounded_number_of_threads_in_order():

    begun: list[int] = []
    names: set[str] = set()

    def work(number: int) -> int:
        begun.append(number)
        names.add(threading.current_thread().name)
        time.sleep(0.001)
        return number * 2

    works = [lambda number=number: work(number) for number in range(50)]
    assert run_in(Threads("test", 1), works) == [number * 2 for number in range(50)]
    assert begun == list(range(50))
    assert len(names) == 1


def test_nobody_waits_for_a_thread_for_ever():

    held = threading.Event()
    threads = Threads("reading", 1, seconds=0.05)

    async def main() -> tuple[object, list[object]]:
        holding = asyncio.create_task(threads.run(lambda: held.wait(60)))
        await asyncio.sleep(0)  # it has the thread
        found = await asyncio.gather(threads.run(lambda: 1), threads.run(lambda: 2), return_exceptions=True)
        held.set()
        return await holding, found

    try:
        first, found = asyncio.run(main())
    finally:
        held.set()
        threads.close()
    assert first is True
    assert [str(error) for error in found] == [
        "the server is busy: no thread for reading became free within 0.05 s; repeat later"
    ] * 2
    assert all(isinstance(error, Unavailable) for error in found)
