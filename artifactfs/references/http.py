"""``http://`` and ``https://``: objects of web servers, by ranges where a server knows them.

Used by References. Any thread. Passwords come from ``~/.netrc`` and proxies from the environment, as ``requests`` does it.

An ETag is recorded where a server gives one together with the size; otherwise the object is read once, and its digest recorded. What
a server calls itself is not believed: each answer's etag, size and range are compared with what is recorded.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Final

from artifactfs.errors import Access, ArtifactFSError, NotFound, Unavailable
from artifactfs.model.digest import format_digest
from artifactfs.model.tree import RefEntry
from artifactfs.references.contract import Answer, Facts, Progress, Resolved, changed
from artifactfs.references.hashing import hash_stream
from artifactfs.references.uris import check_uri, name_of
from artifactfs.remote.transport import Broken, Response, Unreachable, WebTransport

ATTEMPTS: Final = 3
"""How often a server is asked that could not be reached, or says that it cannot answer now."""
PAUSE: Final = 0.3
"""Seconds before the second attempt; three times as long before the third."""
CONNECT: Final = 10.0
"""Seconds that a connection may take."""

_HEADERS: Final = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "artifactfs"}
_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_REFUSED: Final = frozenset({401, 402, 403, 407, 451})
_GONE: Final = frozenset({404, 410})
_RANGE: Final = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(?:(\d{1,18})|\*)")


class WebOrigin:
    """An :class:`~artifactfs.references.contract.Origin` of web servers. ``seconds`` bounds a wait for one."""

    def __init__(self, *, seconds: float) -> None:
        self._seconds = seconds
        self.transport = WebTransport(connect=min(CONNECT, seconds))

    @property
    def keeps(self) -> bool:
        """What came over a network is kept."""
        return True

    def expand(self, uri: str, name: str, limit: int, progress: Progress) -> Iterator[Resolved]:
        """One object; the web has no directories."""
        del limit
        check_uri(uri)
        name = name or name_of(uri)
        facts = self._head(uri)
        if facts is None or facts.etag is None or facts.size is None:
            answer = self._get(uri, None)
            try:
                facts = answer.facts
                if facts.etag is None or facts.size is None:
                    hashed = hash_stream(answer.read)
                    entry = RefEntry(name, uri, hashed.size, format_digest(hashed.digest), None, None)
                    progress(1)
                    yield Resolved("", entry, hashed.nodes)
                    return
            finally:
                answer.close()
        progress(1)
        yield Resolved("", RefEntry(name, uri, facts.size, None, facts.etag, None))

    def look(self, entry: RefEntry) -> Facts:
        """Size and etag, by HEAD where the server answers it."""
        facts = self._head(entry.uri)
        if facts is None:
            answer = self._get(entry.uri, None)
            answer.close()
            facts = answer.facts
        return facts

    def read(self, entry: RefEntry, offset: int, length: int | None) -> Answer:
        """A range; from a server without ranges everything, from the beginning."""
        if length is None and not offset:
            return self._get(entry.uri, None)
        return self._get(entry.uri, (offset, "" if length is None else offset + length - 1))

    def close(self) -> None:
        """End all connections."""
        self.transport.close()

    # -- one request ---------------------------------------------------------------------------------------------------

    def _head(self, uri: str) -> Facts | None:
        """What HEAD says; None when the server does not answer it, as for addresses that are signed for GET."""
        response = self._ask("HEAD", uri, {}, final=_GONE | {200})
        response.close()
        if response.status in _GONE:
            raise _failure(uri, response)
        if response.status != 200 or _encoded(response):
            return None
        return _facts(response, response.length)

    def _get(self, uri: str, span: tuple[int, int | str] | None) -> _Body:
        response = self._ask("GET", uri, {"Range": f"bytes={span[0]}-{span[1]}"} if span else {}, final={200, 206, 416})
        try:
            if response.status not in {200, 206, 416}:
                raise _failure(uri, response)
            if response.status != 416 and _encoded(response):
                raise Unavailable(f"{uri} comes compressed ({_encoded(response)}) only, so it cannot be read by ranges")
            if response.status == 200:
                return _Body(uri, response, _facts(response, response.length), 0, response.length)
            found = _RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
            first, last, total = found.groups() if found else (None, None, None)
            size = int(total) if total else None
            if response.status == 416:
                if span is not None and size is not None and span[0] >= size:
                    raise changed(uri, f"it has {size} bytes now, and was asked for those from {span[0]} on")
                raise Unavailable(f"{uri} refuses ranges that it should have; try again later")
            if span is None or first is None or last is None or int(first) != span[0]:
                raise Unavailable(f"{uri} answers with another range than it was asked for; its server is at fault")
            return _Body(uri, response, _facts(response, size), span[0], int(last) + 1 - span[0])
        except BaseException:
            response.close()
            raise

    def _ask(self, method: str, uri: str, headers: Mapping[str, str], final: frozenset[int] | set[int]) -> Response:
        deadline = time.monotonic() + self._seconds
        for attempt in range(1, ATTEMPTS + 1):
            pause = PAUSE * 3 ** (attempt - 1)
            failure: ArtifactFSError
            try:
                left = max(deadline - time.monotonic(), 0.01)
                response = self.transport.send(
                    method, uri, {**_HEADERS, **headers}, None, deadline=deadline, silence=left, answer=left
                )
            except Unreachable as error:
                failure = Unavailable(f"cannot reach {uri}: {error}")
            except Broken as error:
                if error.stale:
                    pause = 0.0
                failure = Unavailable(f"cannot read {uri}: {error}")
            else:
                if response.status in final or response.status not in _TRANSIENT or method == "HEAD":
                    return response
                response.close()
                failure = _failure(uri, response)
            if attempt == ATTEMPTS or time.monotonic() + pause >= deadline:
                raise failure
            time.sleep(pause)
        raise AssertionError


class _Body:
    """An :class:`~artifactfs.references.contract.Answer` from a response."""

    def __init__(self, uri: str, response: Response, facts: Facts, begin: int, length: int | None) -> None:
        self._uri = uri
        self._response = response
        self._left = length  # None: until it ends
        self.facts = facts
        self.begin = begin

    def read(self, length: int) -> bytes:
        wanted = length if self._left is None else min(length, self._left)
        data = self._response.read(wanted) if wanted else b""
        if self._left is not None:
            self._left -= len(data)
        if len(data) < wanted and (self._left is not None or self._response.failed):
            raise Unavailable(f"cannot read {self._uri}: {self._response.broken()}")
        return data

    def close(self) -> None:
        self._response.close()


def _facts(response: Response, size: int | None) -> Facts:
    return Facts(size, response.headers.get("ETag"), None, response.headers.get("Last-Modified"))


def _encoded(response: Response) -> str:
    coding = response.headers.get("Content-Encoding", "")
    return "" if coding.lower() == "identity" else coding


def _failure(uri: str, response: Response) -> ArtifactFSError:
    status = response.status
    try:
        words = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        words = str(status)
    if status in _GONE:
        return NotFound(f"{uri} is not there (its server answers {words})")
    if status in _REFUSED:
        return Access(f"{uri} may not be read (its server answers {words}); a password for it belongs into ~/.netrc")
    return Unavailable(f"{uri} cannot be read: its server answers {words}")
