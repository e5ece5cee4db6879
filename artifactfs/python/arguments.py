"""Arguments as programs give them, checked before they are used: a mistake is told by the name of the argument it was made in.

Used by this package. Pure functions, safe from any thread; each returns what it was given, as it is used, or raises InvalidInput.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from artifactfs.errors import InvalidInput
from artifactfs.model.names import check_entry_path, check_metadata


def text(argument: str, value: str) -> str:
    """A text."""
    if not isinstance(value, str):
        raise InvalidInput(f"{argument}={value!r} is a {kind(value)}; give a text")
    return value


def text_or_none(argument: str, value: str | None) -> str | None:
    """A text, or None."""
    return None if value is None else text(argument, value)


def path(argument: str, value: str | os.PathLike[str]) -> Path:
    """A path on this machine. An empty one would be the working directory, which nobody means by it."""
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise InvalidInput(f"{argument}={value!r} is a {kind(value)}; give a path: a text or a pathlib.Path")
    plain = os.fspath(value)
    if not plain:
        raise InvalidInput(f"{argument} is empty; give a path ('.' is the working directory)")
    if "\0" in plain:
        raise InvalidInput(f"{argument}={plain!r} holds a NUL, which no path does")
    return Path(plain)


def location(argument: str, value: str | os.PathLike[str] | None) -> str | None:
    """Where a repository is: a URL, a directory, or None."""
    if value is None or (isinstance(value, str) and "://" in value):
        return value
    return str(path(argument, value))


def entry_path(argument: str, value: str) -> str:
    """A path inside an artifact."""
    return check_entry_path(text(argument, value))


def encoding(argument: str, value: str | None) -> str | None:
    """The name of an encoding, or None."""
    if value is not None:
        try:
            codecs.lookup(text(argument, value))
        except LookupError:
            raise InvalidInput(f"{argument}={value!r} is none that Python knows; 'utf-8' is one") from None
    return value


def whole(argument: str, value: int | None, *, least: int = 0) -> int | None:
    """A whole number, or None."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
        raise InvalidInput(f"{argument}={value!r} is no whole number of {least} or more")
    return value


def names(argument: str, values: Iterable[str]) -> tuple[str, ...]:
    """A list of names as it was given, each once. A text alone would be taken letter by letter."""
    if isinstance(values, str):
        raise InvalidInput(f"{argument}={values!r} is a text; give a list of them: {argument}=[{values!r}]")
    if not isinstance(values, Iterable):
        raise InvalidInput(f"{argument}={values!r} is a {kind(values)}; give a list of texts")
    found = tuple(values)
    for value in found:
        if not isinstance(value, str):
            raise InvalidInput(f"{argument} has {value!r} in it, a {kind(value)}; give texts")
    return tuple(dict.fromkeys(found))


def metadata(values: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as it is stored."""
    if not isinstance(values, Mapping):
        raise InvalidInput(f"metadata is a {kind(values)}; give a dict of names and values that JSON holds")
    return check_metadata(dict(values))


def kind(value: object) -> str:
    """What a value is, in a word."""
    return value.__class__.__name__
