"""RemoteStore: the Store contract over HTTP.

Used by the content readers and writers. Any thread. What is written waits in a temporary file that no name leads to, so that sending
it can be repeated; it is gone with the process. Bounds: as in ``client.py``.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

from artifactfs.content.local import check_key
from artifactfs.errors import Format, Integrity, InvalidInput, NotFound, translate_os
from artifactfs.remote.client import Connection, Trial, query
from artifactfs.remote.direct import Direct
from artifactfs.remote.transport import Broken, Response
from artifactfs.remote.wire import MSGPACK, OBJECT_LIMIT, Objects

BLOCK: Final = 1 << 20
"""Bytes read or sent at once; the library's own blocks of 16 KiB cost sixty times as many calls."""


class RemoteStore:
    """Objects of a project on a server. ``spool``: directory for what is being written, made when needed; None: the system's.

    ``direct``: reads packs from the object store behind the server, as far as it can.
    """

    def __init__(
        self, connection: Connection, project: str, *, spool: Path | None, direct: Direct | None = None
    ) -> None:
        self._connection = connection
        self._direct = direct
        self._path = f"/v1/projects/{project}/objects"
        self._spool = spool

    @property
    def local(self) -> bool:
        """Never: reads wait for a network."""
        return False

    @property
    def signs(self) -> bool:
        """Never: the server's Store signs, for those who may read."""
        return False

    def upload(self) -> RemoteUpload:
        """Begin an object. Access, NoSpace when it cannot be spooled."""
        where = "the system's temporary directory" if self._spool is None else str(self._spool)
        try:
            if self._spool is not None:
                self._spool.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = tempfile.TemporaryFile(dir=self._spool, buffering=0)  # noqa: SIM115 - the upload closes it
        except OSError as error:
            raise translate_os(error, f"cannot spool an upload in {where}") from error
        return RemoteUpload(self, file, where)

    def read(self, key: str, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset``. NotFound without the object, Integrity when it is too short."""
        incoming = self._range(key, offset, [length])
        try:
            return incoming.read(length)
        finally:
            incoming.close()

    def read_parts(self, key: str, offset: int, lengths: Sequence[int]) -> Iterator[bytes]:
        """Consecutive parts of these lengths from ``offset`` on, each as soon as it has come. Errors as :meth:`read`.

        One request for all of them; after a failure the rest is asked for. Each part comes within the connection's ``seconds``, or
        it is Unavailable.
        """
        incoming = self._range(key, offset, lengths)
        try:
            for group in _groups(lengths):
                data = incoming.read(sum(group))
                if len(group) == 1:
                    yield data
                    continue
                begin = 0
                for length in group:
                    yield data[begin : begin + length]
                    begin += length
        finally:
            incoming.close()

    def _range(self, key: str, offset: int, lengths: Sequence[int]) -> _Range:
        check_key(key)
        if offset < 0 or min(lengths, default=0) < 0:
            raise InvalidInput(f"{key}: cannot read {list(lengths)} bytes at {offset}")
        return _Range(self._connection, self._direct, f"{self._path}/{key}", key, offset, offset + sum(lengths))

    def size(self, key: str) -> int:
        """Size of an object in bytes. NotFound without it."""
        try:
            return self._connection.head(f"{self._path}/{check_key(key)}")
        except NotFound:
            # The answer to a HEAD has no body that could say it.
            raise NotFound(f"{key}: no such object at {self._connection.url}") from None

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Keys that begin with ``prefix`` and their sizes in bytes, sorted by key. Asked for page by page."""
        after = ""
        while True:
            page = self._connection.call(Objects, "GET", self._path + query(prefix=prefix, after=after))
            yield from page.objects
            if not page.more or not page.objects:
                return
            after = page.objects[-1][0]

    def delete(self, key: str) -> None:
        """Remove an object. Idempotent."""
        self._connection.tell("DELETE", f"{self._path}/{check_key(key)}")

    def sign(self, keys: Sequence[str], *, seconds: float) -> Sequence[str]:
        """InvalidInput: the server's Store signs."""
        raise InvalidInput(f"{self._connection.url} signs no URLs of {len(keys)} objects for {seconds:g} s for others")

    def close(self) -> None:
        """Close the connections, which are the whole repository's. Idempotent."""
        self._connection.close()
        if self._direct is not None:
            self._direct.close()

    def send(self, key: str, file: IO[bytes], size: int) -> None:
        """Store what a file holds. Repeated until it arrived, as far as the connection's bounds allow."""

        def blocks() -> Iterator[memoryview]:
            # One block of memory for all: the network has taken it when the next is asked for.
            block = memoryview(bytearray(min(BLOCK, size)))
            offset = 0
            while offset < size:
                count = os.preadv(file.fileno(), [block], offset)
                yield block[:count]
                offset += count

        self._connection.put(f"{self._path}/{check_key(key)}", size, blocks)


class RemoteUpload:
    """An object being written, on this machine until published. Used by one thread at a time."""

    def __init__(self, store: RemoteStore, file: IO[bytes], where: str) -> None:
        self._store = store
        self._file = file
        self._where = where
        self._size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes. NoSpace leaves nothing behind after :meth:`abort`; InvalidInput past the largest object."""
        self._size += len(data)
        if self._size > OBJECT_LIMIT:
            raise InvalidInput(f"an object may have {OBJECT_LIMIT} bytes, not {self._size}")
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._file.fileno(), rest) :]
        except OSError as error:
            raise translate_os(error, f"cannot spool an upload in {self._where}") from error

    def publish(self, key: str) -> None:
        """Send the object and make it durable and visible under ``key``, atomically; a key that exists is left as it is."""
        self._store.send(key, self._file, self._size)
        self._file.close()

    def abort(self) -> None:
        """Forget the bytes. Idempotent; does nothing after :meth:`publish`."""
        self._file.close()


class _Range:
    """Bytes of an object one after another. Broken off, it asks for the rest."""

    def __init__(
        self, connection: Connection, direct: Direct | None, path: str, key: str, position: int, end: int
    ) -> None:
        self._connection = connection
        self._direct = direct
        self._straight = False  # the response is the object store's
        self._breaks = 0  # of the object store's responses, without much in between
        self._came = 0  # bytes since the last of them
        self._path = path
        self._key = key
        self._position = position  # of the next byte
        self._end = end
        self._response: Response | None = None
        self._left = 0  # bytes that it has still to give

    def read(self, length: int) -> bytes:
        """The next ``length`` bytes, which are received where they stay unless they come in pieces."""
        trial = self._connection.streaming()
        pieces: list[bytes] = []
        missing = length
        while missing:
            response = self._response
            if response is None:
                response = self._response = self._ask(trial)
            direct = self._direct if self._straight else None
            response.set_deadline(trial.deadline if direct is None else direct.deadline(trial))
            wanted = min(missing, self._left)
            data = response.read(wanted)
            missing -= len(data)
            self._left -= len(data)
            self._position += len(data)
            self._came += len(data)
            if len(data) == length:
                return data
            pieces.append(data)
            trial.moved(len(data))
            if len(data) < wanted:
                broken = response.broken()
                self.close()
                if direct is None:
                    self._connection.broke(trial, broken)
                else:
                    self._breaks = self._breaks + 1 if self._came < BLOCK else 1
                    self._came = 0
                    direct.broke(self._key, broken, again=self._breaks > 1)
            elif not self._left:
                self.close()
        return b"".join(pieces)

    def close(self) -> None:
        """Be done; what was not read is dropped with its connection."""
        if self._response is not None:
            self._response.close()
            self._response = None

    def _ask(self, trial: Trial) -> Response:
        if self._direct is not None:
            straight = self._direct.ask(trial, self._key, self._position, self._end)
            if straight is not None:
                try:
                    if self._begins(straight):
                        self._straight = True
                        self._direct.came()
                        return straight
                except BaseException:
                    straight.close()
                    raise
                straight.close()  # another range than was asked for: the server has the right one
        self._straight = False
        headers = {"Range": f"bytes={self._position}-{self._end - 1}", "Accept": MSGPACK}
        while True:
            response = self._connection.respond(
                trial, "GET", self._path, headers, None, answer=self._connection.silence
            )
            try:
                if self._begins(response):
                    return response
            except BaseException:
                response.close()
                raise
            response.close()
            self._connection.broke(trial, Broken("another range came than was asked for"))

    def _begins(self, response: Response) -> bool:
        """Whether a response is what is missing, or its beginning; sets how much of it."""
        text = response.headers.get("Content-Range", "")
        span = _SPAN.fullmatch(text)
        total = int(span[3]) if span is not None and span[3] != "*" else None
        if response.status == 416 or (total is not None and total < self._end):
            ends = "" if total is None else f" at {total}"
            raise Integrity(f"{self._key}: ends{ends} before {self._end}; run `artifactfs verify`")
        if response.status == 200 and not text:
            raise Format(
                f"{self._connection.url} sends whole objects for ranges; does something before it remove `Range`?"
            )
        if span is None or span[1] is None or response.status not in {200, 206}:
            return False
        begin, end = int(span[1]), int(span[2]) + 1
        if begin != self._position or not begin < end <= self._end or response.length not in {None, end - begin}:
            return False
        self._left = end - begin
        return True


_SPAN: Final = re.compile(r"bytes (?:([0-9]{1,18})-([0-9]{1,18})|\*)/([0-9]{1,18}|\*)")


def _groups(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Neighbouring parts that are read at once: small ones up to a BLOCK, a large one alone."""
    group: list[int] = []
    size = 0
    for length in lengths:
        if group and size + length > BLOCK:
            yield group
            group, size = [], 0
        group.append(length)
        size += length
    if group:
        yield group
