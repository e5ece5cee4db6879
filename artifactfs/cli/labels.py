"""``alias`` and ``edit``: what is said about a version and may change."""

from __future__ import annotations

import click

from artifactfs.cli import printing
from artifactfs.cli.context import ADDRESS, NAME, Context, pass_context, read_aliases, read_metadata
from artifactfs.errors import InvalidInput, NotFound
from artifactfs.model.names import Address, check_metadata, check_name


@click.group("alias", no_args_is_help=False)
def alias_command() -> None:
    """Point aliases at versions, or remove them.

    \b
    Example:
      artifactfs alias add bike-dataset:v3 best-ap50
      artifactfs alias remove bike-dataset best-ap50
    """


@alias_command.command("add")
@click.argument("address", type=ADDRESS)
@click.argument("aliases", nargs=-1, required=True, metavar="ALIAS...")
@pass_context
def alias_add(context: Context, address: Address, aliases: tuple[str, ...]) -> None:
    """Point aliases at a version; prints name:vN. An alias that names another version moves.

    \b
    Example:
      artifactfs alias add bike-dataset:v3 best-ap50 production
    """
    moved = read_aliases(aliases)
    _refuse_path(address)
    with context.open_for(address) as repository:
        version = repository.resolve(address)
        printing.line(repository.registry.move_aliases(version.artifact, version.number, moved).name)


@alias_command.command("remove")
@click.argument("name", type=NAME)
@click.argument("aliases", nargs=-1, required=True, metavar="ALIAS...")
@pass_context
def alias_remove(context: Context, name: str, aliases: tuple[str, ...]) -> None:
    """Remove aliases of an artifact; its versions stay. `latest` always stays.

    \b
    Example:
      artifactfs alias remove bike-dataset best-ap50
    """
    gone = read_aliases(aliases)
    check_name(name)
    with context.open() as repository:
        repository.registry.remove_aliases(name, gone)


@click.command("edit")
@click.argument("address", type=ADDRESS)
@click.option("--description", metavar="TEXT", help="The new description; empty text removes it.")
@click.option("--metadata", "pairs", metavar="K=V", multiple=True, help="Set a key; V is JSON, or else text.")
@click.option("--remove-metadata", "removed", metavar="K", multiple=True, help="Remove a key.")
@pass_context
def edit_command(
    context: Context, address: Address, description: str | None, pairs: tuple[str, ...], removed: tuple[str, ...]
) -> None:
    """Change a version's description and metadata; prints name:vN. Contents and digest stay.

    \b
    Example:
      artifactfs edit bike-dataset:v3 --description "cleaned" --metadata rows=17379
    """
    changes = read_metadata(pairs)
    if description is None and changes is None and not removed:
        raise click.UsageError("nothing to change: give --description, --metadata or --remove-metadata")
    _refuse_path(address)
    with context.open_for(address) as repository:
        version = repository.resolve(address)
        metadata = None
        if changes is not None or removed:
            absent = [key for key in removed if key not in version.metadata]
            if absent:
                raise NotFound(
                    f"{version.name} has no metadata {', '.join(absent)}; see: artifactfs show {version.name}"
                )
            kept = {key: value for key, value in version.metadata.items() if key not in removed}
            metadata = check_metadata({**kept, **(changes or {})})
        edited = repository.registry.edit(version.artifact, version.number, description=description, metadata=metadata)
    printing.line(edited.name)


def _refuse_path(address: Address) -> None:
    if address.path:
        raise InvalidInput(f"{address} names a path; give a version, for example {address.name}:latest")
