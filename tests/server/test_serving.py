"""``artifactfs serve`` as a process: how it begins, what it refuses, how it stops."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from artifactfs.content.local import LocalStore
from artifactfs.remote import wire
from tests.conformance.packs import chunk
from tests.conformance.store import put
from tests.conftest import Cli, eventually
from tests.ports import HeldPort
from tests.server.conftest import PROJECT, ask, connect

LARGE = 64 << 20  # bytes: more than all buffers between server and client


class Server:
    """A process that serves, and its address."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.first = process.stdout.readline()
        self.second = process.stdout.readline()
        found = re.fullmatch(r"serving (.+) at (http://\S+)\n", self.first)
        assert found is not None, (self.first, process.stderr.read() if process.stderr else "")
        self.repository, self.url = found[1], found[2]

    def end(self, number: int = signal.SIGTERM) -> list[dict[str, Any]]:
        """Stop it politely; what it logged. Other lines on stderr are an error."""
        self.process.send_signal(number)
        rest, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, errors
        assert rest == ""
        return [json.loads(line) for line in errors.splitlines() if not line.startswith("made a new repository")]


@pytest.fixture
def serve(cli: Cli) -> Iterator[Callable[..., Server]]:
    """``serve(*options)``: the default repository at a free port."""
    started: list[subprocess.Popen[str]] = []

    def begin(*options: object, env: dict[str, str] | None = None) -> Server:
        started.append(cli.start("serve", "--port", 0, *options, env=env))
        return Server(started[-1])

    yield begin
    for process in started:
        process.kill()
        with process:
            pass


@pytest.fixture
def large(cli: Cli) -> bytes:
    """The object ``large`` in the default repository."""
    cli("init")
    data = bytes(range(256)) * (LARGE // 256)
    store = LocalStore(cli.home / ".local/share/artifactfs/repository/store/default", create=True)
    put(store, "large", data)
    store.close()
    return data


def slow_line(url: str) -> socket.socket:
    """A connection with a small buffer, on which the object ``large`` was asked for and has begun to come."""
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.settimeout(30)
    line.connect((urlsplit(url).hostname, urlsplit(url).port))
    line.sendall(f"GET {PROJECT}/objects/large HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert line.recv(15) == b"HTTP/1.1 200 OK"
    return line


def rest_of(line: socket.socket) -> bytes:
    """The body, as far as it comes."""
    came = bytearray()
    with suppress(ConnectionError):
        while part := line.recv(1 << 20):
            came += part
    return bytes(came.partition(b"\r\n\r\n")[2])


def refused(url: str) -> bool:
    try:
        socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


# -- beginning ---------------------------------------------------------------------------------------------------------


def test_it_says_where_it_is_and_serves_a_repository_made_on_first_use(cli, serve):
    server = serve()
    assert server.repository == str(cli.home / ".local/share/artifactfs/repository")
    assert urlsplit(server.url).hostname == "127.0.0.1"
    assert f"artifactfs --repository {server.url} ls" in server.second
    assert f"export ARTIFACTFS_REPOSITORY={server.url}" in server.second
    assert ask(server.url, "GET", "/readyz").status == 200
    server.end()


def test_other_commands_work_through_it(cli, serve, tmp_path):
    server = serve()
    (tmp_path / "input").mkdir()
    (tmp_path / "input/hello.txt").write_text("hello")
    far = {"ARTIFACTFS_REPOSITORY": server.url}
    assert cli("put", "words", tmp_path / "input", env=far).lines == ["words:v0"]
    cli("get", "words", tmp_path / "out", env=far)
    assert (tmp_path / "out/hello.txt").read_text() == "hello"
    assert "words" in cli("ls").stdout  # the directory itself
    server.end()


def test_what_embedded_processes_do_is_seen(cli, serve, tmp_path):
    server = serve()
    (tmp_path / "a").write_text("a")
    cli("put", "early", tmp_path / "a")
    assert [entry["name"] for entry in ask(server.url, "GET", f"{PROJECT}/artifacts").json["artifacts"]] == ["early"]
    server.end()


def test_it_listens_beyond_this_machine_when_told_so(serve):
    server = serve("--host", "0.0.0.0", "--allow-unauthenticated", "--allow-plain-http")  # noqa: S104 - what is asked for here
    port = urlsplit(server.url).port
    assert server.url == f"http://0.0.0.0:{port}"
    assert f":{port} ls" in server.second
    assert "0.0.0.0" not in server.second  # noqa: S104 - an address that clients can use
    assert ask(f"http://127.0.0.1:{port}", "GET", "/healthz").status == 200
    server.end()


def test_it_logs_each_request_as_json_and_no_secret(serve):
    server = serve()
    ask(server.url, "GET", f"{PROJECT}/objects?prefix=s3cret", headers={"Authorization": "s3cret", "Cookie": "s3cret"})
    log = server.end()
    assert [(line["method"], line["path"], line["status"]) for line in log] == [("GET", f"{PROJECT}/objects", 200)]
    assert "s3cret" not in json.dumps(log)


def test_the_access_log_can_be_switched_off(serve):
    server = serve("--no-access-log")
    ask(server.url, "GET", f"{PROJECT}/artifacts")
    assert server.end() == []


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])  # noqa: S104 - what is refused here
def test_it_does_not_listen_beyond_this_machine_by_itself(cli, host):
    message = cli.refuses("serve", "--host", host, "--port", 0)
    assert message.startswith(f"{host} can be reached from other machines")
    assert "without TLS others could read what goes there" in message
    assert "--allow-plain-http" in message
    assert "\n" not in message
    assert not (cli.home / ".local").exists()


def test_a_server_is_not_served_again(cli):
    message = cli.refuses("--repository", "http://127.0.0.1:1", "serve", status=2)
    assert message.startswith("serve needs a repository in a directory, not http://127.0.0.1:1")


def test_a_port_that_is_in_use_is_one_line(cli):
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        message = cli.refuses("serve", "--port", port)
    assert message == f"port {port} of 127.0.0.1 is in use by another process; choose another --port, or 0 for any"
    assert not (cli.home / ".local").exists()


def test_an_address_of_another_machine_is_one_line(cli):
    message = cli.refuses("serve", "--host", "192.0.2.1", "--allow-unauthenticated", "--allow-plain-http", status=2)
    assert message == (
        "cannot listen at port 7420 of 192.0.2.1: cannot assign requested address; choose an address of this machine"
    )


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_a_wrong_port_is_wrong_usage(cli, port):
    assert "--port" in cli.refuses("serve", "--port", port, status=2)


def test_a_missing_extra_is_one_line_that_says_what_to_install(cli, tmp_path):
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for name in ("fastapi", "uvicorn", "prometheus_client"):
        (blocked / f"{name}.py").write_text(f"raise ModuleNotFoundError('no', name={name!r})\n")
        message = cli.refuses("serve", env={"PYTHONPATH": f"{blocked}:{cli.env['PYTHONPATH']}"})
        assert message == (f"serve needs packages that are not installed ({name}); pip install 'artifactfs[server]'")
        (blocked / f"{name}.py").unlink()


def test_other_commands_do_not_import_the_server(cli, tmp_path):
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for name in ("fastapi", "uvicorn", "prometheus_client", "starlette"):
        (blocked / f"{name}.py").write_text("raise AssertionError('imported')\n")
    assert "serve" in cli("--help", env={"PYTHONPATH": f"{blocked}:{cli.env['PYTHONPATH']}"}).stdout
    cli("serve", "--help", env={"PYTHONPATH": f"{blocked}:{cli.env['PYTHONPATH']}"})


# -- stopping ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_download_that_is_under_way_is_finished(serve, large, number):
    server = serve("--graceful", 200)
    with closing(slow_line(server.url)) as line, closing(connect(server.url)) as idle:
        idle.request("GET", "/healthz")
        assert idle.getresponse().read()
        server.process.send_signal(number)
        eventually(lambda: refused(server.url))
        assert server.process.poll() is None
        assert rest_of(line) == large
    log = server.end(0)
    assert ("GET", f"{PROJECT}/objects/large", 200, LARGE) in [
        (entry["method"], entry["path"], entry["status"], entry["bytes"]) for entry in log
    ]


def test_an_upload_that_is_under_way_is_finished(cli, serve):
    server = serve()
    data = chunk("x") * 1000
    with closing(connect(server.url)) as connection:
        connection.putrequest("PUT", f"{PROJECT}/objects/x")
        connection.putheader("Content-Length", str(len(data)))
        connection.endheaders(data[:100])
        # It has come as far as the server's file.
        eventually(lambda: list(Path(server.repository).glob("store/default/tmp/*")))
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: refused(server.url))
        connection.send(data[100:])
        assert connection.getresponse().status == 204
    server.end(0)
    assert (Path(server.repository) / "store/default/x").read_bytes() == data


def test_a_long_poll_ends_with_the_present_revision(serve):
    server = serve()
    with closing(connect(server.url)) as follower:
        follower.request("GET", f"{PROJECT}/revision?after=0&seconds=50")
        eventually(lambda: b"artifactfs_open_polls 1.0" in ask(server.url, "GET", "/metrics").body)
        server.process.send_signal(signal.SIGTERM)
        response = follower.getresponse()
        assert (response.status, json.loads(response.read())) == (200, {"revision": 0})
    server.end(0)


def test_a_client_that_takes_nothing_is_not_waited_for_longer_than_was_said(serve, large):
    server = serve("--graceful", 1)
    with closing(slow_line(server.url)) as line:
        log = server.end()
        assert len(rest_of(line)) < len(large)
    assert any("timeout graceful shutdown exceeded" in entry.get("message", "") for entry in log)


def test_more_followers_than_the_usual_limit_of_descriptors(cli, serve):
    cli.program = ("sh", "-c", 'ulimit -Sn 64; exec "$@"', "sh", *cli.program)
    server = serve()
    followers = [connect(server.url) for _ in range(150)]
    try:
        for follower in followers:
            follower.request("GET", f"{PROJECT}/revision?after=0")
        eventually(lambda: b"artifactfs_open_polls 150.0" in ask(server.url, "GET", "/metrics").body)
    finally:
        for follower in followers:
            follower.close()
    server.end()


def test_it_may_be_started_again_at_once_at_the_same_port(cli, serve):
    with closing(HeldPort()) as held:
        port = held.number
        server = serve("--port", port)
        with closing(connect(server.url)) as connection:
            connection.request("GET", "/v1")
            assert wire.decode(connection.getresponse().read(), wire.Hello, wire.JSON).protocol == wire.PROTOCOL
            server.end()
        again = Server(cli.start("serve", "--port", port))
        try:
            assert again.url == server.url == f"http://127.0.0.1:{port}"
        finally:
            again.end()
