"""``token``: who may use a server, and how much."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from artifactfs.cli import printing
from artifactfs.cli.context import Context, pass_context, read_span, registry_option
from artifactfs.errors import InvalidInput, translate_os
from artifactfs.model.access import ALL_PROJECTS, ROLES

if TYPE_CHECKING:
    from artifactfs.model.access import TokenRecord
    from artifactfs.registry.contract import Tokens

NEVER: Final = "never"
DAYS: Final = "30d"


@click.group("token", no_args_is_help=False)
def token_command() -> None:
    """Who may use the repository through a server, and how much.

    Works in the repository's directory, in a server's database (--registry), or through a server with a token of the role admin. Once
    there is a token, the server lets nobody in without one.

    \b
    Example:
      artifactfs token create --role read --project bikes --name alice --output alice.token
      artifactfs token list
      artifactfs token revoke 3kq0vd2m
    """


@token_command.command("create")
@click.option(
    "--role", required=True, type=click.Choice(ROLES), help="What it may do; each may do what those before may."
)
@click.option("--project", metavar="NAME", help="Project that it is of; else the one that commands work on.")
@click.option("--all-projects", is_flag=True, help="It is of all projects, also of those to come.")
@click.option("--name", default="", metavar="TEXT", help="For whom or what it is.")
@click.option("--expires", default=DAYS, show_default=True, metavar="SPAN", help="30m, 12h, 30d, 8w, or never.")
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="FILE", help="New file for it, which you alone can read."
)
@registry_option
@pass_context
def token_create(
    context: Context,
    *,
    registry: str | None,
    role: str,
    project: str | None,
    all_projects: bool,
    name: str,
    expires: str,
    output: Path | None,
) -> None:
    """Make a token and print it, this once: of what proves it nothing is kept.

    \b
    Example:
      artifactfs token create --role write --project bikes --name "nightly build" --expires 90d --output ci.token
    """
    if project and all_projects:
        raise InvalidInput("--project and --all-projects exclude each other; give one of them")
    seconds = parse_span(expires)
    # First: a token whose file cannot be written would be there without anybody who has it.
    descriptor = _new_file(output) if output is not None else None
    made = False
    try:
        with _tokens(context, registry, create=True, project=project) as tokens:
            of = ALL_PROJECTS if all_projects else project or context.settings.project
            new = tokens.create(project=of, role=role, name=name, seconds=seconds)
        if descriptor is not None:
            os.write(descriptor, f"{new.token}\n".encode())
        made = True
    finally:
        if descriptor is not None:
            os.close(descriptor)
        if output is not None and descriptor is not None and not made:
            output.unlink(missing_ok=True)
    if output is None:
        printing.line(new.token)
    else:
        printing.note(f"{output}: {_words(new.record)}")


@token_command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@registry_option
@pass_context
def token_list(context: Context, *, as_json: bool, registry: str | None) -> None:
    """List tokens, ended ones too. What proves them is not kept, so it is not shown.

    \b
    Example:
      artifactfs token list
    """
    import msgspec

    with _tokens(context, registry) as tokens:
        found = tokens.records()
    if as_json:
        printing.as_json(msgspec.to_builtins(found))
        return
    now = _now()
    rows = [
        (record.id, record.role, record.project or "(all)", _day(record.created), _state(record, now), record.name)
        for record in found
    ]
    printing.table(("ID", "ROLE", "PROJECT", "CREATED", "UNTIL", "NAME"), rows)


@token_command.command("revoke")
@click.argument("token", metavar="ID")
@registry_option
@pass_context
def token_revoke(context: Context, *, token: str, registry: str | None) -> None:
    """Revoke a token. Servers heed it within 5 seconds.

    \b
    Example:
      artifactfs token revoke 3kq0vd2m
    """
    if token.startswith("afs_"):
        raise InvalidInput(
            "revoke takes the id of a token, not the token, which others could see here; see: token list"
        )
    with _tokens(context, registry) as tokens:
        record = tokens.revoke(token)
    printing.line(f"revoked {record.id} ({_words(record)})")


@contextmanager
def _tokens(
    context: Context, registry: str | None, *, create: bool = False, project: str | None = None
) -> Iterator[Tokens]:
    """The tokens of a database, or of the repository."""
    if registry is None:
        with context.open(create=create, project=project) as repository:
            yield repository.registry.tokens
        return
    from artifactfs.registry.opening import check_database, open_registry

    with closing(open_registry(check_database(registry), create=create)) as opened:
        yield opened.tokens


def parse_span(text: str) -> float | None:
    """Seconds of ``30m``, ``12h``, ``30d``, ``8w``; None for ``never``. Raises InvalidInput."""
    if text == NEVER:
        return None
    seconds = read_span(text)
    if seconds is None:
        raise InvalidInput(f"not a time to live: {text!r}; give --expires as 30m, 12h, 30d, 8w, or never")
    return float(seconds)


def told(record: TokenRecord) -> str:
    """What a token is, without its name, until when."""
    until = "never expires" if record.expires is None else f"until {_day(record.expires)}"
    return (
        f"{record.id}: role {record.role}, {f'project {record.project}' if record.project else 'all projects'}, {until}"
    )


def _words(record: TokenRecord) -> str:
    where = f"project {record.project}" if record.project else "all projects"
    return f"token {record.id}, role {record.role}, {where}" + (
        f", {printing.shown(record.name)}" if record.name else ""
    )


def _new_file(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise InvalidInput(f"{path} is there already; give --output a new file") from error
    except OSError as error:
        raise translate_os(error, f"cannot make {path}") from error


def _state(record: TokenRecord, now: int) -> str:
    if record.revoked is not None:
        return "revoked"
    if record.expires is None:
        return NEVER
    return f"{'expired ' if record.expires <= now else ''}{_day(record.expires)}"


def _day(instant: int) -> str:
    return datetime.fromtimestamp(instant / 1e9, UTC).strftime("%Y-%m-%d")


def _now() -> int:
    return int(datetime.now(UTC).timestamp() * 1e9)
