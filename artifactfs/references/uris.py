"""URIs of References: which are accepted, and how they are taken apart.

Used by all of this package. Pure functions, safe from any thread.

A URI is kept as it was given and seen by everybody who sees the version, so one that holds a secret is refused.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from artifactfs.errors import InvalidInput
from artifactfs.model.names import check_part
from artifactfs.references.contract import MAX_URI

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_WEB: Final = frozenset({"http", "https"})
_NO_QUERY: Final = frozenset({"file", "artifact"})
"""Schemes in which a question mark is a part of a name."""
_SIGNATURES: Final = frozenset({"x-amz-signature", "x-amz-security-token", "x-goog-signature", "signature", "sig"})
"""Keys of a query that carry the right to read: of S3, Google Cloud Storage and Azure."""


def scheme_of(uri: str) -> str:
    """The scheme, in lower case; empty for what is no URI."""
    found = _SCHEME.match(uri)
    return found[1].lower() if found else ""


def check_uri(uri: str) -> str:
    """A URI that may be stored. InvalidInput says what is wrong; it never repeats a secret."""
    shown = repr(uri if len(uri) <= 200 else uri[:200] + "…")
    scheme = scheme_of(uri)
    if not scheme:
        raise InvalidInput(f"not a URI: {shown}; a reference looks like s3://bucket/key or https://host/file")
    rest = uri.partition(":")[2]
    authority = re.split(r"[/?#]", rest[2:], maxsplit=1)[0] if rest.startswith("//") else ""
    user, mark, _ = authority.rpartition("@")
    if mark and (scheme in _WEB or ":" in user):
        hint = ", and put it into ~/.netrc" if scheme in _WEB else ""
        raise InvalidInput(
            f"a reference's {scheme} URI holds a user name or password, which every reader would see: leave it out{hint}"
        )
    if scheme not in _NO_QUERY:
        keys = {key.lower() for key, _ in parse_qsl(uri.partition("?")[2].partition("#")[0], keep_blank_values=True)}
        if secret := sorted(keys & _SIGNATURES):
            raise InvalidInput(
                f"the reference's URI is signed ({secret[0]}=…), so every reader would see the right to read, until it ends: "
                "give the object's own URI, for example s3://bucket/key"
            )
    if any(not c.isprintable() for c in uri) or (scheme in _WEB and " " in uri):
        raise InvalidInput(f"not a URI: {shown} holds blanks or control characters; write them as %20 and the like")
    if len(uri.encode("utf-8", "surrogateescape")) > MAX_URI:
        raise InvalidInput(f"not a URI that can be stored: {shown} is longer than {MAX_URI} bytes")
    if scheme in _WEB:
        try:
            parts = urlsplit(uri)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise InvalidInput(f"not a URI: {shown}: {error}") from error
        if not host:
            raise InvalidInput(f"not a URI: {shown} names no host; it looks like https://host/file")
    return uri


def name_of(uri: str) -> str:
    """The last part of a URI, as a file name. InvalidInput when it has none that could be one."""
    if scheme_of(uri) in {"http", "https", "file"}:
        last = unquote(urlsplit(uri).path).rstrip("/").rpartition("/")[2]
    else:
        last = uri.partition(":")[2].rstrip("/").rpartition("/")[2]
    try:
        return check_part(last)
    except InvalidInput as error:
        raise InvalidInput(f"{uri} ends with no name for an entry; give one with name= (URI=NAME)") from error
