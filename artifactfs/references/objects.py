"""Objects in buckets: S3 and what speaks like it, Google Cloud Storage, Azure; by ``obstore``, which comes with an extra.

Used by References. Any thread. Credentials are the reader's own, and found as the tools of these stores find them.

Of an object its size, etag and version are recorded; where there are versions, the recorded one is read whatever has been written
since. A URI that names no object is a prefix: of ``s3://bucket/raw`` all objects below ``raw/``.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import ModuleType
from typing import Any, Final

from artifactfs.errors import Access, ArtifactFSError, InvalidInput, NotFound, Unavailable
from artifactfs.model.names import check_entry_path
from artifactfs.model.tree import RefEntry
from artifactfs.references import credentials
from artifactfs.references.buckets import AZURE, GOOGLE, S3, Place, place_of
from artifactfs.references.contract import Answer, Facts, Progress, Resolved, changed, too_many
from artifactfs.references.uris import check_uri, name_of

ATTEMPTS: Final = 3
"""How often obstore repeats what may pass."""
ASKED_AT_ONCE: Final = 16
"""Objects whose versions are asked for at a time, where a listing does not tell them: some 300 a second at 50 ms of round trip."""
LISTED: Final = 1000
"""Objects of one page of a listing, as all these stores have it."""
REQUEST: Final = 8 << 20
"""Bytes of one request when everything is read."""

_HINTS: Final = {
    S3: "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public bucket",
    GOOGLE: "set GOOGLE_APPLICATION_CREDENTIALS, or GOOGLE_SKIP_SIGNATURE=true for a public bucket",
    AZURE: "set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY",
}
_EXTRAS: Final = {S3: "s3", GOOGLE: "gcs"}
_STATUS: Final = re.compile(r"status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>([A-Za-z]+)</Code>")
_QUERY: Final = re.compile(r"\?\S*")  # may hold a signature


class BucketOrigin:
    """An :class:`~artifactfs.references.contract.Origin` of object stores. ``seconds`` bounds a request with its repetitions."""

    def __init__(self, *, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._buckets: dict[tuple[str, str, str], Any] = {}

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
            self._buckets.clear()

    def get(self, place: Place, version: str | None, begin: int, end: int) -> tuple[Facts, bytes]:
        """Bytes from ``begin`` to ``end`` of an object, fewer at its end only."""
        options: dict[str, Any] = {"range": (begin, end)}
        if version is not None:
            options["version"] = version
        bucket = self._bucket(place)
        try:
            result = _obstore(place).get(bucket, place.key, options=options)
            return _facts(result.meta, version), bytes(result.bytes())
        except Exception as error:
            if "status code: 416" in str(error):  # it has become shorter: what it is now tells the reader
                return self.head(place, place.key, version), b""
            raise _translated(error, place, place.key, version) from error

    # -- what is there -------------------------------------------------------------------------------------------------

    def head(self, place: Place, key: str, version: str | None) -> Facts:
        """What the store says of an object."""
        obstore = _obstore(place)
        bucket = self._bucket(place)
        try:
            if version is None:
                return _facts(obstore.head(bucket, key), None)
            options = {"head": True, "version": version}
            return _facts(obstore.get(bucket, key, options=options).meta, version)
        except Exception as error:
            raise _translated(error, place, key, version) from error

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
        obstore = _obstore(place)
        bucket = self._bucket(place)
        found: list[tuple[str, Facts]] = []
        try:
            for page in obstore.list(bucket, prefix or None, chunk_size=LISTED):
                found += [(meta["path"], _facts(meta, None)) for meta in page if meta["path"] != prefix]
                if len(found) > limit:
                    raise too_many(uri, limit)
                progress(len(found))
        except ArtifactFSError:
            raise
        except Exception as error:
            raise _translated(error, place, "", None) from error
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

    def _bucket(self, place: Place) -> Any:
        key = (place.store, place.account, place.bucket)
        with self._lock:
            bucket = self._buckets.get(key)
            if bucket is None:
                bucket = self._buckets[key] = self._opened(place)
            return bucket

    def _opened(self, place: Place) -> Any:
        store = _obstore(place).store
        # A request and the last repetition of it end within `seconds` together.
        half = timedelta(seconds=max(self._seconds / 2, 0.1))
        shared: dict[str, Any] = {
            # An endpoint without TLS is one that somebody has set; the stores' own have it.
            "client_options": {
                "allow_http": True,
                "timeout": half,
                "connect_timeout": min(half, timedelta(seconds=10)),
            },
            "retry_config": {"max_retries": ATTEMPTS - 1, "retry_timeout": half},
        }
        try:
            if place.store == S3:
                return store.S3Store(place.bucket, config=credentials.of_s3(), **shared)
            if place.store == GOOGLE:
                return store.GCSStore(place.bucket, config=credentials.of_google(), **shared)
            config = credentials.of_azure()
            if place.account and place.account != config.get("account_name"):
                config = {"account_name": place.account}  # the key and the endpoint are another account's
            return store.AzureStore(place.bucket, config=config, **shared)
        except Exception as error:
            raise InvalidInput(f"cannot open {place.root}: {_words(error)}; {_HINTS[place.store]}") from error


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


def _obstore(place: Place) -> ModuleType:
    extra = _EXTRAS.get(place.store, "azure")
    try:
        # Here and not above: it comes with an extra.
        import obstore  # noqa: PLC0415
        import obstore.store  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise InvalidInput(f"{place.root} needs obstore: pip install 'artifactfs[{extra}]'") from error
    return obstore


def _entry(place: Place, key: str, name: str, facts: Facts) -> RefEntry:
    return RefEntry(name, place.uri(key), facts.size, None, facts.etag, facts.version)


def _facts(meta: Any, version: str | None) -> Facts:
    etag = meta["e_tag"]
    if etag and not etag.startswith(('"', "W/")):
        etag = f'"{etag}"'  # as Azure's listings have it, other than its objects
    return Facts(meta["size"], etag or None, meta["version"] or version, str(meta["last_modified"]))


def _translated(error: Exception, place: Place, key: str, version: str | None) -> ArtifactFSError:
    """An error of obstore as one of ours."""
    uri = place.uri(key) if key else place.root
    text = str(error)
    status = _STATUS.search(text)
    code = _CODE.search(text)
    number = int(status[1]) if status else 0
    words = f"{number} {code[1]}" if code else _words(error)
    kind = type(error).__name__
    if isinstance(error, FileNotFoundError) or number in {404, 410}:
        if code is not None and code[1] == "NoSuchBucket":
            return NotFound(f"there is no bucket {place.root}")
        return NotFound(f"{uri} is not there" + (f" in its version {version}" if version is not None else ""))
    if kind in {"PermissionDeniedError", "UnauthenticatedError"} or number in {401, 403}:
        return Access(f"{uri} may not be read ({words}); {_HINTS[place.store]}")
    if kind == "InvalidPathError" or isinstance(error, ValueError):
        return InvalidInput(f"{uri} holds a key that cannot be a path: {words}; refer to its objects one by one")
    if number in {301, 307} or (code is not None and code[1] == "AuthorizationHeaderMalformed"):
        return InvalidInput(f"{place.root} is in another region ({words}); set AWS_REGION to it")
    if "169.254." in text or "redential" in text:
        return Access(f"{uri} cannot be asked for without credentials; {_HINTS[place.store]}")
    return Unavailable(f"cannot read {uri}: {words}")


def _words(error: Exception) -> str:
    """What obstore says, in one line and without what may be secret."""
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    return _QUERY.sub("", line).partition("<?xml")[0].strip(" :")[:300]
