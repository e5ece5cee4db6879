"""Direct: packs read straight from the object store that the server keeps them in, by URLs that it has signed.

Used by the remote Store, which reads through the server whenever this gives nothing. Any thread; a forked child starts anew.

URLs come along with the places of chunks, so that a first byte costs no request more. They live for minutes; those that have ended are
renewed by one request for all that were used lately, also when the object store says first that they have. A URL is a secret: whoever
has it may read the object. It is kept in memory alone, and stands in no message, log or error. The server's token goes to the server;
what goes to the object store is the URL and the range. No redirect is followed.

What comes is checked like everything else by whoever asked for it. Where the object store cannot be reached, or gives no ranges, it is
left alone for REST_SECONDS, longer each time, and everything comes through the server: a machine without a way to it is only slower.
A read gives it half of its own time, so that the server has the other half.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from artifactfs import __version__
from artifactfs.content.pack import pack_key
from artifactfs.credentials import Credentials, is_loopback
from artifactfs.errors import ArtifactFSError
from artifactfs.remote.client import Connection, Trial
from artifactfs.remote.transport import BAD_CERTIFICATE, Broken, Response, Transport, Unreachable
from artifactfs.remote.wire import SIGNED, Keys, Places, SignedUrls

_logger = logging.getLogger(__name__)

REST_SECONDS: Final = 60.0
"""How long an object store that cannot be used from here is left alone; twice as long each time that it still cannot."""
LONGEST_REST: Final = 900.0
URLS: Final = 4096
"""URLs that are remembered: of 256 GiB of packs, 3 MB."""
RENEWED: Final = 256
"""URLs that are renewed at once: those that were used last."""
MARGIN: Final = 0.1
"""Part of a URL's life that is not used, for the time its answer was under way and clocks that run differently; 5 s at most."""
ATTEMPTS: Final = 2
"""Requests to the object store until the server is asked instead. Those that found an idle connection closed do not count."""

_AGENT: Final = f"artifactfs/{__version__}"
_REFUSED: Final = frozenset({400, 401, 403})  # as stores say that a URL has ended
_LATER: Final = frozenset({408, 429, 500, 502, 503, 504})


class _Signed(NamedTuple):
    url: str
    until: float  # monotonic

    def __repr__(self) -> str:
        return "_Signed(…)"


class Direct:
    """Packs of a project in the object store. ``credentials`` say whether it may be used, and which certificates are good."""

    def __init__(self, connection: Connection, project: str, credentials: Credentials, *, connect: float) -> None:
        self._connection = connection
        self._path = f"/v1/projects/{project}/objects/sign"
        self._allowed = credentials.direct
        self._ca_file = credentials.ca_file
        # Content that came by TLS so far does not begin to go without it.
        self._plain = credentials.plain_http or not connection.url.startswith("https:")
        self._connect = min(connect, connection.seconds / 4)
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._transport = Transport(connect=self._connect)
        self._private: Transport | None = None  # for certificates of a private CA
        self._lock = threading.Lock()  # guards what follows
        self._renewing = threading.Lock()
        self._signed: OrderedDict[str, _Signed] = OrderedDict()  # by key, the last used at the end
        self._rest_until = 0.0
        self._rest = REST_SECONDS
        self._told = False

    @property
    def wanted(self) -> bool:
        """Whether URLs are of use now."""
        return self._allowed and time.monotonic() >= self._rest_until

    @property
    def requests(self) -> int:
        """Requests to the object store so far."""
        return self._transport.requests + (self._private.requests if self._private is not None else 0)

    def learn(self, places: Places) -> None:
        """Take the URLs that came with places."""
        if places.urls and self._allowed:
            self._take([pack_key(pack) for pack in places.packs], places.urls, places.seconds)

    def ask(self, trial: Trial, key: str, begin: int, end: int) -> Response | None:
        """The object store's answer with these bytes of an object, or with the beginning of them; None: ask the server.

        Of status 206, or 416 for a range that is not there, or 200 with a Content-Range; the caller compares that, and closes it.
        """
        self._renew_process()
        url = self._find(key) if self.wanted else None
        renewed = False
        attempts = 0
        while url is not None and attempts < ATTEMPTS:
            try:
                response = self._send(trial, url, begin, end)
            except Unreachable as error:
                self._leave(url, str(error))
                return None
            except Broken as error:
                if error.stale or error.silent:
                    self._transport.forget_idle()
                attempts += not error.stale
                if error.silent or attempts == ATTEMPTS:
                    self._leave(url, str(error))
                    return None
                continue
            status = response.status
            if status in {206, 416} or (status == 200 and "Content-Range" in response.headers):
                return response
            response.close()
            if status in _REFUSED and not renewed:
                renewed = True
                url = self._renew(key, url)
            elif status == 404:
                return None  # the server says what that means
            elif status in _LATER and attempts + 1 < ATTEMPTS:
                attempts += 1
            else:
                self._leave(url, f"it answers with status {status}")
                return None
        return None

    def deadline(self, trial: Trial) -> float:
        """By when (monotonic) what is read from the object store must have come: the server has the rest of the time."""
        return trial.deadline - self._connection.seconds / 2

    def came(self) -> None:
        """Bytes came: the object store can be used."""
        self._rest = REST_SECONDS

    def broke(self, key: str, broken: Broken, *, again: bool) -> None:
        """The body of an answer broke. ``again``: not much came since the last one."""
        self._transport.forget_idle()
        if again or broken.silent:
            with self._lock:
                signed = self._signed.get(key)
            self._leave(signed.url if signed is not None else "", str(broken))

    def close(self) -> None:
        """End all connections. Idempotent."""
        if os.getpid() == self._process:
            self._transport.close()
            if self._private is not None:
                self._private.close()

    # -- requests ------------------------------------------------------------------------------------------------------

    def _send(self, trial: Trial, url: str, begin: int, end: int) -> Response:
        headers = {"Range": f"bytes={begin}-{end - 1}", "User-Agent": _AGENT, "Accept-Encoding": "identity"}
        silence = self._connection.silence
        transport = self._private or self._transport
        try:
            return transport.send(
                "GET", url, headers, None, deadline=self.deadline(trial), silence=silence, answer=silence
            )
        except Unreachable as error:
            if self._private is not None or self._ca_file is None or BAD_CERTIFICATE not in str(error):
                raise
        # Not one of those that everybody trusts; perhaps by the authority of whoever runs the server.
        private = Transport(connect=self._connect, ca_file=self._ca_file)
        response = private.send(
            "GET", url, headers, None, deadline=self.deadline(trial), silence=silence, answer=silence
        )
        with self._lock:
            self._private = self._private or private
        return response

    def _leave(self, url: str, reason: str) -> None:
        """Leave the object store alone for a while."""
        now = time.monotonic()
        with self._lock:
            if now < self._rest_until:
                return
            rest = self._rest
            self._rest_until = now + rest
            self._rest = min(2 * rest, LONGEST_REST)
            first, self._told = not self._told, True
        level = logging.WARNING if first else logging.DEBUG
        where = urlsplit(url).hostname or "the bucket"
        _logger.log(level, "cannot read from %s (%s); reading through the server for %g s", where, reason, rest)

    # -- URLs ----------------------------------------------------------------------------------------------------------

    def _find(self, key: str) -> str | None:
        """A URL that is still good, renewed if need be; None when the server never gave one."""
        with self._lock:
            signed = self._signed.get(key)
            if signed is None:
                return None
            self._signed.move_to_end(key)
        return signed.url if time.monotonic() < signed.until else self._renew(key, signed.url)

    def _renew(self, key: str, ended: str) -> str | None:
        """Another URL than the one that has ended; with it those of other objects that were used lately are renewed."""
        with self._renewing:
            now = time.monotonic()
            with self._lock:
                signed = self._signed.get(key)
                if signed is not None and signed.url != ended and now < signed.until:
                    return signed.url  # somebody else just did
                used = list(self._signed)[-RENEWED:]
                keys = [key, *(other for other in used if other != key and self._signed[other].until <= now)]
            try:
                answer = self._connection.call(SignedUrls, "POST", self._path, Keys(keys[:SIGNED]))
            except ArtifactFSError:
                return None  # the server says it again when it is asked for the object
            self._take(keys[:SIGNED], answer.urls, answer.seconds)
            with self._lock:
                signed = self._signed.get(key)
            return signed.url if signed is not None else None

    def _take(self, keys: Sequence[str], urls: Sequence[str], seconds: float) -> None:
        until = time.monotonic() + seconds - min(5.0, MARGIN * seconds)
        with self._lock:
            for key, url in zip(keys, urls, strict=False):
                if not url:
                    continue
                if not self._is_good(url):
                    return
                self._signed[key] = _Signed(url, until)
                self._signed.move_to_end(key)
            while len(self._signed) > URLS:
                self._signed.popitem(last=False)

    def _is_good(self, url: str) -> bool:
        if url.isascii() and url.isprintable():
            if url.startswith("https://") or (url.startswith("http://") and (self._plain or is_loopback(url))):
                return True
            if url.startswith("http://") and not self._told:
                self._told = True
                _logger.warning(
                    "the object store is reached by http:// and the server by https://; reading through the server"
                )
        return False

    def _renew_process(self) -> None:
        if os.getpid() != self._process:
            self._start()
