"""The control socket: requests and answers, silence, strangers, and clients that go away."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.errors import Access, ArtifactFSError, Conflict, Format, InvalidInput, NotFound, Unavailable
from artifactfs.mount import control
from artifactfs.mount.control import ControlServer, daemon_of, request


class Works:
    """Handlers for tests."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.started = threading.Event()
        self.noted = threading.Event()
        self.stopped: list[str] = []

    def handlers(self):
        return {"echo": self.echo, "fail": self.fail, "slow": self.slow, "chatter": self.chatter, "bug": self.bug}

    def echo(self, fields, note):
        note({"half": 1})
        note({"half": 2})
        return {"fields": {key: fields[key] for key in sorted(fields)}}

    def fail(self, fields, note):
        raise {"conflict": Conflict, "not-found": NotFound, "os": OSError}[fields["kind"]](
            28, "No space left on device"
        )

    def slow(self, fields, note):
        self.started.set()
        assert self.release.wait(60)
        return {"done": True}

    def chatter(self, fields, note):
        try:
            while True:
                note({"text": "x" * 100})
                self.noted.set()
        except Unavailable as error:
            self.stopped.append(str(error))
            self.release.set()
            raise

    def bug(self, fields, note):
        raise ZeroDivisionError("oh\nno")


@pytest.fixture
def works() -> Works:
    return Works()


@pytest.fixture
def workspace(tmp_path: Path, works: Works) -> Iterator[Path]:
    # Longer than the 107 bytes that a socket's address may have.
    path = tmp_path / ("long" * 40) / "workspace"
    path.mkdir(parents=True)
    server = ControlServer(path, works.handlers())
    server.start()
    yield path
    works.release.set()
    server.close()
    assert not (path / control.SOCKET).exists()


def raw(workspace: Path, data: bytes) -> dict:
    with control._connect(workspace) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while part := connection.recv(65536):
            received += part
    return json.loads(received)


def test_an_answer_follows_its_notes(workspace):
    notes: list[dict] = []
    result = request(workspace, "echo", {"name": "größe\n\udcff"}, note=notes.append)
    assert result == {"fields": {"artifactfs": 1, "name": "größe\n\udcff", "op": "echo", "peer": os.getpid()}}
    assert notes == [{"half": 1}, {"half": 2}]


@pytest.mark.parametrize("kind", [Conflict, NotFound])
def test_errors_come_back_as_what_they_were(workspace, kind):
    with pytest.raises(kind, match="No space left"):
        request(workspace, "fail", {"kind": kind.code})


def test_errors_of_the_system_and_faults_are_one_line(workspace, caplog):
    with pytest.raises(ArtifactFSError, match=r"^No space left on device$"):
        request(workspace, "fail", {"kind": "os"})
    with pytest.raises(
        ArtifactFSError, match=r"unexpected failure in the mount: ZeroDivisionError: oh; see .*daemon\.log"
    ):
        request(workspace, "bug")
    assert "Traceback" in caplog.text
    assert request(workspace, "echo")["fields"]["op"] == "echo"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", InvalidInput.code),
        (b"{", InvalidInput.code),
        (b"not json\n", InvalidInput.code),
        (b"\xff\n", InvalidInput.code),
        (b"[]\n", Format.code),
        (b'{"op": "echo"}\n', Format.code),
        (b'{"artifactfs": 2, "op": "echo"}\n', Format.code),
        (b'{"artifactfs": 1, "op": "nope"}\n', InvalidInput.code),
        (b'{"artifactfs": 1}\n', InvalidInput.code),
        (b"x" * ((1 << 20) + 1), InvalidInput.code),
    ],
)
def test_hostile_requests_are_refused(workspace, data, code):
    assert raw(workspace, data)["error"]["code"] == code


def test_no_daemon_is_said_at_once(tmp_path):
    with pytest.raises(Unavailable, match="artifactfs mount"):
        request(tmp_path, "echo")
    assert daemon_of(tmp_path) is None


def test_a_killed_daemon_leaves_a_socket_that_the_next_one_replaces(tmp_path, works):
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / control.SOCKET))
    left.close()
    with pytest.raises(Unavailable):
        request(tmp_path, "echo")
    server = ControlServer(tmp_path, works.handlers())
    server.start()
    assert request(tmp_path, "echo")["fields"]["op"] == "echo"
    server.close()


def test_an_older_server_does_not_remove_the_socket_of_a_newer_one(tmp_path, works):
    older = ControlServer(tmp_path, works.handlers())
    older.start()
    newer = ControlServer(tmp_path, works.handlers())
    newer.start()
    older.close()
    assert request(tmp_path, "echo")["fields"]["op"] == "echo"
    newer.close()
    newer.close()


def test_work_that_takes_long_is_heard_of(workspace, works, monkeypatch):
    monkeypatch.setattr(control, "_BEAT_SECONDS", 0.02)
    answers: list[dict] = []
    thread = threading.Thread(target=lambda: answers.append(request(workspace, "slow", silence=60)))
    thread.start()
    assert works.started.wait(60)
    # Others are served meanwhile.
    assert request(workspace, "echo")["fields"]["op"] == "echo"
    works.release.set()
    thread.join(60)
    assert answers == [{"done": True}]


def test_silence_ends(tmp_path):
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / control.SOCKET))
        silent.listen()
        with pytest.raises(Unavailable, match="has not answered"):
            request(tmp_path, "echo", silence=0.05)
        assert daemon_of(tmp_path) == os.getpid()


def test_an_end_without_an_answer_is_said(tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / control.SOCKET))
        server.listen()

        def hang_up() -> None:
            connection, _ = server.accept()
            connection.recv(4096)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(Unavailable, match="ended during the request"):
            request(tmp_path, "echo")
        thread.join(60)


def test_work_stops_when_its_client_has_gone(workspace, works):
    with control._connect(workspace) as connection:
        connection.sendall(b'{"artifactfs": 1, "op": "chatter"}\n')
        assert works.noted.wait(60)
    assert works.release.wait(60)
    assert works.stopped == ["the command that asked for this has ended"]


def test_a_fault_of_the_client_stays_its_own(workspace):
    def broken(_note: object) -> None:
        raise BrokenPipeError(32, "the pager went away")

    with pytest.raises(BrokenPipeError):
        request(workspace, "echo", note=broken)


def test_only_this_user_and_root_are_served(workspace, monkeypatch):
    assert stat.S_IMODE((workspace / control.SOCKET).stat().st_mode) == 0o600
    mine = os.geteuid()
    monkeypatch.setattr(control, "_credentials", lambda connection: (1, mine + 1))
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(Access, match="another user"):
        control._Peer(ours).check_user()
    monkeypatch.setattr(control.os, "geteuid", lambda: mine + 2)
    with pytest.raises(Access, match="another user"):
        request(workspace, "echo")


def test_too_many_at_once_are_told_so(workspace, works):
    connections = []
    try:
        for _ in range(control._CONNECTIONS):
            connection = control._connect(workspace)
            connection.sendall(b'{"artifactfs": 1, "op": "slow"}\n')
            connections.append(connection)
        with pytest.raises(Unavailable, match="busy"):
            request(workspace, "echo")
    finally:
        works.release.set()
        for connection in connections:
            with connection:
                while connection.recv(65536):
                    pass
    assert request(workspace, "echo")["fields"]["op"] == "echo"
