"""``retention`` and ``quota``: rules that are kept, and how much there may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from artifactfs.cli import printing
from artifactfs.cli.context import NAME, Context, pass_context
from artifactfs.cli.inspect import as_json
from artifactfs.cli.removal import read_rule, rule_options
from artifactfs.errors import InvalidInput
from artifactfs.model.names import check_name

if TYPE_CHECKING:
    from artifactfs.model.retention import RetentionRule

_ANY = "any"


@click.group("retention", no_args_is_help=False)
def retention_command() -> None:
    """Rules that say which versions are deleted by themselves: of one artifact, or of all that have none of their own.

    A server applies them each --upkeep-interval, `prune` without options applies them at once. What has an alias or is in use stays.

    \b
    Example:
      artifactfs retention set --keep-last 20 --older-than 30d
      artifactfs retention set bike-model --keep-aliased --older-than 8w
      artifactfs retention show
    """


@retention_command.command("set")
@click.argument("name", type=NAME, required=False, default="")
@rule_options
@pass_context
def retention_set(
    context: Context, *, name: str, keep_last: int | None, older_than: str | None, keep_aliased: bool, where: str
) -> None:
    """Keep a rule for an artifact, or without NAME for all; it replaces the one before. On a server for admins.

    \b
    Example:
      artifactfs retention set bike-dataset --keep-last 10 --older-than 30d
    """
    rule = read_rule(
        keep_last=keep_last,
        older_than=older_than,
        keep_aliased=keep_aliased,
        where=where,
        artifact=name and check_name(name),
    )
    if rule.empty:
        raise click.UsageError("a rule says something: give --keep-last, --older-than, --keep-aliased or --where")
    with context.open(create=True) as repository:
        kept = repository.registry.retention.set_rule(
            msgspec.structs.replace(rule, artifact=repository.present_name(rule.artifact)) if rule.artifact else rule
        )
    printing.line(f"{kept.artifact or '(all)'}: delete {_words(kept)}")


@retention_command.command("show")
@as_json
@pass_context
def retention_show(context: Context, *, as_json: bool) -> None:
    """List the rules that are kept.

    \b
    Example:
      artifactfs retention show
    """
    with context.open() as repository:
        rules = repository.registry.retention.rules()
    if as_json:
        printing.as_json(
            [
                {
                    "artifact": rule.artifact or None,
                    "keep_last": rule.keep_last,
                    "older_than_seconds": rule.older_than,
                    "keep_aliased": rule.keep_aliased,
                    "where": rule.where or None,
                    "changed": printing.iso(rule.changed),
                    "changed_by": rule.changed_by,
                }
                for rule in rules
            ]
        )
    elif rules:
        rows = [
            (rule.artifact or "(all)", f"delete {_words(rule)}", printing.when(rule.changed), rule.changed_by)
            for rule in rules
        ]
        printing.table(("ARTIFACT", "RULE", "SET", "BY"), rows)
    else:
        printing.note(
            "no rules: nothing is deleted by itself; `artifactfs retention set --keep-last 20` would keep one"
        )


@retention_command.command("remove")
@click.argument("name", type=NAME, required=False, default="")
@pass_context
def retention_remove(context: Context, *, name: str) -> None:
    """Remove the rule of an artifact, or without NAME the one of all. On a server for admins.

    \b
    Example:
      artifactfs retention remove bike-dataset
    """
    with context.open() as repository:
        repository.registry.retention.remove_rule(name and check_name(name))


def _words(rule: RetentionRule) -> str:
    """What a rule deletes."""
    parts = []
    if rule.older_than is not None:
        parts.append(f"older than {_span(rule.older_than)}")
    if rule.keep_last is not None:
        parts.append("not the last" if rule.keep_last == 1 else f"not among the last {rule.keep_last:,}")
    if rule.where:
        parts.append(f"where {rule.where}")
    return ", ".join(["versions without an alias", *parts])


def _span(seconds: int) -> str:
    """Seconds as options give them: ``30d``, ``12h``, ``90m``."""
    for unit, length in (("w", 7 * 86_400), ("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds % length == 0:
            return f"{seconds // length}{unit}"
    return f"{seconds} s"


@click.group("quota", no_args_is_help=False)
def quota_command() -> None:
    """How much the project may take. What would be more is refused, with the numbers.

    \b
    Example:
      artifactfs quota set 500GB
      artifactfs quota show
    """


@quota_command.command("set")
@click.argument("stored", required=False, metavar="SIZE")
@click.option("--logical", metavar="SIZE", help="Bytes of the files of all versions, as if each were stored alone.")
@pass_context
def quota_set(context: Context, *, stored: str | None, logical: str | None) -> None:
    """Set how many bytes the project may store, each content once and compressed: 500GB, 2TiB, or any. On a server for admins.

    What is there already stays, also when it is more. Bytes count until garbage is collected.

    \b
    Example:
      artifactfs quota set 500GB --logical 20TB
      artifactfs quota set any
    """
    if stored is None and logical is None:
        raise click.UsageError("nothing to set: give SIZE or --logical")
    bounds = [None if text in {None, _ANY} else _bytes(text) for text in (stored, logical)]
    with context.open(create=True) as repository:
        retention = repository.registry.retention
        present = retention.usage()
        retention.set_quota(
            stored=present.quota_stored if stored is None else bounds[0],
            logical=present.quota_logical if logical is None else bounds[1],
        )


@quota_command.command("show")
@as_json
@pass_context
def quota_show(context: Context, *, as_json: bool) -> None:
    """Say what the project takes and may take: stored, and as if each version were stored alone.

    \b
    Example:
      artifactfs quota show
    """
    with context.open() as repository:
        found = repository.registry.retention.usage()
    if as_json:
        printing.as_json(
            {
                "stored": found.stored,
                "logical": found.logical,
                "artifacts": found.artifacts,
                "versions": found.versions,
                "quota_stored": found.quota_stored,
                "quota_logical": found.quota_logical,
            }
        )
        return
    rows = [
        (what, printing.size(used), _ANY if quota is None else printing.size(quota))
        for what, used, quota in (
            ("stored", found.stored, found.quota_stored),
            ("logical", found.logical, found.quota_logical),
        )
    ]
    printing.table(("BYTES", "USED", "QUOTA"), rows, right=(1, 2))


def _bytes(text: str | None) -> int:
    from artifactfs.config import parse_size

    try:
        return parse_size(text or "")
    except InvalidInput as error:
        raise InvalidInput(f"not a quota: {text!r}; give 500GB, 2TiB, or any") from error
