"""``find``: versions by what is known of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from artifactfs.cli import printing
from artifactfs.cli.context import NAME, Context, pass_context
from artifactfs.cli.inspect import as_json, exact_bytes, version_fields
from artifactfs.errors import InvalidInput, NotFound
from artifactfs.model.names import Address, check_alias, check_name, check_tag, check_type
from artifactfs.model.query import (
    METADATA,
    Both,
    Comparison,
    Condition,
    Either,
    Field,
    Not,
    Query,
    parse_condition,
    parse_order,
)

if TYPE_CHECKING:
    from artifactfs.model.records import VersionRecord

MOST_COLUMNS: Final = 4
"""Metadata fields of the condition and the order that `find` shows beside a version."""

WIDEST_CELL: Final = 40  # characters of such a value


@click.command("find")
@click.argument("name", type=NAME, required=False)
@click.option("--type", "type_", metavar="TYPE", help="Versions of artifacts of this type.")
@click.option("--where", metavar="EXPR", default="", help="A condition, as above.")
@click.option("--alias", metavar="NAME", help="Versions that this alias names.")
@click.option("--tag", metavar="NAME", help="Versions that have this tag.")
@click.option("--sort", metavar="FIELD", multiple=True, help="Order by a field, falling with - before it. Repeatable.")
@click.option("--limit", metavar="N", type=click.IntRange(min=0), help="At most so many.")
@as_json
@exact_bytes
@pass_context
def find_command(
    context: Context,
    name: str | None,
    type_: str | None,
    where: str,
    alias: str | None,
    tag: str | None,
    sort: tuple[str, ...],
    limit: int | None,
    as_json: bool,
    exact: bool,
) -> None:
    """Find versions by what is known of them, of one artifact or of all.

    A condition compares metadata.KEY, name, type, version, size, files, created, updated, description, alias, tag, digest or run by =
    != < <= > >= in (…) contains or exists, joined by and, or, not and parentheses. Text and dates stand in quotes. A comparison with
    something that is missing, or of another type, is false. More: artifactfs help search.

    \b
    Example:
      artifactfs find --type model --where 'metadata.accuracy > 0.9 and metadata.dataset.name = "bikes"' \\
          --sort -metadata.accuracy
      artifactfs find bike-dataset --where 'created >= "2026-01-31" and not tag exists' --json
    """
    columns = metadata_fields(where, sort)
    query = Query(
        artifact=None if name is None else check_name(name),
        type=None if type_ is None else check_type(type_),
        alias=None if alias is None else check_alias(alias),
        tag=None if tag is None else check_tag(tag),
        where=where,
        sort=sort,
        limit=limit,
    )
    try:
        repository = context.open()
    except NotFound:
        if not context.settings.repository_is_default:
            raise
        found = []  # nothing was put yet on this machine
    else:
        with repository:
            found = repository.registry.find(query)
            if name is not None and not found:
                present = repository.resolve(Address(None, name)).artifact  # NotFound, with near misses
                if present != name:
                    found = repository.registry.find(msgspec.structs.replace(query, artifact=present))
    if as_json:
        printing.json_array(version_fields(version) for version in found)
    elif not found:
        printing.note("no version is like that")
    else:
        _print(found, columns[:MOST_COLUMNS], exact=exact)


def metadata_fields(where: str, sort: Sequence[str]) -> list[Field]:
    """The metadata that an order and a condition look at, each once. InvalidInput names the option with the mistake."""
    try:
        condition = parse_condition(where)
    except InvalidInput as error:
        raise InvalidInput(f"--where: {error}") from None
    try:
        fields = [parse_order(text).field for text in sort]
    except InvalidInput as error:
        raise InvalidInput(f"--sort: {error}") from None
    if condition is not None:
        fields += _fields(condition)
    return [field for field in dict.fromkeys(fields) if field.name == METADATA]


def _fields(condition: Condition) -> Iterator[Field]:
    match condition:
        case Both(parts) | Either(parts):
            for part in parts:
                yield from _fields(part)
        case Not(part):
            yield from _fields(part)
        case Comparison(field):
            yield field


def value_at(version: VersionRecord, keys: tuple[str, ...]) -> tuple[bool, Any]:
    """Whether there is something below these keys of a version's metadata, and what."""
    value: Any = version.metadata
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            return False, None
        value = value[key]
    return True, value


def _print(found: list[VersionRecord], columns: list[Field], *, exact: bool) -> None:
    def cell(version: VersionRecord, field: Field) -> str:
        present, value = value_at(version, field.keys)
        if not present:
            return "-"
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return text if len(text) <= WIDEST_CELL else f"{text[: WIDEST_CELL - 1]}…"

    printing.table(
        (
            "VERSION",
            "TYPE",
            "SIZE",
            "CREATED",
            "ALIASES",
            *(str(field).removeprefix(f"{METADATA}.") for field in columns),
        ),
        [
            (
                version.name,
                version.type,
                printing.size(version.size, exact=exact),
                printing.when(version.created),
                " ".join(version.aliases),
                *(cell(version, field) for field in columns),
            )
            for version in found
        ],
        right=(2,),
    )
