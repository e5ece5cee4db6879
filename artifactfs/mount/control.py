"""The control socket of a mount: how commands reach the daemon that owns a workspace.

The daemon runs a :class:`ControlServer` on ``control.sock`` in its workspace; commands call :func:`request`. One
connection carries one request: a JSON object on a line, answered by lines of JSON.

=====================================  =========================================================================
line                                   meaning
=====================================  =========================================================================
``{"artifactfs": 1, "op": …, …}``      the request: protocol version, operation, its fields; handlers find in
                                       ``peer`` the process that asks, as the kernel tells it (0: not visible from here)
``{"beat": true}``                     sent every 2 seconds while the daemon works, so that silence means a fault
``{"note": {…}}``                      progress, or a part of a long result
``{"result": {…}}``                    the end: done
``{"error": {"code": …, "message"}}``  the end: refused or failed; the codes are those of :mod:`artifactfs.errors`
=====================================  =========================================================================

Only the user of the daemon, and root, are served: the socket has mode 0600 and the peer's user is asked of the
kernel. Every wait is bounded. The server runs one thread for accepting, one for beats and one per connection, and
touches no file below the mount (a process that waits for itself cannot be killed). Clients may be used from any thread.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from artifactfs.errors import Access, ArtifactFSError, Format, InvalidInput, Unavailable

PROTOCOL: Final = 1
SOCKET: Final = "control.sock"
CONNECT_SECONDS: Final = 5.0
SILENCE_SECONDS: Final = 30.0  # 15 beats
_BEAT_SECONDS: Final = 2.0
_REQUEST_SECONDS: Final = 10.0  # for a client to send its line, and to take a line of the answer
_REQUEST_BYTES: Final = 1 << 20
_LINE_BYTES: Final = 64 << 20  # longest answer line that a client accepts
_CONNECTIONS: Final = 32

Note = Callable[[Mapping[str, Any]], None]
Handler = Callable[[Mapping[str, Any], Note], Mapping[str, Any]]

_log = logging.getLogger(__name__)


class ControlServer:
    """Answers requests on a workspace's socket by calling ``handlers[op](fields, note)``.

    A handler's ``note`` raises Unavailable once the client has gone, which is how an interrupted command stops its work.
    """

    def __init__(self, workspace: Path, handlers: Mapping[str, Handler]) -> None:
        self._workspace = workspace
        self._handlers = handlers
        self._peers: set[_Peer] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._socket = _listen(workspace)
        self._inode = (workspace / SOCKET).stat().st_ino
        self._threads = [
            threading.Thread(target=self._accept, name="control-accept", daemon=True),
            threading.Thread(target=self._beat, name="control-beat", daemon=True),
        ]

    def start(self) -> None:
        """Begin to accept. Call after the last fork."""
        for thread in self._threads:
            thread.start()

    def close(self, *, seconds: float = 5.0) -> None:
        """Stop accepting, let running requests end for at most ``seconds``, remove the socket. Idempotent."""
        if self._closed.is_set():
            return
        self._closed.set()
        with contextlib.suppress(FileNotFoundError):
            if (self._workspace / SOCKET).stat().st_ino == self._inode:  # not that of a mount which came after
                (self._workspace / SOCKET).unlink()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._socket.close()
        deadline = time.monotonic() + seconds
        with self._lock:
            peers = list(self._peers)
        for peer in peers:
            peer.ended.wait(max(0.0, deadline - time.monotonic()))

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError as error:
                if self._closed.is_set():
                    return
                _log.warning("control socket: %s", error)
                self._closed.wait(0.1)  # out of descriptors: do not spin
                continue
            peer = _Peer(connection)
            with self._lock:
                full = len(self._peers) >= _CONNECTIONS
                if not full:
                    self._peers.add(peer)
            if full:
                peer.finish_error(Unavailable("the mount is busy with other commands; try again"))
                continue
            threading.Thread(target=self._serve, args=(peer,), name="control-request", daemon=True).start()

    def _beat(self) -> None:
        while not self._closed.wait(_BEAT_SECONDS):
            with self._lock:
                peers = list(self._peers)
            for peer in peers:
                peer.beat()

    def _serve(self, peer: _Peer) -> None:
        try:
            process = peer.check_user()
            fields = {**peer.read_request(), "peer": process}
            peer.finish({"result": self._handler(fields)(fields, peer.note)})
        except ArtifactFSError as error:
            peer.finish_error(error)
        except OSError as error:
            peer.finish({"error": {"code": "error", "message": _explain(error)}})
        except Exception as error:
            # A fault of ours must reach the user as a line and the log as a traceback, and must not end the daemon.
            _log.exception("request failed")
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            message = f"unexpected failure in the mount: {what}; see {self._workspace / 'daemon.log'}"
            peer.finish({"error": {"code": "error", "message": message}})
        finally:
            with self._lock:
                self._peers.discard(peer)

    def _handler(self, fields: Mapping[str, Any]) -> Handler:
        handler = self._handlers.get(str(fields.get("op")))
        if handler is None:
            raise InvalidInput(f"the mount does not know the request {fields.get('op')!r}; mount again after an update")
        return handler


class _Peer:
    """One connection of the server."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._connection.settimeout(_REQUEST_SECONDS)
        self._sending = threading.Lock()
        self._gone = False
        self._working = False
        self.ended = threading.Event()

    def check_user(self) -> int:
        """Access unless the peer is this process's user or root; returns its process."""
        pid, uid = _credentials(self._connection)
        if uid not in {0, os.geteuid()}:
            raise Access("the mount belongs to another user")
        return pid

    def read_request(self) -> Mapping[str, Any]:
        """The request's line, checked for protocol and shape."""
        deadline = time.monotonic() + _REQUEST_SECONDS
        received = bytearray()
        while not received.endswith(b"\n"):
            self._connection.settimeout(max(0.001, deadline - time.monotonic()))
            part = self._connection.recv(65536)
            received += part
            if not part or len(received) > _REQUEST_BYTES:
                raise InvalidInput("incomplete or oversized request on the control socket")
        self._connection.settimeout(_REQUEST_SECONDS)
        self._working = True
        try:
            fields = json.loads(received)
        except ValueError:
            raise InvalidInput("the request on the control socket is not JSON") from None
        if not isinstance(fields, dict) or fields.get("artifactfs") != PROTOCOL:
            raise Format("the mount runs another release of ArtifactFS than this command; unmount and mount again")
        return fields

    def note(self, fields: Mapping[str, Any]) -> None:
        """Send progress or a part of a result."""
        if self._gone or not self._send({"note": fields}):
            raise Unavailable("the command that asked for this has ended")

    def beat(self) -> None:
        """Show life. Never blocks: while a line is being sent, that line is the sign of life."""
        if not self._working or not self._sending.acquire(blocking=False):
            return
        try:
            self._connection.send(b'{"beat":true}\n', socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            pass  # the client has unread lines, so it does not miss this one
        except OSError:
            self._gone = True
        finally:
            self._sending.release()

    def finish(self, reply: Mapping[str, Any]) -> None:
        """Send the last line and hang up."""
        self._send(reply)
        self._working = False
        with self._sending:
            self._connection.close()
        self.ended.set()

    def finish_error(self, error: ArtifactFSError) -> None:
        """Send an error as the last line and hang up."""
        self.finish({"error": {"code": error.code, "message": str(error)}})

    def _send(self, line: Mapping[str, Any]) -> bool:
        with self._sending:
            try:
                self._connection.sendall(json.dumps(line).encode() + b"\n")
            except OSError:
                self._gone = True
                return False
        return True


def request(
    workspace: Path,
    op: str,
    fields: Mapping[str, Any] | None = None,
    *,
    note: Note | None = None,
    silence: float = SILENCE_SECONDS,
) -> dict[str, Any]:
    """Ask the daemon of a workspace; returns its result.

    ``note`` is called with each progress or partial result. Raises the error that the daemon reported, by class;
    Unavailable when no daemon answers within 5 seconds, or when it is silent for ``silence`` seconds.
    """
    with _connect(workspace) as connection:
        line = json.dumps({**(fields or {}), "artifactfs": PROTOCOL, "op": op}).encode() + b"\n"
        for message in _messages(connection, line, workspace, silence):
            if "result" in message:
                result: dict[str, Any] = message["result"]
                return result
            if "error" in message:
                raise error_of(message["error"])
            if note is not None and "note" in message:
                note(message["note"])
    raise Unavailable(f"the mount ended during the request; see {workspace / 'daemon.log'}, then mount again")


def daemon_of(workspace: Path) -> int | None:
    """Process id of the daemon that listens in a workspace, even of one that does not answer; None without one."""
    try:
        with _connect(workspace) as connection:
            return _credentials(connection)[0]
    except ArtifactFSError:
        return None


def _credentials(connection: socket.socket) -> tuple[int, int]:
    """Process and user at the other end; of a listener, those that called listen(2)."""
    size = struct.calcsize("3i")
    pid, uid, _gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return pid, uid


def _connect(workspace: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.settimeout(CONNECT_SECONDS)
    try:
        with _short_path(workspace) as path:
            connection.connect(path)
    except PermissionError as error:
        connection.close()
        raise Access(f"the mount with workspace {workspace} belongs to another user") from error
    except OSError as error:
        connection.close()
        raise Unavailable("no mount is running there; start one with: artifactfs mount") from error
    if _credentials(connection)[1] not in {0, os.geteuid()} and os.geteuid() != 0:
        connection.close()
        raise Access(f"the mount with workspace {workspace} belongs to another user")
    return connection


def _listen(workspace: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with contextlib.suppress(FileNotFoundError):
            (workspace / SOCKET).unlink()  # left by a killed daemon; the workspace is locked by this process
        os.fchmod(server.fileno(), 0o600)  # before bind: the file is born with this mode
        with _short_path(workspace) as path:
            server.bind(path)
        server.listen(_CONNECTIONS)
    except OSError as error:
        server.close()
        raise Unavailable(f"cannot make the control socket in {workspace}: {error.strerror}") from error
    return server


@contextlib.contextmanager
def _short_path(workspace: Path) -> Iterator[str]:
    """The socket's path by way of a descriptor: unix socket addresses end at 107 bytes."""
    directory = os.open(workspace, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{SOCKET}"
    finally:
        os.close(directory)


def _messages(connection: socket.socket, line: bytes, workspace: Path, silence: float) -> Iterator[dict[str, Any]]:
    """Send a request and read the answer's lines. The faults of this end here; those of the consumer stay its own."""
    buffer = bytearray()
    try:
        connection.sendall(line)
        connection.settimeout(silence)
        while part := connection.recv(1 << 16):
            buffer += part
            if b"\n" not in part:
                _check_length(buffer)
                continue
            *lines, rest = bytes(buffer).split(b"\n")
            buffer = bytearray(rest)
            for item in lines:
                yield json.loads(item)
    except TimeoutError:
        raise Unavailable(
            f"the mount has not answered for {silence:.0f} s; look at {workspace / 'daemon.log'}, "
            "or end it with: artifactfs unmount --force"
        ) from None
    except (OSError, ValueError) as error:
        raise Unavailable(f"lost the connection to the mount: {error}; see {workspace / 'daemon.log'}") from error


def _check_length(buffer: bytearray) -> None:
    if len(buffer) > _LINE_BYTES:
        raise ValueError("the answer is too long")


def error_of(fields: Mapping[str, Any]) -> ArtifactFSError:
    """The error that a ``{"code", "message"}`` stands for."""
    classes: dict[str, type[ArtifactFSError]] = {kind.code: kind for kind in ArtifactFSError.__subclasses__()}
    return classes.get(str(fields.get("code")), ArtifactFSError)(str(fields.get("message", "the mount failed")))


def _explain(error: OSError) -> str:
    place = f": {error.filename}" if error.filename else ""
    return f"{error.strerror or error}{place}"
