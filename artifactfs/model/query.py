"""Search: what to look for among versions, and the small language of its conditions.

::

    metadata.accuracy > 0.9 and metadata.dataset.name = "bikes"
    type = "model" and not (tag = "broken" or created < "2026-01-01")

Pure; any thread. Text becomes a tree of :class:`Comparison`, :class:`Both`, :class:`Either` and :class:`Not`, which the Registry
turns into statements with bound values: nothing of the text ever becomes part of a statement. Every mistake is InvalidInput with the
character at which it stands, counted from 1, and what would do there.

What holds. A comparison is true or false. With a value that is missing it is false, also ``!=``; so is one of different types: text
is never equal to a number, nor different from it. ``!= null`` alone asks for more: that there is a value and it is not null.
``exists`` asks whether there is one, null or not. ``contains`` looks for text in text, or for an element of a list. Numbers compare
as 64-bit floating point, text by its code points. A date without a time is the whole day, of UTC where no offset is given.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Callable
from typing import Final, NoReturn, TypeAlias

import msgspec

from artifactfs.errors import InvalidInput
from artifactfs.model.digest import parse_digest
from artifactfs.model.names import parse_version

MAX_CONDITION: Final = 10_000  # characters
MAX_DEPTH: Final = 50  # of parentheses and `not` in each other
MAX_COMPARISONS: Final = 100  # each is a part of the database's statement

EQUAL: Final = "="
DIFFERENT: Final = "!="
BELOW: Final = "<"
AT_MOST: Final = "<="
ABOVE: Final = ">"
AT_LEAST: Final = ">="
IN: Final = "in"
CONTAINS: Final = "contains"
EXISTS: Final = "exists"

METADATA: Final = "metadata"
"""The field whose parts are keys of a version's metadata."""

Value: TypeAlias = str | int | float | bool | None


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which versions, in which order. Everything that is given must hold."""

    artifact: str | None = None
    type: str | None = None
    alias: str | None = None
    tag: str | None = None
    where: str = ""  # a condition as in the module's text; empty: none
    sort: tuple[str, ...] = ()  # fields, "-" before one for falling; then by name and number
    limit: int | None = None
    offset: int = 0


class Field(msgspec.Struct, frozen=True):
    """What a comparison looks at: a part of a version's record, or (``metadata``) the value below ``keys`` in its metadata."""

    name: str
    keys: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The field as a condition writes it."""
        return f"{self.name}.{join_keys(self.keys)}" if self.keys else self.name


class Comparison(msgspec.Struct, frozen=True):
    """One field against values: for ``exists`` none, for ``in`` one or more, otherwise one.

    Values of the fields version, size and files are numbers, those of created and updated nanoseconds since the epoch, those of
    digest its text. Values of metadata are as they were written; all others are text.
    """

    field: Field
    operator: str
    values: tuple[Value, ...] = ()


class Both(msgspec.Struct, frozen=True):
    """All of two or more parts hold."""

    parts: tuple[Condition, ...]


class Either(msgspec.Struct, frozen=True):
    """One of two or more parts holds, or several."""

    parts: tuple[Condition, ...]


class Not(msgspec.Struct, frozen=True):
    """The part does not hold."""

    part: Condition


Condition: TypeAlias = Comparison | Both | Either | Not


class Order(msgspec.Struct, frozen=True):
    """A field to sort by. Versions without a value come last, either way."""

    field: Field
    falling: bool


def parse_condition(text: str) -> Condition | None:
    """Read a condition; None when there is none in the text. Raises InvalidInput."""
    if len(text) > MAX_CONDITION:
        raise InvalidInput(f"the condition has {len(text)} characters; at most {MAX_CONDITION} are allowed")
    _require_utf8(text)
    return _Parser(text).condition()


def parse_field(text: str) -> Field:
    """Read a field, such as ``metadata.accuracy``. Raises InvalidInput."""
    _require_utf8(text)
    match = _TOKEN.fullmatch(text)
    if match is None or match.lastgroup != "word":
        raise InvalidInput(f"not a field: {_shown(text)}; {_FIELDS_THERE} would do")
    return _field(text)


def parse_order(text: str) -> Order:
    """Read a field to sort by, with ``-`` before it for falling order. Raises InvalidInput."""
    falling = text.startswith("-")
    field = parse_field(text[1:] if falling else text)
    if _KINDS[field.name] == _SET:
        raise InvalidInput(f"cannot sort by {field}: a version may have several; `created` would do")
    return Order(field, falling)


def join_keys(keys: tuple[str, ...]) -> str:
    """Keys as a condition writes them, ``dataset.name`` or ``"my key".size``, in ASCII. Different keys give different text."""
    return ".".join(key if _PLAIN_KEY.fullmatch(key) else json.dumps(key) for key in keys)


# -- the words -----------------------------------------------------------------------------------------------------

_KEYWORDS: Final = frozenset({"and", "or", "not", IN, CONTAINS, EXISTS})
_CONSTANTS: Final[dict[str, bool | None]] = {"true": True, "false": False, "null": None}
_SYMBOLS: Final = {"==": EQUAL, **{sign: sign for sign in (EQUAL, DIFFERENT, BELOW, AT_MOST, ABOVE, AT_LEAST)}}
_ORDERED: Final = (BELOW, AT_MOST, ABOVE, AT_LEAST)

_ANY, _TEXT, _NUMBER, _INSTANT, _SET, _DIGEST = "any", "text", "number", "instant", "set", "digest"
_KINDS: Final = {
    METADATA: _ANY,
    "name": _TEXT,
    "type": _TEXT,
    "version": _NUMBER,
    "size": _NUMBER,
    "files": _NUMBER,
    "created": _INSTANT,
    "updated": _INSTANT,
    "description": _TEXT,
    "alias": _SET,
    "tag": _SET,
    "digest": _DIGEST,
    "run": _TEXT,
}
_OPERATORS: Final = {
    _ANY: (EQUAL, DIFFERENT, *_ORDERED, IN, CONTAINS, EXISTS),
    _TEXT: (EQUAL, DIFFERENT, *_ORDERED, IN, CONTAINS, EXISTS),
    _NUMBER: (EQUAL, DIFFERENT, *_ORDERED, IN, EXISTS),
    _INSTANT: (EQUAL, DIFFERENT, *_ORDERED, EXISTS),
    # `!=` could say "has another one" or "does not have this one": the second is said with `not`, the first is not worth a word.
    _SET: (EQUAL, IN, CONTAINS, EXISTS),
    _DIGEST: (EQUAL, DIFFERENT, IN, EXISTS),
}
_FIELDS_THERE: Final = "metadata.KEY, " + ", ".join(name for name in _KINDS if name != METADATA)

_STRING: Final = r""" "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*' """
_TOKEN: Final = re.compile(
    rf"""
    (?P<word>   [^\W\d]\w* (?: \. (?: [\w-]+ | {_STRING} ) )* )
    | (?P<number> [-+]? \.? \d [\w.]* (?: (?<=[eE]) [-+] \w+ )? )
    | (?P<string> {_STRING} )
    | (?P<symbol> == | != | <= | >= | [=<>(),] )
    """,
    re.VERBOSE | re.DOTALL,
)
_KEY: Final = re.compile(rf"\. (?: ([\w-]+) | ({_STRING}) )", re.VERBOSE | re.DOTALL)
_PLAIN_KEY: Final = re.compile(r"[\w-]+", re.ASCII)
_SPACE: Final = re.compile(r"\s*")
_ESCAPE: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPES: Final = {'"': '"', "'": "'", "\\": "\\", "/": "/", "n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_FIRST, _LAST = -(2**63), 2**63 - 1  # what a column holds


class _Token(msgspec.Struct, frozen=True):
    kind: str  # word, number, string, symbol, or end
    text: str
    at: int

    def is_word(self, *words: str) -> bool:
        return self.kind == "word" and self.text.lower() in words


class _Parser:
    """Reads one condition by descent, a token ahead."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._depth = 0
        self._comparisons = 0
        self._next = self._token_from(0)

    def condition(self) -> Condition | None:
        if self._next.kind == "end":
            return None
        read = self._either()
        if self._next.kind != "end":
            self._unexpected("`and` and `or` join comparisons")
        return read

    def _either(self) -> Condition:
        return self._joined("or", Either, lambda: self._joined("and", Both, self._part))

    def _joined(self, word: str, kind: type[Both | Either], read: Callable[[], Condition]) -> Condition:
        parts = [read()]
        while self._next.is_word(word):
            self._take()
            parts.append(read())
        return kind(tuple(parts)) if len(parts) > 1 else parts[0]

    def _part(self) -> Condition:
        negated, grouped = self._next.is_word("not"), self._next.text == "("
        if not negated and not grouped:
            return self._comparison()
        if self._depth == MAX_DEPTH:
            self._unexpected(f"parentheses and `not` go at most {MAX_DEPTH} deep")
        self._depth += 1
        self._take()
        inner: Condition
        if negated:
            inner = Not(self._part())
        else:
            inner = self._either()
            if self._next.text != ")":
                self._unexpected("`)`, `and` or `or` would do")
            self._take()
        self._depth -= 1
        return inner

    def _comparison(self) -> Condition:
        token = self._next
        if token.kind != "word" or token.text.lower() in _KEYWORDS or token.text.lower() in _CONSTANTS:
            self._unexpected(f"a field stands here: {_FIELDS_THERE}")
        try:
            field = _field(token.text)
        except InvalidInput as error:
            self._unexpected(str(error))
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            self._unexpected(f"at most {MAX_COMPARISONS} comparisons are allowed; `in (…)` counts as one")
        self._take()
        operator = self._operator(field)
        if operator == EXISTS:
            return Comparison(field, operator)
        if operator == IN:
            return Comparison(field, operator, self._list(field))
        token = self._next
        value = self._value(field, operator)
        if _KINDS[field.name] == _INSTANT:
            return self._instant(field, operator, value, token)
        return Comparison(field, operator, (value,))

    def _operator(self, field: Field) -> str:
        token = self._next
        operator = _SYMBOLS.get(token.text) if token.kind == "symbol" else None
        if token.is_word(IN, CONTAINS, EXISTS):
            operator = token.text.lower()
        allowed = _OPERATORS[_KINDS[field.name]]
        if operator is None:
            self._unexpected(f"after {field} stands one of {' '.join(allowed)}")
        if operator not in allowed:
            instead = f"; `not {field} = …` would do" if operator == DIFFERENT else ""
            self._unexpected(f"after {field} stands one of {' '.join(allowed)}{instead}")
        self._take()
        return operator

    def _list(self, field: Field) -> tuple[Value, ...]:
        if self._next.text != "(":
            self._unexpected("after `in` stand values in parentheses: (1, 2)")
        values: list[Value] = []
        while not values or self._next.text == ",":
            self._take()
            values.append(self._value(field, IN))
        if self._next.text != ")":
            self._unexpected("`,` or `)` would do")
        self._take()
        return tuple(values)

    def _value(self, field: Field, operator: str) -> Value:
        token = self._next
        value: Value
        if token.kind == "string":
            value = self._read(_unquoted, token)
        elif token.kind == "number":
            value = self._read(_number, token)
        elif token.is_word(*_CONSTANTS):
            value = _CONSTANTS[token.text.lower()]
        elif token.kind == "word" and token.text.lower() not in _KEYWORDS:
            self._unexpected(f'text stands in quotes: "{token.text}"')
        else:
            self._unexpected('a number, "text", true, false or null would do')
        value = self._suited(value, field, operator)
        self._take()
        return value

    def _suited(self, value: Value, field: Field, operator: str) -> Value:
        """The value as this field compares with it; anything else is a mistake, and not silently false."""
        kind = _KINDS[field.name]
        if kind == _ANY:
            if operator in _ORDERED and (value is None or isinstance(value, bool)):
                self._unexpected(f'a number or "text" has an order; after {operator} one would do')
            return value
        if kind == _NUMBER:
            if field.name == "version" and isinstance(value, str):
                value = parse_version(value)
            if isinstance(value, bool | str | None):
                self._unexpected(f"{field} is a number, as in `{field} {operator if operator != IN else EQUAL} 3`")
            return value
        if not isinstance(value, str):
            self._unexpected(f"{field} compares with text, which stands in quotes")
        if kind == _DIGEST:
            try:
                parse_digest(value)
            except InvalidInput as error:
                self._unexpected(str(error))
        return value

    def _instant(self, field: Field, operator: str, value: Value, token: _Token) -> Condition:
        """What a comparison with a date says in instants; only these are left."""
        try:
            begin, end = _interval(str(value))
        except (ValueError, OverflowError):
            raise self._error(token, 'dates are written as "2026-01-31" or "2026-01-31T12:00:00+00:00"') from None
        since, until = Comparison(field, AT_LEAST, (begin,)), Comparison(field, BELOW, (end,))
        before, after = Comparison(field, BELOW, (begin,)), Comparison(field, AT_LEAST, (end,))
        meant: dict[str, Condition] = {
            EQUAL: Both((since, until)),
            DIFFERENT: Either((before, after)),
            BELOW: before,
            AT_MOST: until,
            ABOVE: after,
            AT_LEAST: since,
        }
        return meant[operator]

    # -- tokens and errors -----------------------------------------------------------------------------------------

    def _take(self) -> None:
        self._next = self._token_from(self._next.at + len(self._next.text))

    def _token_from(self, position: int) -> _Token:
        space = _SPACE.match(self._text, position)
        at = position if space is None else space.end()
        if at == len(self._text):
            return _Token("end", "", at)
        match = _TOKEN.match(self._text, at)
        if match is not None and match.lastgroup is not None:
            return _Token(match.lastgroup, match.group(), at)
        token = _Token("none", self._text[at], at)
        if token.text in "\"'":
            raise self._error(token, "the text that begins here has no end")
        if token.text == ".":
            raise self._error(
                token, "keys are joined by dots without spaces, and quoted unless of letters, digits, _ and -"
            )
        if token.text in {"&", "|"}:
            raise self._error(token, f"`{'and' if token.text == '&' else 'or'}` joins comparisons")
        raise self._error(token, "text stands in quotes; = != < <= > >= ( ) and , are the only signs")

    def _read(self, read: Callable[[str], Value], token: _Token) -> Value:
        try:
            return read(token.text)
        except ValueError as error:
            raise self._error(token, str(error)) from None

    def _unexpected(self, expected: str) -> NoReturn:
        raise self._error(self._next, expected)

    def _error(self, token: _Token, expected: str) -> InvalidInput:
        found = f"unexpected {_shown(token.text)}" if token.text else "unexpected end"
        return InvalidInput(f"{found} at character {token.at + 1} of the condition {_shown(self._text)}; {expected}")


def _field(text: str) -> Field:
    name, dot, _ = text.partition(".")
    if name not in _KINDS:
        others = _FIELDS_THERE.partition(", ")[2]
        raise InvalidInput(f"there is no field {_shown(name)}; metadata.{text} would do, or one of {others}")
    if name == METADATA and not dot:
        raise InvalidInput("metadata needs a key, as in metadata.accuracy")
    if name != METADATA and dot:
        raise InvalidInput(f"{name} has no parts; {name} alone would do")
    try:
        keys = tuple(plain or _unquoted(quoted) for plain, quoted in _KEY.findall(text, len(name)))
    except ValueError as error:
        raise InvalidInput(f"not a key in {_shown(text)}: {error}") from None
    return Field(name, keys)


def _unquoted(text: str) -> str:
    """The text that a quoted one stands for, with the escapes of JSON."""

    def meant(match: re.Match[str]) -> str:
        code, sign = match.groups()
        if code is None and sign not in _ESCAPES:
            raise ValueError(f"there is no escape \\{sign}; \\\\ is a backslash")
        return chr(int(code, 16)) if code else _ESCAPES[sign]

    read = _ESCAPE.sub(meant, text[1:-1])
    try:
        return read.encode("utf-16-le", "surrogatepass").decode("utf-16-le")  # joins pairs of escapes
    except UnicodeDecodeError:
        raise ValueError("a \\u escape is half of a pair") from None


def _number(text: str) -> int | float:
    try:
        value: int | float = int(text)
    except ValueError:
        try:
            value = float(text)
        except ValueError:
            raise ValueError("a number is written as 1_000, 0.9 or 1e-3") from None
    if not _FIRST <= value <= _LAST:
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
    if math.isinf(value):
        raise ValueError("the number is too large")
    return value


def _interval(text: str) -> tuple[int, int]:
    """The nanoseconds that a date names: from the first to before the second. ValueError for what is none."""
    day = _DAY.fullmatch(text) is not None
    moment = dt.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    begin = (moment - _EPOCH) // dt.timedelta(microseconds=1) * 1000
    end = begin + (86_400_000_000_000 if day else 1)
    return min(max(begin, _FIRST), _LAST), min(max(end, _FIRST), _LAST)


def _require_utf8(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"the condition {_shown(text)} is not valid UTF-8") from None


def _shown(text: str) -> str:
    """``text`` for a message: quoted, escaped, not longer than a line."""
    quoted = repr(text)
    return quoted if len(quoted) <= 100 else f"{quoted[:80]}… ({len(text)} characters)"
