"""Connection: requests to one server, with what is repeated, for how long, and what a response means.

Used by the remote Registry, Store and NodeSource of one repository, which share it; they close it. Any thread. In a forked child it
starts anew with connections of its own.

Bounds. A connection comes about within ``connect`` seconds (5). While a request is sent or its response comes, the network is
silent for ``silence`` seconds (10) at most; a request that makes the server work is answered within ``seconds``. A call ends within
``seconds`` (30) in all, a part of an object comes within ``seconds``; to both is added a second for every 32 KiB that really moved,
so that a slow line is no failure and a byte a second is one. What failed is repeated until then: every request of the protocol may be.

A server that cannot be reached is waited for as long as ``seconds`` since it answered last, so that its restart breaks nothing; after
that, and when it never answered, calls fail at once: one attempt a second finds out when it is back, or the one that follows the
revision (``probe``) does.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import SplitResult, quote, urlencode, urlsplit

import msgspec

from artifactfs import __version__
from artifactfs.credentials import NONE, Credentials
from artifactfs.errors import (
    Access,
    ArtifactFSError,
    Format,
    InvalidInput,
    NotFound,
    Unavailable,
)
from artifactfs.remote import wire
from artifactfs.remote.ticket import Ticket, check_ca
from artifactfs.remote.transport import BAD_CERTIFICATE, CLOSED, PACE, Body, Broken, Response, Transport, Unreachable

SECONDS: Final = 30.0
CONNECT_SECONDS: Final = 5.0
SILENCE_SECONDS: Final = 10.0

REST_SECONDS: Final = 1.0
"""How long a server that could not be reached is left alone; a tenth of ``seconds`` when that is less."""
LONGEST_REST: Final = 15.0
"""The same, when finding out took long: twice as long as that, so that at most a third of the time is spent on it."""
WATCHED_SECONDS: Final = 15.0
"""How long after the last probe it still counts as the one that finds out when the server is back."""
FIRST_DELAY: Final = 0.1
LONGEST_DELAY: Final = 2.0
"""Between attempts, doubling, in seconds. A response's Retry-After comes first."""
UPLOAD_ATTEMPTS: Final = 5
"""How often an object is sent, whose sending may take long each time."""
FAILURE_LIMIT: Final = 64 << 10
"""Bytes of a response that is an error."""

PROXY_SECONDS: Final = 1.5
"""How long a proxy may say that its server is away before that counts, for who has another answer: a restart takes about as long."""

_LATER: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that pass. 500 only of what stands before the server: its own 500 says that a repetition does not help."""
_AGENT: Final = f"artifactfs/{__version__}"

T = TypeVar("T")


class Reply(NamedTuple):
    """A response to a message: its body, the body's media type, and the project's revision if the response had one."""

    body: bytes
    media: str
    revision: int | None


class Trial:
    """The attempts at one request: until when, and how patiently.

    ``hasty``: the caller has another answer, so a server that cannot be reached is not waited for. ``probe``: one attempt, in any
    case. ``once``: what may have been carried out is not repeated. ``stream``: its failure says nothing of other requests.
    """

    __slots__ = ("began", "deadline", "delay", "hasty", "once", "probe", "stream")

    def __init__(
        self, seconds: float, *, hasty: bool = False, probe: bool = False, once: bool = False, stream: bool = False
    ) -> None:
        self.began = time.monotonic()
        self.deadline = self.began + seconds
        self.delay = FIRST_DELAY
        self.hasty = hasty
        self.probe = probe
        self.once = once
        self.stream = stream

    def moved(self, count: int) -> None:
        """Bytes came that need not come again."""
        if count:
            self.deadline += count / PACE
            self.delay = FIRST_DELAY


class _Later(Exception):
    """Not now. ``after``: seconds, when the server says so."""

    def __init__(self, error: Unavailable, after: float | None, *, stranger: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.after = after
        self.stranger = stranger  # a proxy says so: the server cannot be reached


class Connection:
    """Requests to the server at an address: ``http://host:port`` or ``https://host/prefix``. Makes no request by itself.

    InvalidInput for an address that cannot be one. Nothing of it is secret: credentials in it are refused. ``credentials`` go to this
    address alone, as no redirect is followed.
    """

    def __init__(
        self,
        url: str,
        *,
        seconds: float = SECONDS,
        connect: float = CONNECT_SECONDS,
        silence: float = SILENCE_SECONDS,
        credentials: Credentials = NONE,
    ) -> None:
        self.url = check_url(url)
        self._credentials = credentials
        self._ca_file = check_ca(credentials.ca_file) if self.url.startswith("https:") else None
        if not min(seconds, connect, silence) > 0:
            raise InvalidInput(f"cannot wait {min(seconds, connect, silence):g} s for a server; give more than 0")
        self.seconds = seconds
        self.silence = min(silence, seconds)
        self._connect = min(connect, seconds)
        self._shortest_rest = min(REST_SECONDS, seconds / 10)
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._ticket = Ticket(self.url, self._credentials)
        self._transport = Transport(connect=self._connect, ca_file=self._ca_file)
        self._closing = threading.Event()
        self._lock = threading.Lock()  # guards what follows
        self._online = True
        self._reason = ""
        self._answered = False  # ever
        self._down_since: float | None = None  # since when the server cannot be reached
        self._rest_until = 0.0
        self._probes = 0  # under way
        self._probed = 0.0  # when the last one ended

    # -- state -----------------------------------------------------------------------------------------------------

    @property
    def online(self) -> bool:
        """Whether the server answered when last asked; also before it was asked."""
        return self._online

    @property
    def reason(self) -> str:
        """Why it is not online; else empty."""
        return self._reason

    @property
    def requests(self) -> int:
        """Requests so far, each attempt counted."""
        return self._transport.requests

    @property
    def bytes_sent(self) -> int:
        """Bytes sent so far, heads of requests included."""
        return self._transport.bytes_sent

    @property
    def bytes_received(self) -> int:
        """Bytes received so far, heads of responses included."""
        return self._transport.bytes_received

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closing.is_set()

    def close(self) -> None:
        """End every request, also a long poll, with Unavailable. Idempotent."""
        if os.getpid() == self._process:
            self._closing.set()
            self._transport.close()

    # -- messages --------------------------------------------------------------------------------------------------

    def call(self, kind: type[T], method: str, path: str, message: Any = None, *, seconds: float | None = None) -> T:
        """Send a message and return the answer, which is a ``kind``. Raises what the server reports; Format, Unavailable."""
        return self.read(self.ask(method, path, message, seconds=seconds), kind)

    def ask(
        self,
        method: str,
        path: str,
        message: Any = None,
        *,
        seconds: float | None = None,
        answer: float | None = None,
        hasty: bool = False,
        probe: bool = False,
        once: bool = False,
    ) -> Reply:
        """As :meth:`call`, the answer undecoded. ``answer``: seconds until it begins; the others as in :class:`Trial`."""
        headers = {"Accept": wire.MSGPACK}
        body: bytes | None = None
        if message is not None:
            body = encode(message)
            headers["Content-Type"] = wire.MSGPACK
            headers["Content-Length"] = str(len(body))
        trial = Trial(self.seconds if seconds is None else seconds, hasty=hasty, probe=probe, once=once)
        if answer is None:
            # A message makes the server work: it looks up thousands of digests, or waits for a disk.
            answer = self.silence if message is None else trial.deadline - time.monotonic()
        with self._watching(probe):
            while True:
                response = self.respond(trial, method, path, headers, body, answer=answer)
                try:
                    data = response.read_all(wire.MESSAGE_LIMIT)
                except Broken as error:
                    self.broke(trial, error)
                    continue
                finally:
                    response.close()
                if len(data) > wire.MESSAGE_LIMIT:
                    raise Format(
                        f"the answer of {self.url} is larger than {wire.MESSAGE_LIMIT} bytes; upgrade artifactfs"
                    )
                return Reply(data, response.headers.get("Content-Type", ""), _revision(response))

    def read(self, reply: Reply, kind: type[T]) -> T:
        """A reply's message. Format when it is none of this kind."""
        try:
            return wire.decode(reply.body, kind, reply.media)
        except InvalidInput as error:
            raise Format(f"cannot read the answer of {self.url}: {error}; upgrade artifactfs here or there") from error

    def tell(self, method: str, path: str, message: Any = None) -> None:
        """As :meth:`call`, for what is answered without a message."""
        self.ask(method, path, message)

    # -- objects ---------------------------------------------------------------------------------------------------

    def head(self, path: str) -> int:
        """The size of an object in bytes, without reading it. NotFound without it."""
        trial = Trial(self.seconds)
        response = self.respond(trial, "HEAD", path, {}, None, answer=self.silence)
        response.close()
        if response.length is None:
            raise Format(f"{self.url} does not say how large {path} is; is something before it that changes answers?")
        return response.length

    def put(self, path: str, size: int, blocks: Callable[[], Iterator[bytes | memoryview]]) -> None:
        """Store an object of ``size`` bytes. ``blocks()`` gives them, from the first on, for each attempt.

        Attempts go on while bytes move, or ``seconds`` have passed since the last did, at most five.
        """
        headers = {"Content-Type": wire.BYTES, "Content-Length": str(size), "Accept": wire.MSGPACK}
        trial = Trial(self.seconds)
        attempts = 0

        def moving() -> Iterator[bytes | memoryview]:
            nonlocal attempts
            attempts += 1
            for block in blocks():
                if attempts < UPLOAD_ATTEMPTS:
                    trial.deadline = time.monotonic() + self.seconds
                yield block

        self.respond(trial, "PUT", path, headers, moving, answer=self.seconds).close()

    # -- attempts --------------------------------------------------------------------------------------------------

    def streaming(self) -> Trial:
        """The attempts at a part of an object that is read."""
        return Trial(self.seconds, stream=True)

    def respond(
        self,
        trial: Trial,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | Callable[[], Iterator[bytes | memoryview]] | None,
        *,
        answer: float,
    ) -> Response:
        """A response that is a success (or 416), of an ArtifactFS server; the caller closes it. Raises what the server reports."""
        if os.getpid() != self._process:
            self._start()
        url = self.url + path
        sent = {
            "User-Agent": _AGENT,
            "Accept-Encoding": "identity",
            wire.PROTOCOL_HEADER: str(wire.PROTOCOL),
            **headers,
        }
        renewed = False  # the token was read again for this request
        while True:
            self._admit(trial)
            shown = self._ticket.show()
            if shown:
                sent["Authorization"] = f"Bearer {shown}"
            blocks: Body | None = body() if callable(body) else body
            began = time.monotonic()
            try:
                response = self._transport.send(
                    method, url, sent, blocks, deadline=trial.deadline, silence=self.silence, answer=answer
                )
            except Unreachable as error:
                self._rest(str(error), time.monotonic() - began)
                if not self._patient(trial):
                    raise self._unreachable() from error
                self._pause(trial, self._unreachable())
            except Broken as error:
                self.broke(trial, error)
            else:
                try:
                    self._check(response)
                except _Later as later:
                    response.close()
                    if trial.hasty and later.stranger and time.monotonic() - trial.began > PROXY_SECONDS:
                        self._rest(str(later.error), time.monotonic() - began)
                        raise later.error from None
                    if trial.once:
                        raise later.error from None
                    self._pause(trial, later.error, later.after)
                except ArtifactFSError:
                    response.close()
                    if response.status == 401 and not renewed and self._ticket.renew(shown):
                        renewed = True
                        continue
                    raise
                else:
                    self._answers()
                    return response

    def broke(self, trial: Trial, error: Broken) -> None:
        """After a failure of the connection: return when the next attempt may begin, or raise Unavailable."""
        if error.stale or error.silent:
            self._transport.forget_idle()  # what is true of one is likely to be true of all
        if trial.once:
            raise self._unanswered(str(error)) from error
        self._pause(trial, self._unanswered(str(error)), 0.0 if error.stale else None)

    def _pause(self, trial: Trial, error: Unavailable, after: float | None = None) -> None:
        if self._closing.is_set():
            raise self._closed() from error
        delay = trial.delay if after is None else after
        trial.delay = min(2 * trial.delay, LONGEST_DELAY)
        if (trial.probe and delay) or time.monotonic() + delay >= trial.deadline:
            if trial.hasty:
                self._rest(str(error), 0.0)
            elif not trial.stream:
                self._offline(str(error))
            raise error
        if self._closing.wait(delay):
            raise self._closed() from error

    def _admit(self, trial: Trial) -> None:
        """Return when an attempt may be made. Unavailable at once when the server is left alone and nobody waits for it."""
        if self._closing.is_set():
            raise self._closed()
        if trial.probe or self._down_since is None:
            return
        patient = self._patient(trial)
        now = time.monotonic()
        with self._lock:
            rest = self._rest_until - now
            watched = self._probes > 0 or now - self._probed < WATCHED_SECONDS
        if patient:
            if rest > 0:
                self._pause(trial, self._unreachable(), rest)
        elif rest > 0 or watched:
            raise self._unreachable()

    def _patient(self, trial: Trial) -> bool:
        with self._lock:
            down = self._down_since
            waiting = down is None or time.monotonic() - down < self.seconds
            return self._answered and not trial.hasty and not trial.probe and waiting

    @contextmanager
    def _watching(self, probe: bool) -> Iterator[None]:
        if not probe:
            yield
            return
        with self._lock:
            self._probes += 1
        try:
            yield
        finally:
            with self._lock:
                self._probes -= 1
                self._probed = time.monotonic()

    def _answers(self) -> None:
        if not self._online or not self._answered or self._down_since is not None:
            with self._lock:
                self._online = self._answered = True
                self._reason = ""
                self._down_since = None

    def _offline(self, reason: str) -> None:
        with self._lock:
            self._online = False
            self._reason = reason

    def _rest(self, reason: str, took: float) -> None:
        """Leave the server alone for a while."""
        now = time.monotonic()
        with self._lock:
            self._online = False
            self._reason = reason
            self._down_since = now if self._down_since is None else self._down_since
            self._rest_until = now + min(max(self._shortest_rest, 2 * took), LONGEST_REST)

    # -- what a response means -------------------------------------------------------------------------------------

    def _check(self, response: Response) -> None:
        """Raise what is wrong with a response; _Later when it may pass."""
        status = response.status
        speaks = response.headers.get(wire.PROTOCOL_HEADER)
        if speaks is None:
            self._check_stranger(response)
        try:
            wire.check_protocol(speaks, f"the server at {self.url}", oldest=wire.OLDEST_SERVER)
        except Format as other:
            self._offline(str(other))
            raise
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise Format(
                f"something before {self.url} compresses what it sends, which was not asked for; switch it off there"
            )
        if 200 <= status < 300 or status == 416:
            return
        error = self._failure(response)
        if status == 401:
            refused = Access(self._ticket.refused(str(error)))
            self._offline(str(refused))
            raise refused
        # The server is there and answers, if only with an error.
        if isinstance(error, Unavailable):
            raise _Later(error, _retry_after(response))
        self._answers()
        raise error

    def _check_stranger(self, response: Response) -> None:
        """Without the protocol's header it is no ArtifactFS server that answers, but perhaps what stands before one."""
        status = response.status
        error: ArtifactFSError
        if status in _LATER or status > 504:
            unanswered = self._unanswered(f"status {status} of what stands before the server")
            raise _Later(unanswered, _retry_after(response), stranger=True)
        if 300 <= status < 400:
            error = InvalidInput(f"{self.url} sends on to {_location(response)}; use the address that it ends at")
        elif status in {401, 403, 407}:
            error = Access(
                f"what stands before {self.url} refuses with status {status}; check the address and its rules"
            )
        elif status == 413:
            error = InvalidInput(
                f"what stands before {self.url} refuses so large a body; raise its limit to {wire.OBJECT_LIMIT} bytes"
            )
        else:
            return
        self._offline(str(error))
        raise error

    def _failure(self, response: Response) -> ArtifactFSError:
        status = response.status
        try:
            data = response.read_all(FAILURE_LIMIT)
            error = wire.from_failure(wire.decode(data, wire.Failure, response.headers.get("Content-Type", "")))
        except (Broken, InvalidInput):  # the answer to a HEAD has no body
            if status in _LATER:
                return self._unanswered(f"status {status}")
            return _BY_STATUS.get(status, ArtifactFSError)(f"{self.url} answered with status {status}")
        if status in _LATER - {500} and not isinstance(error, Unavailable):
            return Unavailable(str(error))
        return error

    def _unreachable(self) -> Unavailable:
        if self._reason.startswith(self.url):
            return Unavailable(self._reason)
        check = "check that the server is running and the address is right"
        if BAD_CERTIFICATE in self._reason:
            check = "if its CA is a private one, name the CA's certificates with ARTIFACTFS_CA_FILE or ca_file in the configuration"
        return Unavailable(f"cannot reach {self.url}: {self._reason}; {check}")

    def _unanswered(self, reason: str) -> Unavailable:
        again = "try again later"
        if reason == CLOSED and not self._answered and self.url.startswith("http:"):
            again += ", or with https:// if the server speaks TLS"
        return Unavailable(f"{self.url} does not answer: {reason}; {again}")

    def _closed(self) -> Unavailable:
        return Unavailable(f"the connection to {self.url} is closed; open the repository again")


_BY_STATUS: Final[dict[int, type[ArtifactFSError]]] = {400: InvalidInput, 401: Access, 403: Access, 404: NotFound}


def check_url(url: str) -> str:
    """A server's address without a slash at its end. InvalidInput for anything that is none."""
    wrong = "; expected http://host:port or https://host, with a path if the server is behind one"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidInput(f"not a server's address: {url!r}: {error}{wrong}") from error
    if parts.username is not None or parts.password is not None:
        raise InvalidInput(
            f"the address of {_shown(parts)} must not contain a user or password: addresses are shown and logged"
        )
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise InvalidInput(f"not a server's address: {url!r}{wrong}")
    if parts.query or parts.fragment or not url.isascii() or not url.isprintable() or set(url) & set(' "<>\\^`{|}'):
        raise InvalidInput(f"not a server's address: {url!r}{wrong}")
    path = parts.path.rstrip("/")
    if any(part in {".", ".."} for part in path.split("/")):
        raise InvalidInput(f"not a server's address: {url!r}{wrong}")
    return f"{parts.scheme}://{parts.netloc.lower()}{path}"


def encode(message: Any) -> bytes:
    """A message's bytes. InvalidInput for values that no message can hold."""
    try:
        return wire.encode(message)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidInput(f"not to be sent: {error}") from error


def segment(text: str) -> str:
    """Text as one part of a path."""
    return quote(text, safe="")


def query(**words: object) -> str:
    """Words as a path's query. InvalidInput for text that no URL can hold."""
    try:
        return "?" + urlencode(words)
    except UnicodeEncodeError as error:
        raise InvalidInput(f"not to be sent: {error}") from error


def _shown(parts: SplitResult) -> str:
    return f"{parts.scheme}://{parts.hostname}"


def _revision(response: Response) -> int | None:
    text = response.headers.get(wire.REVISION_HEADER, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None


def _retry_after(response: Response) -> float | None:
    """Seconds; a date, which HTTP allows too, counts as not said."""
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 7 else None


def _location(response: Response) -> str:
    text = response.headers.get("Location", "")
    parts = urlsplit(text)
    return _shown(parts) + parts.path if parts.hostname and text.isprintable() else "another place"
