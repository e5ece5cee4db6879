"""ObjectStore: the Store of a prefix in a bucket, on S3 and what speaks like it, Google Cloud Storage or Azure.

Used by the server. Any thread. An object of a Store is an object of the bucket, ``<prefix>/<key>``; what is written waits in a file
without a name on this machine until it is published. Bounds and errors of requests: ``buckets/bucket.py``.

Invariant *whole-or-absent*: these stores show an object when all of it has come, and what they have confirmed is durable. What a
crash interrupts in the middle of several parts is seen by nobody; the bucket's rules for incomplete uploads remove it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from artifactfs.buckets.bucket import Body, Bucket
from artifactfs.content.local import check_key
from artifactfs.content.spool import Kept, Spool
from artifactfs.errors import ArtifactFSError, Format, Integrity, InvalidInput, NotFound, Unavailable


class ObjectStore:
    """Keyed immutable objects below ``prefix`` (without a slash at its end; "" for all of the bucket).

    ``kept`` and the bucket are shared with others. ``spool``: directory for what is being written, made when needed; None: the
    system's.
    """

    def __init__(self, bucket: Bucket, prefix: str, *, kept: Kept, spool: Path | None) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._kept = kept
        self._spool = spool

    @property
    def local(self) -> bool:
        """Never: reads wait for a network."""
        return False

    @property
    def signs(self) -> bool:
        """Always: see :meth:`sign`."""
        return True

    def upload(self) -> ObjectUpload:
        """Begin an object. Access, NoSpace when it cannot be spooled."""
        return ObjectUpload(self, Spool(self._spool))

    def read(self, key: str, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset``. NotFound without the object, Integrity when it is too short."""
        return b"".join(self.read_parts(key, offset, [length]))

    def read_parts(self, key: str, offset: int, lengths: Sequence[int]) -> Iterator[bytes]:
        """Consecutive parts of these lengths from ``offset`` on, each as soon as it has come. Errors as :meth:`read`.

        One request for all of them; broken off, the rest is asked for, as long as something came. Integrity too when the object was
        replaced in between.
        """
        name = self._name(key)
        if offset < 0 or min(lengths, default=0) < 0:
            raise InvalidInput(f"{key}: cannot read {list(lengths)} bytes at {offset}")
        end = offset + sum(lengths)
        spool = self._kept.find(name)
        if spool is not None and end <= spool.size:
            for length in lengths:
                yield spool.read(offset, length)
                offset += length
            if end == spool.size:
                self._kept.drop(name)
            return
        if end == offset:
            self._bucket.head(name)
        incoming = _Range(self._bucket, name, offset, end)
        for length in lengths:
            yield incoming.read(length)

    def size(self, key: str) -> int:
        """Size of an object in bytes. NotFound without it."""
        name = self._name(key)
        spool = self._kept.find(name)
        return self._bucket.head(name).size if spool is None else spool.size

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Keys that begin with ``prefix`` and their sizes in bytes, sorted by key. Asked for page by page."""
        # The stores list what lies below whole parts of keys; of the last part all are looked at.
        below = (self._prefix + prefix).rpartition("/")[0]
        last = ""
        for page in self._bucket.list(below):
            for found in page:
                key = found.key.removeprefix(self._prefix)
                if not (found.key.startswith(self._prefix) and key.startswith(prefix) and _is_key(key)):
                    continue
                if key <= last:
                    # "a/", the mark of a directory, which obstore shows as "a"; or a key that rclone's server lists twice
                    # while it is written anew.
                    if not found.size or key == last:
                        continue
                    raise Format(
                        f"{self._bucket.place.root} lists its keys in no order ({last}, then {key}), as directory buckets do; "
                        "use a general purpose bucket"
                    )
                last = key
                yield key, found.size

    def delete(self, key: str) -> None:
        """Remove an object. Idempotent."""
        name = self._name(key)
        self._kept.drop(name)
        self._bucket.delete(name)

    def sign(self, keys: Sequence[str], *, seconds: float) -> Sequence[str]:
        """URLs by which anybody may read these objects for so long, in the order of ``keys``, there or not."""
        return self._bucket.sign([self._name(key) for key in keys], seconds)

    def close(self) -> None:
        """Nothing: the bucket is closed by whoever opened it. Idempotent."""

    def send(self, key: str, spool: Spool) -> None:
        """Store what was spooled, unless there is an object of this size already: both hold the same bytes."""
        name = self._name(key)
        try:
            if self._bucket.head(name).size == spool.size:
                return
        except NotFound:
            pass
        with spool.file() as file:
            self._bucket.put(name, file, spool.size)
        self._kept.keep(name, spool)

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)


class ObjectUpload:
    """An object being written, on this machine until published. Used by one thread at a time."""

    def __init__(self, store: ObjectStore, spool: Spool) -> None:
        self._store = store
        self._spool: Spool | None = spool

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes. NoSpace leaves nothing behind after :meth:`abort`."""
        self._open().write(data)

    def publish(self, key: str) -> None:
        """Send the object: durable and visible under ``key``, atomically. A key that exists with this size is left as it is."""
        self._store.send(key, self._open())
        self._spool = None

    def abort(self) -> None:
        """Forget the bytes. Idempotent; does nothing after :meth:`publish`."""
        self._spool = None

    def _open(self) -> Spool:
        if self._spool is None:
            raise InvalidInput("the upload has ended; begin another")
        return self._spool


class _Range:
    """Bytes of an object one after another. Broken off after something came, it asks for the rest."""

    def __init__(self, bucket: Bucket, name: str, position: int, end: int) -> None:
        self._bucket = bucket
        self._name = name
        self._position = position  # behind the block
        self._end = end
        self._block = memoryview(b"")
        self._body: Body | None = None
        self._etag: str | None = None

    def read(self, length: int) -> bytes:
        """The next ``length`` bytes."""
        pieces = []
        missing = length
        while missing:
            if not self._block:
                self._block = self._next()
            piece = self._block[:missing]
            self._block = self._block[len(piece) :]
            missing -= len(piece)
            if len(piece) == length:
                return bytes(piece)
            pieces.append(piece)
        return b"".join(pieces)

    def _next(self) -> memoryview:
        while True:
            fresh = self._body is None
            try:
                if self._body is None:
                    self._body = self._ask()
                data = self._body.block()
            except Unavailable:
                if fresh:  # a whole request's time, and nothing came
                    raise
                self._body = None
                continue
            if data:
                self._position += len(data)
                return memoryview(data)
            if fresh:
                raise Unavailable(f"cannot read {self._bucket.place.uri(self._name)}: less came than was said")
            self._body = None

    def _ask(self) -> Body:
        body = self._bucket.get(self._name, self._position, self._end, etag=self._etag)
        if body.found.size < self._end:
            uri = self._bucket.place.uri(self._name)
            raise Integrity(f"{uri}: ends at {body.found.size} before {self._end}; run `artifactfs verify`")
        self._etag = body.found.etag
        return body


def _is_key(key: str) -> bool:
    try:
        return bool(check_key(key))
    except ArtifactFSError:
        return False
