"""URIs of objects in buckets: ``s3://``, ``gs://``, ``az://`` and the addresses of Azure.

Used by References and by Stores. Pure functions, safe from any thread. Keys are taken as they are, without any escapes (but in
``https:``); a version is named as its store does: ``?versionId=…`` for S3 and Azure, ``#generation`` for Google.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote, urlsplit

import msgspec

from artifactfs.errors import InvalidInput

_AZURE_HOST: Final = re.compile(r"([a-z0-9]{3,24})\.(?:blob|dfs)\.core\.windows\.net", re.IGNORECASE)
_VERSION: Final = re.compile(r"\?versionid=([^?&#]+)$", re.IGNORECASE)
_GENERATION: Final = re.compile(r"#([0-9]+)$")

S3, GOOGLE, AZURE = "s3", "gs", "az"


class Place(msgspec.Struct, frozen=True):
    """A bucket of a store (of an ``account``, for Azure), a key in it, "" for all, and the version that is named."""

    store: str
    bucket: str
    key: str
    root: str  # the URI of the bucket
    account: str = ""
    version: str | None = None

    def uri(self, key: str) -> str:
        """The URI of a key in this bucket."""
        return f"{self.root}/{quote(key)}" if self.root.startswith("https:") else f"{self.root}/{key}"


def is_bucket(uri: str) -> bool:
    """Whether a URI is one of an object store."""
    scheme = _scheme(uri)
    if scheme in {"s3", "gs", "az", "abfs", "abfss"}:
        return True
    return scheme == "https" and _AZURE_HOST.fullmatch(_host(uri)) is not None


def place_of(uri: str) -> Place:
    """What a URI names. InvalidInput when it names no bucket."""
    scheme = _scheme(uri)
    rest = uri.partition("://")[2]
    if scheme == "https":
        return _azure_place(uri)
    version: str | None = None
    pattern = _GENERATION if scheme == "gs" else _VERSION
    found = pattern.search(rest)
    if found is not None:
        version, rest = found[1], rest[: found.start()]
    bucket, _, key = rest.partition("/")
    account = ""
    if scheme in {"abfs", "abfss"}:
        bucket, _, host = bucket.partition("@")
        matched = _AZURE_HOST.fullmatch(host)
        account = matched[1] if matched else ""
        root = f"{scheme}://{bucket}@{host}" if host else f"{scheme}://{bucket}"
    else:
        root = f"{scheme}://{bucket}"
    if not bucket:
        raise InvalidInput(f"not the URI of an object: {uri!r} names no bucket; it looks like {scheme}://bucket/key")
    store = {"s3": S3, "gs": GOOGLE}.get(scheme, AZURE)
    return Place(store, bucket, key, root, account, version)


def _azure_place(uri: str) -> Place:
    found = _VERSION.search(uri)
    version, uri = (unquote(found[1]), uri[: found.start()]) if found else (None, uri)
    parts = urlsplit(uri)
    container, _, key = parts.path.lstrip("/").partition("/")
    if not container or parts.query:
        raise InvalidInput(
            f"not the URI of an object: {uri!r}; it looks like https://ACCOUNT.blob.core.windows.net/container/key"
        )
    return Place(
        AZURE,
        container,
        unquote(key),
        f"https://{parts.netloc}/{container}",
        (parts.hostname or "").partition(".")[0],
        version,
    )


def _host(uri: str) -> str:
    try:
        return urlsplit(uri).hostname or ""
    except ValueError:
        return ""


def _scheme(uri: str) -> str:
    scheme, mark, _ = uri.partition("://")
    return scheme.lower() if mark else ""
