"""The reference of the Python interface as Markdown, from signatures and docstrings. Used by scripts/docs.

A class has a heading, what it is, how it is made, and its public members in the order and under the titles (``# -- title ---``) of
its source. What it inherits from another one of these stands there only.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterator
from typing import Any

import artifactfs
from artifactfs.python.api import ArtifactCollection, ArtifactType
from artifactfs.python.entries import Manifest, ManifestEntry
from artifactfs.python.recorded import RecordedRun
from artifactfs.python.run import Config

# In the order in which somebody meets them.
SUBJECTS: tuple[Any, ...] = (
    artifactfs.init,
    artifactfs.finish,
    artifactfs.Run,
    Config,
    artifactfs.Artifact,
    Manifest,
    ManifestEntry,
    artifactfs.Api,
    ArtifactType,
    ArtifactCollection,
    RecordedRun,
    artifactfs.prefetch,
)
MADE_BY_USERS = {artifactfs.Artifact, artifactfs.Api}  # the others are handed out
WIDTH = 88  # columns of a signature that stays on one line


def reference() -> str:
    """All of it, sections of the second level."""
    return "\n\n".join([*(block for subject in SUBJECTS for block in section(subject)), *section_of_errors()]) + "\n"


def section(subject: Any) -> Iterator[str]:
    yield f"## {subject.__name__}"
    if not inspect.isclass(subject):
        yield from described(subject)
        return
    yield text(subject)
    yield from (
        f"It has all of [{base.__name__}](#{base.__name__.lower()}), and:"
        for base in subject.__bases__
        if base in SUBJECTS
    )
    if subject in MADE_BY_USERS:
        made = signature(subject.__init__, subject.__name__).removesuffix(" -> None")
        yield f"```python\n{made}\n```"
    title = ""
    attributes: list[str] = []
    for name, member in vars(subject).items():
        if name.startswith("_"):
            continue
        if (its := title_of(member, subject)) != title or not isinstance(member, property):
            yield from listed(attributes)
        if its != title:
            title = its
            yield f"### {title[0].upper()}{title[1:]}"
        if isinstance(member, property):
            attributes.append(attribute(name, member))
        else:
            yield from described(member)
    yield from listed(attributes)


def listed(lines: list[str]) -> Iterator[str]:
    """What has been collected, as one block; the list is empty afterwards."""
    if lines:
        yield "\n".join(lines)
        lines.clear()


def described(function: Callable[..., Any]) -> Iterator[str]:
    """A function or method: how it is called, in each of its forms, and what it does."""
    forms = typing.get_overloads(function) or [function]
    yield "\n".join(["```python", *(signature(form, function.__name__) for form in forms), "```"])
    yield text(function)


def attribute(name: str, member: property) -> str:
    mark = " (may be set)" if member.fset is not None else ""
    return f"- `{name}: {annotation(member.fget, 'return')}`{mark}: {text(member).replace(chr(10) * 2, ' ')}"


def signature(function: Callable[..., Any], name: str) -> str:
    """As a program writes it, on one line or a line for each parameter, as the formatter does."""
    parts: list[str] = []
    keywords = False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keywords:
            parts.append("*")
            keywords = True
        stars = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        default = "" if parameter.default is parameter.empty else f" = {written(parameter.default)}"
        parts.append(f"{stars}{parameter.name}: {annotation(function, parameter.name)}{default}")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            parts.append("/")
    result = annotation(function, "return")
    line = f"{name}({', '.join(parts)}) -> {result}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {part}," for part in parts), f") -> {result}"])


def annotation(function: Any, of: str) -> str:
    """As it stands in the source; a name for a choice of words is replaced by these."""
    known = function.__globals__

    def expand(match: re.Match[str]) -> str:
        value = known.get(match[0])
        if typing.get_origin(value) is not typing.Literal:
            return match[0]
        return f"Literal[{', '.join(map(written, typing.get_args(value)))}]"

    return re.sub(r"\w+", expand, function.__annotations__[of])


def written(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def title_of(member: Any, subject: type) -> str:
    """The last title above a member in the source of its class; empty without one."""
    lines, first = inspect.getsourcelines(subject)
    function = member.fget if isinstance(member, property) else member
    above = "".join(lines[: function.__code__.co_firstlineno - first])
    return (re.findall(r"^ +# -- (.+?) -+$", above, re.MULTILINE) or [""])[-1]


def text(subject: Any) -> str:
    """A docstring as Markdown: a paragraph a line, names in backquotes."""
    plain = inspect.cleandoc(subject.__doc__)
    plain = re.sub(r":(?:meth|func):`([\w.]+)`", r"`\1()`", plain)
    plain = re.sub(r":\w+:`([\w.]+)`", r"`\1`", plain).replace("``", "`")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in plain.split("\n\n"))


def section_of_errors() -> Iterator[str]:
    yield "## Errors"
    yield "\n".join(errors(artifactfs.ArtifactFSError))


def errors(kind: type[artifactfs.ArtifactFSError], indent: str = "") -> Iterator[str]:
    """An error and, below it, its kinds that programs may name."""
    yield f"{indent}- `{kind.__name__}` (`{kind.code}`): {text(kind)}"
    for name in artifactfs.__all__:
        below = getattr(artifactfs, name)
        if inspect.isclass(below) and kind in below.__bases__:
            yield from errors(below, f"{indent}  ")
