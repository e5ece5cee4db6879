"""What a registry may hold: texts, names and JSON as every database takes them.

Used by the modules of this package before a transaction begins. Pure functions; each ``check_*`` returns its argument as it is stored,
or raises InvalidInput with the rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from artifactfs.errors import InvalidInput
from artifactfs.model.digest import DIGEST_SIZE
from artifactfs.model.names import check_alias, check_config, check_metadata, check_tag

LARGEST: Final = 2**63 - 1  # what a column holds


def check_digest(digest: bytes) -> bytes:
    """The digest of a root Tree."""
    if len(digest) != DIGEST_SIZE:
        raise InvalidInput(f"not the digest of a tree: {len(digest)} bytes instead of {DIGEST_SIZE}")
    return digest


def check_token(text: str, what: str) -> str:
    """An id that a client made, of a commit or a draft: 1 to 128 printable ASCII characters."""
    if not (0 < len(text) <= 128 and text.isascii() and text.isprintable()):
        raise InvalidInput(f"not {what}: {text!r}; 1 to 128 printable ASCII characters are one")
    return text


def check_aliases(names: Sequence[str]) -> tuple[str, ...]:
    """Each alias once, in the order given."""
    return tuple(dict.fromkeys(check_alias(name) for name in names))


def check_tags(names: Sequence[str]) -> tuple[str, ...]:
    """Each tag once, sorted."""
    return tuple(sorted({check_tag(name) for name in names}))


def check_description(text: str | None) -> str | None:
    """Free text that every database can hold."""
    if text is not None and not is_text(text):
        raise InvalidInput("the description is not valid UTF-8 or holds NUL; write it again without")
    return text


def check_json(metadata: dict[str, Any] | None) -> dict[str, Any] | None:
    """Metadata as it is stored, all of its text valid UTF-8."""
    return None if metadata is None else encodable(check_metadata(metadata), "the metadata")


def check_run_config(config: dict[str, Any]) -> dict[str, Any]:
    """A Run's configuration as it is stored."""
    return encodable(check_config(config), "the config")


def encodable(value: dict[str, Any], what: str) -> dict[str, Any]:
    """``value``, all of whose text is valid UTF-8."""
    try:
        msgspec.json.encode(value)
    except UnicodeEncodeError:
        raise InvalidInput(f"{what} holds text that is not valid UTF-8; write it again without") from None
    return value


def check_words(text: str, what: str, *, most: int, least: int = 0) -> str:
    """A line for people, of at least and at most so many printable characters."""
    if not (least <= len(text) <= most and text.isprintable()):
        shown = repr(text) if len(text) <= most else f"{len(text)} characters"
        raise InvalidInput(f"not {what}: {shown}; {least} to {most} printable characters are one")
    return text


def is_text(text: str) -> bool:
    """Whether every database can hold a text: valid UTF-8, which names that come from a mount may not be, and without NUL."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text
