"""The grammar of names: artifacts, types, aliases, tags, Runs, entry paths, metadata and Addresses.

Used wherever text from outside comes in. Pure functions; each ``check_*`` returns its argument or raises InvalidInput with
the rule and, where one can be made, a name that would do.
"""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any, Final

import msgspec

from artifactfs.errors import InvalidInput
from artifactfs.model.digest import parse_digest

MAX_NAME: Final = 128  # characters of an artifact's name, a type or an alias
MAX_PART: Final = 255  # bytes of one part of an entry path, as on local file systems
MAX_PATH: Final = 4095  # bytes of a whole entry path: PATH_MAX less its NUL
MAX_METADATA_KEYS: Final = 100  # top-level keys
MAX_DEPTH: Final = (
    100  # of objects and lists in each other: encoders and databases have bounds of their own, of some hundreds
)
CONTROL_DIRECTORY: Final = ".artifactfs"
STAGING: Final = "staging"
LATEST: Final = "latest"
DEFAULT_TYPE: Final = "dataset"

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_RESERVED: Final = frozenset({".", "..", CONTROL_DIRECTORY})
_VERSION: Final = re.compile(r"v(0|[1-9][0-9]{0,17})")
_TAG: Final = re.compile(r"[-\w]+( +[-\w]+)*")
_RUN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LIKE_VERSION: Final = re.compile(r"v[0-9]+")


def suggest_name(text: str) -> str:
    """An allowed artifact name that resembles ``text``; empty when nothing of it can be kept."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    name = re.sub(r"-{2,}", "-", re.sub(r"[^A-Za-z0-9_.-]+", "-", plain)).strip("-")[:MAX_NAME]
    return "" if name in _RESERVED else name


def check_name(name: str, what: str = "an artifact name") -> str:
    """An artifact's (or project's) name: letters, digits, ``_``, ``-``, ``.``, at most 128. ``what`` stands in the error."""
    if _NAME.fullmatch(name) and name not in _RESERVED:
        return name
    if name in _RESERVED:
        raise InvalidInput(f"the name {name!r} is reserved; choose another one")
    rule = f"not {what}: {_shown(name)}; allowed are letters, digits, '_', '-' and '.', at most {MAX_NAME}"
    better = suggest_name(name)
    raise InvalidInput(f"{rule}; {better!r} would do" if better else rule)


def check_project(name: str) -> str:
    """A project's name: as an artifact's."""
    return check_name(name, "a project name")


def check_type(value: str) -> str:
    """An artifact's type: 1 to 128 printable characters without ``/`` and ``:``."""
    if 0 < len(value) <= MAX_NAME and not re.search(r"[/:]", value) and value.isprintable():
        return value
    raise InvalidInput(
        f"not a type: {_shown(value)}; a type is a word such as dataset, model or result, "
        f"at most {MAX_NAME} characters, without '/' and ':'"
    )


def check_alias(alias: str) -> str:
    """An alias: 1 to 128 characters (255 bytes) without ``/``, ``:``, NUL and line breaks, and no reserved or version-like word."""
    if not alias:
        raise InvalidInput("not an alias: ''; an alias is a word, such as best or production")
    if alias in {".", "..", STAGING}:
        raise InvalidInput(f"the alias {alias!r} is reserved; choose another one")
    if _LIKE_VERSION.fullmatch(alias):
        raise InvalidInput(f"not an alias: {alias!r} would read as a version number; choose a word")
    if len(alias) > MAX_NAME or len(alias.encode("utf-8", "surrogateescape")) > MAX_PART:
        raise InvalidInput(f"not an alias: {_shown(alias)} is longer than {MAX_NAME} characters or {MAX_PART} bytes")
    if re.search(r"[/:\0\n\r]", alias) or not _is_utf8(alias):
        raise InvalidInput(
            f"not an alias: {_shown(alias)}; '/', ':', NUL, line breaks and invalid UTF-8 are not allowed"
        )
    return alias


def check_tag(tag: str) -> str:
    """A tag: letters, digits, ``_`` and ``-``, with blanks between, at most 128 characters."""
    if len(tag) <= MAX_NAME and _TAG.fullmatch(tag):
        return tag
    rule = f"not a tag: {_shown(tag)}; allowed are letters, digits, '_', '-' and blanks between, at most {MAX_NAME}"
    better = re.sub(r"[^-\w]+", " ", tag).strip()[:MAX_NAME].strip()
    raise InvalidInput(f"{rule}; {better!r} would do" if better else rule)


def is_run(text: str) -> bool:
    """Whether a text could be the id of a Run: 1 to 64 letters, digits, ``_`` and ``-``."""
    return _RUN.fullmatch(text) is not None


def check_run(text: str) -> str:
    """The id of a Run: 1 to 64 letters, digits, ``_`` and ``-``."""
    if is_run(text):
        return text
    raise InvalidInput(f"not the id of a run: {_shown(text)}; 1 to 64 letters, digits, '_' and '-' are one")


def check_part(part: str) -> str:
    """One part of an entry path: valid UTF-8, 1 to 255 bytes, not ``.`` or ``..``, no ``/`` and NUL."""
    if part in {"", ".", ".."} or "/" in part or "\0" in part:
        raise InvalidInput(f"not a file name: {_shown(part)}; empty, '.', '..', '/' and NUL are not allowed")
    try:
        length = len(part.encode())
    except UnicodeEncodeError:
        raise InvalidInput(f"the file name {_shown(part)} is not valid UTF-8; rename the file") from None
    if length > MAX_PART:
        raise InvalidInput(f"the file name {_shown(part)} is longer than {MAX_PART} bytes; shorten it")
    return part


def check_entry_path(path: str) -> str:
    """A path inside an artifact: relative, ``/``-separated, each part as :func:`check_part`. Not empty."""
    if path.startswith("/"):
        raise InvalidInput(
            f"the path {_shown(path)} is absolute; inside an artifact paths are relative: {path.lstrip('/')!r}"
        )
    for part in path.split("/"):
        try:
            check_part(part)
        except InvalidInput as error:
            raise InvalidInput(f"not a path inside an artifact: {_shown(path)}: {error}") from None
    if len(path.encode()) > MAX_PATH:
        raise InvalidInput(f"the path {_shown(path)} is longer than {MAX_PATH} bytes")
    return path


def parse_version(text: str) -> int | None:
    """The number of ``v12``; None when the text is no version."""
    return int(text[1:]) if _VERSION.fullmatch(text) else None


class Address(msgspec.Struct, frozen=True):
    """``project/name:version-or-alias/path``, or ``name@blake3:…/path`` for exact content.

    ``project`` None is the current one; ``selector`` None with ``digest`` None is `latest`; ``path`` is "" for the root.
    """

    project: str | None
    name: str
    selector: str | None = None
    digest: bytes | None = None
    path: str = ""

    def __str__(self) -> str:
        """The address as text, in its shortest form."""
        head = f"{self.project}/{self.name}" if self.project else self.name
        if self.digest is not None:
            head += f"@blake3:{self.digest.hex()}"
        elif self.selector is not None:
            head += f":{self.selector}"
        return f"{head}/{self.path}" if self.path else head


def parse_address(text: str) -> Address:
    """Read an Address. Raises InvalidInput.

    A project is recognised only where a version, alias or digest is given (``bikes/data:latest``); without one,
    what follows the first ``/`` is a path in `latest` (``data/images/cat.png``), since that is what people type.
    """
    match = re.fullmatch(r"([^:@]*?)(?:@(blake3:[^/]*)|:([^/]*))(?:/(.*))?", text, re.DOTALL)
    if match is None:
        name, _, path = text.partition("/")
        return Address(None, check_name(name), path=_address_path(path, text))
    head, digest, selector, path = match.groups()
    project, slash, name = head.rpartition("/")
    if slash and not project:
        raise InvalidInput(f"not an address: {_shown(text)}; expected name:version/path or project/name:version/path")
    if selector is not None and parse_version(selector) is None:
        check_alias(selector)
    return Address(
        check_project(project) if project else None,
        check_name(name),
        selector,
        parse_digest(digest) if digest else None,
        _address_path(path or "", text),
    )


def leaves_artifact(directory: str, target: str) -> bool:
    """Whether a symlink's target is outside the artifact; ``directory`` is where the link lies (ends with ``/``, or empty)."""
    depth = directory.count("/")
    if target.startswith("/"):
        return True
    for part in target.split("/"):
        if part == "..":
            depth -= 1
            if depth < 0:
                return True
        elif part not in {"", "."}:
            depth += 1
    return False


def check_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """A JSON object as it is stored: at most 100 top-level keys, NaN as null. Raises InvalidInput.

    A number or truth value of numpy, torch and the like, alone or as an array without dimensions, is the plain one. Infinities, keys
    that are no text, and values that are no JSON are refused, naming where they are.
    """
    if len(metadata) > MAX_METADATA_KEYS:
        raise InvalidInput(
            f"metadata has {len(metadata)} keys at the top; at most {MAX_METADATA_KEYS} are allowed: nest the rest"
        )
    return _object(metadata, "metadata", 0)


def check_config(config: dict[str, Any]) -> dict[str, Any]:
    """A Run's configuration as it is stored: as metadata, with any number of keys."""
    return _object(config, "config", 0)


def _object(values: dict[str, Any], where: str, depth: int) -> dict[str, Any]:
    return {_key(key, where): _json(value, f"{where}.{key}", depth + 1) for key, value in values.items()}


def _json(value: Any, where: str, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    # Of a subclass (numpy.float64, an Enum) the plain value: encoders refuse the first.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise InvalidInput(f"{where} = {value} does not fit into 64 bits; store it as text")
        return int(value)
    if isinstance(value, float):
        if math.isinf(value):
            raise InvalidInput(f"{where} is infinite, which JSON cannot hold; use null or text")
        return None if math.isnan(value) else float(value)
    if isinstance(value, dict | list | tuple) and depth == MAX_DEPTH:
        raise InvalidInput(f"{_shown(where)} is nested deeper than {MAX_DEPTH} levels, or holds itself; store it flat")
    if isinstance(value, dict):
        return _object(value, where, depth)
    if isinstance(value, list | tuple):
        return [_json(item, f"{where}[{number}]", depth + 1) for number, item in enumerate(value)]
    if getattr(value, "ndim", None) == 0 and getattr(getattr(value, "dtype", None), "kind", "") not in {"m", "M"}:
        plain = value.item()  # as numpy and torch have it; of their times it would be a number without its unit
        if isinstance(plain, bool | int | float | str):
            return _json(plain, where, depth)
    raise InvalidInput(f"{where} is a {type(value).__name__}, which JSON cannot hold; convert it to text or numbers")


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise InvalidInput(f"{where} has the key {key!r}, which is no text; JSON keys are text")
    return key


def _address_path(path: str, text: str) -> str:
    path = path.rstrip("/")
    if path:
        try:
            check_entry_path(path)
        except InvalidInput as error:
            raise InvalidInput(f"not an address: {_shown(text)}: {error}") from None
    return path


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(text: str) -> str:
    """``text`` for a message: quoted, escaped, not longer than a line."""
    quoted = repr(text)
    return quoted if len(quoted) <= 80 else f"{quoted[:60]}… ({len(text)} characters)"
