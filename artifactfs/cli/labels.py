"""``alias``, ``tag`` and ``edit``: what is said about a version and may change."""

from __future__ import annotations

import click

from artifactfs.cli import printing
from artifactfs.cli.context import ADDRESS, NAME, Context, pass_context, read_aliases, read_metadata
from artifactfs.cli.inspect import as_json
from artifactfs.errors import InvalidInput, NotFound
from artifactfs.model.names import Address, check_metadata, check_name, check_tag


@click.group("alias", no_args_is_help=False)
def alias_command() -> None:
    """Point aliases at versions, or remove them; say which are protected.

    \b
    Example:
      artifactfs alias add bike-dataset:v3 best-ap50
      artifactfs alias remove bike-dataset best-ap50
      artifactfs alias protect production
    """


_protected = click.option("--protected", is_flag=True, help="Also protected ones; on a server for admins.")


@alias_command.command("add")
@click.argument("address", type=ADDRESS)
@click.argument("aliases", nargs=-1, required=True, metavar="ALIAS...")
@_protected
@pass_context
def alias_add(context: Context, address: Address, aliases: tuple[str, ...], *, protected: bool) -> None:
    """Point aliases at a version; prints name:vN. An alias that names another version moves.

    \b
    Example:
      artifactfs alias add bike-dataset:v3 best-ap50 production
    """
    moved = read_aliases(aliases)
    _refuse_path(address)
    with context.open_for(address) as repository:
        version = repository.resolve(address)
        registry = repository.registry
        printing.line(registry.move_aliases(version.artifact, version.number, moved, protected=protected).name)


@alias_command.command("remove")
@click.argument("name", type=NAME)
@click.argument("aliases", nargs=-1, required=True, metavar="ALIAS...")
@_protected
@pass_context
def alias_remove(context: Context, name: str, aliases: tuple[str, ...], *, protected: bool) -> None:
    """Remove aliases of an artifact; its versions stay. `latest` always stays.

    \b
    Example:
      artifactfs alias remove bike-dataset best-ap50
    """
    gone = read_aliases(aliases)
    check_name(name)
    with context.open() as repository:
        repository.registry.remove_aliases(name, gone, protected=protected)


@alias_command.command("protect")
@click.argument("alias")
@click.option("--artifact", metavar="NAME", type=NAME, default="", help="Of this artifact alone, instead of all.")
@pass_context
def alias_protect(context: Context, alias: str, *, artifact: str) -> None:
    """Let an alias be moved and removed on purpose only: with --protected, and on a server by an admin.

    A version that it names is deleted with --delete-aliases --protected only.

    \b
    Example:
      artifactfs alias protect production
      artifactfs alias protect best --artifact bike-model
    """
    (checked,) = read_aliases((alias,))
    with context.open(create=True) as repository:
        repository.registry.retention.protect(checked, artifact and repository.present_name(check_name(artifact)))


@alias_command.command("unprotect")
@click.argument("alias")
@click.option("--artifact", metavar="NAME", type=NAME, default="", help="As it was protected: of this artifact alone.")
@pass_context
def alias_unprotect(context: Context, alias: str, *, artifact: str) -> None:
    """End the protection of an alias.

    \b
    Example:
      artifactfs alias unprotect production
    """
    (checked,) = read_aliases((alias,))
    with context.open() as repository:
        repository.registry.retention.unprotect(checked, artifact and repository.present_name(check_name(artifact)))


@alias_command.command("protected")
@as_json
@pass_context
def alias_protected(context: Context, *, as_json: bool) -> None:
    """List protected aliases, and of which artifact.

    \b
    Example:
      artifactfs alias protected
    """
    with context.open() as repository:
        found = repository.registry.retention.protections()
    if as_json:
        printing.as_json([{"alias": each.alias, "artifact": each.artifact or None} for each in found])
    elif found:
        rows = [(each.alias, each.artifact or "(all)") for each in found]
        printing.table(("ALIAS", "ARTIFACT"), rows)
    else:
        printing.note("no alias is protected; `artifactfs alias protect production` would protect one")


@click.group("tag", no_args_is_help=False)
def tag_command() -> None:
    """Add words to versions that `find --tag` looks for, or remove them. Any number of versions may have the same tag.

    \b
    Example:
      artifactfs tag add bike-dataset:v3 cleaned "two sensors"
      artifactfs tag remove bike-dataset:v3 cleaned
    """


@tag_command.command("add")
@click.argument("address", type=ADDRESS)
@click.argument("tags", nargs=-1, required=True, metavar="TAG...")
@pass_context
def tag_add(context: Context, address: Address, tags: tuple[str, ...]) -> None:
    """Add tags to a version; prints name:vN.

    \b
    Example:
      artifactfs tag add bike-dataset:v3 cleaned
    """
    _change_tags(context, address, add=tags)


@tag_command.command("remove")
@click.argument("address", type=ADDRESS)
@click.argument("tags", nargs=-1, required=True, metavar="TAG...")
@pass_context
def tag_remove(context: Context, address: Address, tags: tuple[str, ...]) -> None:
    """Remove tags of a version; prints name:vN.

    \b
    Example:
      artifactfs tag remove bike-dataset:v3 cleaned
    """
    _change_tags(context, address, remove=tags)


def _change_tags(
    context: Context, address: Address, *, add: tuple[str, ...] = (), remove: tuple[str, ...] = ()
) -> None:
    for tag in (*add, *remove):
        check_tag(tag)
    _refuse_path(address)
    with context.open_for(address) as repository:
        version = repository.resolve(address)
        edited = repository.registry.edit(version.artifact, version.number, add_tags=add, remove_tags=remove)
    printing.line(edited.name)


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
