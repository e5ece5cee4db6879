"""A bucket: S3 and what speaks like it, Google Cloud Storage, Azure; by ``obstore``, which comes with an extra.

Used by References and by Stores. Any thread. The one file that knows obstore: what it raises leaves here as one of our errors, in one
line and without what may be secret.

Invariant *bounded-waits*: a request ends within ``seconds``, together with its repetitions; a body goes on as long as a block of it
comes within half of that.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from types import ModuleType
from typing import IO, Any, Final

import msgspec

from artifactfs.buckets import credentials
from artifactfs.buckets.places import AZURE, GOOGLE, S3, Place
from artifactfs.errors import Access, ArtifactFSError, Format, Integrity, InvalidInput, NoSpace, NotFound, Unavailable

ATTEMPTS: Final = 3
"""How often obstore asks, where it may pass."""
LISTED: Final = 1000
"""Objects of one page of a listing, as all these stores have it."""
BLOCK: Final = 1 << 20
"""Bytes of a body that are handed on at once."""
PART: Final = 8 << 20
"""Bytes of one request of an upload. S3 takes 10,000 of them an object, and none but the last below 5 MiB."""
AT_ONCE: Final = 4
"""Parts of one upload on their way, each in memory: 32 MiB an upload."""
LONGEST_SIGNED: Final = 7 * 86400
"""Seconds that S3 and Google Cloud Storage let a signed URL live at most."""

_HINTS: Final = {
    S3: "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public bucket",
    GOOGLE: "set GOOGLE_APPLICATION_CREDENTIALS, or GOOGLE_SKIP_SIGNATURE=true for a public bucket",
    AZURE: "set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY",
}
_EXTRAS: Final = {S3: "s3", GOOGLE: "gcs", AZURE: "azure"}
_DONE: Final = {"read": "read", "write": "written", "list": "listed", "delete": "deleted", "sign": "signed"}
_STATUS: Final = re.compile(r"status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>([A-Za-z]+)</Code>")
_QUERY: Final = re.compile(r"\?\S*")  # may hold a signature
_FULL: Final = frozenset(
    {"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientCapacity", "DiskFull"}
)
"""What says that there is no room: Ceph, MinIO and others; or the status 507."""


class Found(msgspec.Struct, frozen=True):
    """What a store says of an object. ``modified``: when it was written, as text."""

    key: str
    size: int
    etag: str | None
    version: str | None
    modified: str


class Bucket:
    """One bucket, opened when something is asked of it first. ``seconds`` bounds a request with its repetitions.

    Errors of all methods: NotFound (the object, the version, the bucket), Access, InvalidInput (also without the extra), Unavailable.
    """

    def __init__(self, place: Place, *, seconds: float) -> None:
        self.place = place
        self._seconds = seconds
        self._lock = threading.Lock()
        self._opened: Any = None

    def head(self, key: str, version: str | None = None) -> Found:
        """What the store says of an object, of this version if one is named."""
        obstore = _obstore(self.place)
        try:
            if version is None:
                return _found(obstore.head(self._store(), key), None)
            options = {"head": True, "version": version}
            return _found(obstore.get(self._store(), key, options=options).meta, version)
        except Exception as error:
            raise self._translated(error, "read", key, version) from error

    def get(self, key: str, begin: int, end: int, *, version: str | None = None, etag: str | None = None) -> Body:
        """Bytes from ``begin`` to ``end`` of an object, fewer at its end only, by one request.

        ``end`` is past ``begin``. Integrity when the object ends before ``begin``, or is another than ``etag`` by now; Format when the
        store sends whole objects for ranges.
        """
        options: dict[str, Any] = {"range": (begin, end)}
        if version is not None:
            options["version"] = version
        if etag is not None:
            options["if_match"] = etag
        obstore = _obstore(self.place)
        try:
            result = obstore.get(self._store(), key, options=options)
            return Body(self, key, _found(result.meta, version), result)
        except Exception as error:
            raise self._translated(error, "read", key, version) from error

    def list(self, prefix: str) -> Iterator[Sequence[Found]]:
        """Objects below ``prefix`` (whole parts of keys), page by page, in the order that the store has them in."""
        obstore = _obstore(self.place)
        try:
            for page in obstore.list(self._store(), prefix or None, chunk_size=LISTED):
                yield [_found(meta, None) for meta in page]
        except Exception as error:
            raise self._translated(error, "list", prefix, None) from error

    def put(self, key: str, file: IO[bytes], size: int) -> None:
        """Write an object of ``size`` bytes, which are read from ``file``: in parts when it is larger than one. Atomic."""
        obstore = _obstore(self.place)
        try:
            obstore.put(
                self._store(),
                key,
                file,
                use_multipart=size > PART,
                chunk_size=max(PART, -(-size // 10_000)),
                max_concurrency=AT_ONCE,
            )
        except Exception as error:
            raise self._translated(error, "write", key, None) from error

    def delete(self, key: str) -> None:
        """Remove an object. Idempotent."""
        obstore = _obstore(self.place)
        try:
            obstore.delete(self._store(), key)
        except Exception as error:
            ours = self._translated(error, "delete", key, None)
            if not isinstance(ours, NotFound):  # S3 says nothing of it, the others do
                raise ours from error

    def sign(self, keys: Sequence[str], seconds: float) -> Sequence[str]:
        """URLs by which anybody may read these objects for so long, there or not. Asks nobody, but for a machine's own keys."""
        if not 1 <= seconds <= LONGEST_SIGNED:
            raise InvalidInput(f"a signed URL cannot live for {seconds:g} seconds; give 1 to {LONGEST_SIGNED}")
        obstore = _obstore(self.place)
        try:
            return tuple(obstore.sign(self._store(), "GET", tuple(keys), timedelta(seconds=seconds)))
        except Exception as error:
            raise self._translated(error, "sign", "", None) from error

    def close(self) -> None:
        """Let the connections go. Idempotent; what is asked next opens them anew."""
        with self._lock:
            self._opened = None

    # -- opening ---------------------------------------------------------------------------------------------------

    def _store(self) -> Any:
        with self._lock:
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    def _open(self) -> Any:
        place = self.place
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
                # Deletion of many objects by one request is what not every server knows; here it is always one.
                config = {**credentials.of_s3(), "disable_bulk_delete": "true"}
                return store.S3Store(place.bucket, config=config, **shared)
            if place.store == GOOGLE:
                return store.GCSStore(place.bucket, config=credentials.of_google(), **shared)
            config = credentials.of_azure()
            if place.account and place.account != config.get("account_name"):
                config = {"account_name": place.account}  # the key and the endpoint are another account's
            return store.AzureStore(place.bucket, config=config, **shared)
        except Exception as error:
            raise InvalidInput(f"cannot open {place.root}: {_words(error)}; {_HINTS[place.store]}") from error

    # -- errors ----------------------------------------------------------------------------------------------------

    def _translated(self, error: Exception, doing: str, key: str, version: str | None) -> ArtifactFSError:
        if isinstance(error, ArtifactFSError):
            return error
        ours = _translated(error, self.place, doing, key, version)
        if isinstance(ours, Access):
            self.close()  # keys that were renewed since are found when it is opened again
        return ours


class Body:
    """Bytes of one answer, a block after another; broken off, obstore has asked for the rest already, as often as it may."""

    def __init__(self, bucket: Bucket, key: str, found: Found, result: Any) -> None:
        self.found = found
        self._bucket = bucket
        self._key = key
        self._blocks = result.stream(min_chunk_size=BLOCK)

    def block(self) -> bytes | memoryview:
        """The next bytes, some BLOCK of them; none at the end."""
        try:
            return memoryview(next(self._blocks))
        except StopIteration:
            return b""
        except Exception as error:
            raise self._bucket._translated(error, "read", self._key, None) from error  # noqa: SLF001 - one module


def _obstore(place: Place) -> ModuleType:
    try:
        # Here and not above: it comes with an extra.
        import obstore  # noqa: PLC0415
        import obstore.store  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise InvalidInput(f"{place.root} needs obstore: pip install 'artifactfs[{_EXTRAS[place.store]}]'") from error
    return obstore


def _found(meta: Any, version: str | None) -> Found:
    etag = meta["e_tag"]
    if etag and not etag.startswith(('"', "W/")):
        etag = f'"{etag}"'  # as Azure's listings have it, other than its objects
    return Found(meta["path"], meta["size"], etag or None, meta["version"] or version, str(meta["last_modified"]))


def _translated(error: Exception, place: Place, doing: str, key: str, version: str | None) -> ArtifactFSError:
    """An error of obstore as one of ours: the one table."""
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
        if code is not None and code[1] == "NoSuchUpload":
            # Of an upload in parts whose end was confirmed by an answer that got lost, MinIO and Ceph know no more when they are asked
            # again: whoever repeats it finds the object. S3 confirms it again.
            return Unavailable(f"cannot {doing} {uri}: {words}; repeat")
        return NotFound(f"{uri} is not there" + (f" in its version {version}" if version is not None else ""))
    if kind == "PreconditionError" or number == 412:
        return Integrity(f"{uri} was replaced while it was read; run `artifactfs verify`")
    if number == 416:
        return Integrity(f"{uri} ends before what was asked for; run `artifactfs verify`")
    if "non-partial response" in text:
        return Format(
            f"{place.root} answers ranges with status 200 instead of 206, which cannot be told from whole objects; "
            "use a release of its server that has this mended"
        )
    if number == 507 or (code is not None and code[1] in _FULL):
        return NoSpace(f"{uri} cannot be {_DONE[doing]} ({words}); free some space there and try again")
    if kind in {"PermissionDeniedError", "UnauthenticatedError"} or number in {401, 403}:
        return Access(f"{uri} may not be {_DONE[doing]} ({words}); {_HINTS[place.store]}")
    if kind == "InvalidPathError" or isinstance(error, ValueError):
        return InvalidInput(f"{uri} holds a key that cannot be a path: {words}; refer to its objects one by one")
    if number in {301, 307} or (code is not None and code[1] == "AuthorizationHeaderMalformed"):
        return InvalidInput(f"{place.root} is in another region ({words}); set AWS_REGION to it")
    if "169.254." in text or "redential" in text:
        return Access(f"{uri} cannot be {_DONE[doing]} without credentials; {_HINTS[place.store]}")
    return Unavailable(f"cannot {doing} {uri}: {words}")


def _words(error: Exception) -> str:
    """What obstore says, in one line and without what may be secret."""
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    return _QUERY.sub("", line).partition("<?xml")[0].strip(" :")[:300]
