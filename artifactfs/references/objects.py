"""Objects in buckets: S3 and what speaks like it, Google Cloud Storage, Azure; by ``obstore``, which comes with an extra.

Used by References. Any thread. Credentials are the reader's own, and found as the tools of these stores find them.

Of an object its size, etag and version are recorded; where there are versions, the recorded one is read whatever has been written
since. A URI that names no object is a prefix: of ``s3://bucket/raw`` all objects below ``raw/``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from artifactfs.buckets.bucket import LISTED, Bucket, Found
from artifactfs.buckets.places import Place, place_of
from artifactfs.errors import Integrity, NotFound
from artifactfs.model.names import check_entry_path
from artifactfs.model.tree import RefEntry
from artifactfs.references.contract import Answer, Facts, Progress, Resolved, changed, too_many
from artifactfs.references.uris import check_uri, name_of

ASKED_AT_ONCE: Final = 16
"""Objects whose versions are asked for at a time, where a listing does not tell them: some 300 a second at 50 ms of round trip."""
REQUEST: Final = 8 << 20
"""Bytes of one request when everything is read."""


class BucketOrigin:
    """An :class:`~artifactfs.references.contract.Origin` of object stores. ``seconds`` bounds a request with its repetitions."""

    def __init__(self, *, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._buckets: dict[tuple[str, str, str], Bucket] = {}

    @property
    def keeps(self) -> bool:
        """What came over a network is kept."""
        return True

    def expand(self, uri: str, name: str, limit: int, progress: Progress) -> Iterator[Resolved]:
        """An object, or all below a prefix, sorted by key."""
        place = place_of(check_uri(uri))
        if place.key and not place.key.endswith("/"):
            try:
                facts = self.head(place, place.key, place.version)
            except NotFound:
                if place.version is not None:
                    raise
            else:
                progress(1)
                yield Resolved("", _entry(place, place.key, name or name_of(place.uri(place.key)), facts))
                return
        yield from self._below(uri, place, limit, progress)

    def look(self, entry: RefEntry) -> Facts:
        """Size, etag and version, of the recorded version if there is one."""
        place = place_of(entry.uri)
        return self.head(place, place.key, entry.version or place.version)

    def read(self, entry: RefEntry, offset: int, length: int | None) -> Answer:
        """A range, of the recorded version if there is one."""
        place = place_of(entry.uri)
        return _Ranges(self, place, entry.version or place.version, offset, length)

    def close(self) -> None:
        """Let the connections go."""
        with self._lock:
            for bucket in self._buckets.values():
                bucket.close()
            self._buckets.clear()

    def get(self, place: Place, version: str | None, begin: int, end: int) -> tuple[Facts, bytes]:
        """Bytes from ``begin`` to ``end`` of an object, fewer at its end only."""
        if begin == end:
            return self.head(place, place.key, version), b""
        try:
            body = self._bucket(place).get(place.key, begin, end, version=version)
        except Integrity:  # it has become shorter: what it is now tells the reader
            return self.head(place, place.key, version), b""
        return _facts(body.found), b"".join(iter(body.block, b""))

    # -- what is there -------------------------------------------------------------------------------------------------

    def head(self, place: Place, key: str, version: str | None) -> Facts:
        """What the store says of an object."""
        return _facts(self._bucket(place).head(key, version))

    def _below(self, uri: str, place: Place, limit: int, progress: Progress) -> Iterator[Resolved]:
        prefix = place.key.rstrip("/")
        found = self._listed(uri, place, prefix, limit, progress)
        if not found:
            raise NotFound(f"nothing is at {uri}: neither an object nor any below it")
        skip = len(prefix) + 1 if prefix else 0
        any_left = False
        for key, facts in self._detailed(place, found):
            any_left = True
            below = check_entry_path(key[skip:])
            yield Resolved(below, _entry(place, key, below.rpartition("/")[2], facts))
        if not any_left:
            raise NotFound(f"nothing is at {uri}: only the marks of empty directories")

    def _listed(self, uri: str, place: Place, prefix: str, limit: int, progress: Progress) -> list[tuple[str, Facts]]:
        found: list[tuple[str, Facts]] = []
        for page in self._bucket(place).list(prefix):
            found += [(item.key, _facts(item)) for item in page if item.key != prefix]
            if len(found) > limit:
                raise too_many(uri, limit)
            progress(len(found))
        found.sort(key=lambda item: item[0].split("/"))
        return found

    def _detailed(self, place: Place, found: list[tuple[str, Facts]]) -> Iterator[tuple[str, Facts]]:
        """What was listed, with its versions where the store has any; without the marks of directories."""

        def look(item: tuple[str, Facts]) -> tuple[str, Facts] | None:
            try:
                return item[0], self.head(place, item[0], None)
            except NotFound:
                if item[1].size:
                    raise
                return None  # an empty object whose key ends with "/", which a listing shows without it

        # A listing tells no versions; whether there are any is asked of the first object that is no mark.
        first = next((item for item in found if item[1].size), None)
        head = look(first) if first is not None else None
        versions = head is None or (head[1].version is not None and found[0][1].version is None)
        threads = ThreadPoolExecutor(ASKED_AT_ONCE, thread_name_prefix="objects")
        try:
            for begin in range(0, len(found), LISTED):
                page = found[begin : begin + LISTED]
                wanted = [item for item in page if versions or not item[1].size]
                looked = dict(zip((key for key, _ in wanted), threads.map(look, wanted), strict=True))
                for item in page:
                    detailed = looked.get(item[0], item)
                    if detailed is not None:
                        yield detailed
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def _bucket(self, place: Place) -> Bucket:
        key = (place.store, place.account, place.bucket)
        with self._lock:
            bucket = self._buckets.get(key)
            if bucket is None:
                bucket = self._buckets[key] = Bucket(place, seconds=self._seconds)
            return bucket


class _Ranges:
    """An :class:`~artifactfs.references.contract.Answer` by one request or, when everything is read, several."""

    def __init__(self, origin: BucketOrigin, place: Place, version: str | None, begin: int, length: int | None) -> None:
        self._origin = origin
        self._place = place
        self._version = version
        self.begin = begin
        self._taken = 0
        if length is None:
            self.facts = origin.head(place, place.key, version)
            self._data = b""
            self._at = begin
            self._end = self.facts.size or 0
        else:
            self.facts, self._data = origin.get(place, version, begin, begin + length)
            self._end = self._at = begin + len(self._data)

    def read(self, length: int) -> bytes:
        """The next bytes; asks for more of them when everything is read."""
        if self._taken == len(self._data) and self._at < self._end:
            facts, self._data = self._origin.get(
                self._place, self._version, self._at, min(self._at + REQUEST, self._end)
            )
            if how := facts.conflict(self.facts):
                raise changed(self._place.uri(self._place.key), how)
            self._at += len(self._data)
            self._taken = 0
        data = self._data[self._taken : self._taken + length]
        self._taken += len(data)
        return data

    def close(self) -> None:
        """Forget what is left."""
        self._data = b""
        self._taken = self._at = self._end = 0


def _entry(place: Place, key: str, name: str, facts: Facts) -> RefEntry:
    return RefEntry(name, place.uri(key), facts.size, None, facts.etag, facts.version)


def _facts(found: Found) -> Facts:
    return Facts(found.size, found.etag, found.version, found.modified)
