"""``delete``, ``restore``, ``prune`` and ``rename``: what goes, what stays, what comes back, and what would come free."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from artifactfs.cli import printing
from artifactfs.cli.content import note_reused
from artifactfs.cli.context import ADDRESS, NAME, Context, pass_context, read_aliases, read_span
from artifactfs.cli.inspect import as_json
from artifactfs.errors import ArtifactFSError, Conflict, InvalidInput
from artifactfs.model.digest import format_digest
from artifactfs.model.names import Address, check_name
from artifactfs.model.query import parse_condition

if TYPE_CHECKING:
    from artifactfs.model.records import VersionRecord
    from artifactfs.model.retention import RetentionRule, Tombstone
    from artifactfs.pruning import Kept
    from artifactfs.reachability import Freed
    from artifactfs.repository import Repository


def permission_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that permit more than versions without aliases that nobody uses."""
    for option in (
        click.option("--in-use", is_flag=True, help="Also versions that mounts build on, or pin."),
        click.option("--protected", is_flag=True, help="With --delete-aliases: protected ones too."),
        click.option("--delete-aliases", is_flag=True, help="Also versions with aliases, which go with them."),
    ):
        command = option(command)
    return command


def rule_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that are a rule."""
    for option in (
        click.option("--where", metavar="EXPR", default="", help="Only versions for which it holds, as in find."),
        click.option("--keep-aliased", is_flag=True, help="Keep versions with aliases: alone, that all others go."),
        click.option("--older-than", metavar="SPAN", help="Only versions older than 12h, 30d, 8w."),
        click.option("--keep-last", metavar="N", type=click.IntRange(min=1), help="Keep the N newest of an artifact."),
    ):
        command = option(command)
    return command


dry_run = click.option("--dry-run", is_flag=True, help="Say what would go, and the bytes that would come free.")


@click.command("delete")
@click.argument("addresses", type=ADDRESS, nargs=-1, required=True, metavar="ADDRESS...")
@click.option("--all-versions", is_flag=True, help="Each ADDRESS is an artifact's name: all of it goes.")
@permission_options
@dry_run
@as_json
@pass_context
def delete_command(
    context: Context,
    *,
    addresses: tuple[Address, ...],
    all_versions: bool,
    delete_aliases: bool,
    protected: bool,
    in_use: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Delete versions, of each artifact all or none; prints name:vN of each.

    Refused while an alias other than `latest` names one, or a mount builds on it. Numbers are never given again, and `show` and
    `lineage` go on to tell what a version was. Its bytes come free when garbage is collected, unless other versions share them.
    Of more than ten versions of an artifact one line tells.

    \b
    Example:
      artifactfs delete bike-dataset:v3 bike-dataset:v4 --dry-run
      artifactfs delete bike-dataset --all-versions
    """
    from artifactfs.model.retention import Permissions
    from artifactfs.pruning import examine

    if len({address.project for address in addresses}) > 1:
        raise InvalidInput("the versions are of several projects; delete those of each by a command of its own")
    permissions = Permissions(aliases=delete_aliases, protected=protected, in_use=in_use)
    with context.open_for(addresses[0]) as repository:
        meant = _meant(repository, addresses, all_versions=all_versions)
        everything = [version for versions in meant.values() for version in versions]
        if dry_run:
            found = examine(repository.registry, everything, permissions=permissions)
            # As the deletion itself: of an artifact all go or none.
            whole = {version.artifact for version in everything} - {each.version.artifact for each in found.kept}
            gone = [version for version in found.gone if version.artifact in whole]
            _show(gone, found.kept, _freed(repository, gone), as_json=as_json, dry_run=True)
            for name in meant:
                if name not in whole and not as_json:
                    printing.note(
                        f"nothing of {name} would be deleted: all {len(meant[name]):,} versions go, or none"
                        if len(meant[name]) > 1
                        else f"nothing of {name} would be deleted"
                    )
            return
        retention = repository.registry.retention
        for name, versions in meant.items():
            retention.delete(name, [version.number for version in versions], permissions=permissions)
            if not as_json:
                _print_gone("deleted", versions, sizes=False)
    if as_json:
        _show(everything, [], None, as_json=True, dry_run=False)
    elif len(everything) == 1:
        printing.note(f"until garbage is collected this brings it back: artifactfs restore {everything[0].name}")
    else:
        printing.note("until garbage is collected this brings one back: artifactfs restore NAME:vN")


def _meant(
    repository: Repository, addresses: Sequence[Address], *, all_versions: bool
) -> dict[str, list[VersionRecord]]:
    """The versions that addresses name, each once, by artifact."""
    found: dict[str, dict[int, VersionRecord]] = {}
    for address in addresses:
        whole = address.selector is None and address.digest is None
        if address.path:
            raise InvalidInput(f"{address} names a path, and versions never change; give a version: {address.name}:vN")
        if all_versions and not whole:
            raise InvalidInput(
                f"--all-versions takes names of artifacts, and {address} names one version; leave out one"
            )
        if whole and not all_versions:
            raise InvalidInput(
                f"{address} names no version; give {address.name}:vN, or delete all of it with --all-versions"
            )
        version = repository.resolve(address)
        versions = repository.registry.versions(version.artifact) if all_versions else [version]
        found.setdefault(version.artifact, {}).update((each.number, each) for each in versions)
    return {name: [versions[number] for number in sorted(versions)] for name, versions in found.items()}


@click.command("restore")
@click.argument("address", type=ADDRESS)
@click.option("--alias", "aliases", metavar="NAME", multiple=True, help="Alias to move to it, besides latest.")
@click.option("--dry-run", is_flag=True, help="Say whether it can be restored, and its size.")
@pass_context
def restore_command(context: Context, *, address: Address, aliases: tuple[str, ...], dry_run: bool) -> None:
    """Make what a deleted version held the next version of its artifact; prints name:vN of that.

    Description, metadata and the run that made it come back with it, aliases and tags do not; `latest` moves to it. This can be done
    until garbage is collected (artifactfs gc, on a server once a day), and as long as other versions have the same contents.

    \b
    Example:
      artifactfs log bike-dataset --deleted
      artifactfs restore bike-dataset:v3 --alias best
    """
    from artifactfs import restoring
    from artifactfs.sending import CopyStats

    moved = read_aliases(aliases)
    with context.open_for(address) as repository:
        gone = restoring.find(repository, address)
        if dry_run:
            _foresee(repository, gone)
            return
        stats = CopyStats()
        with printing.Meter(f"restore {gone.name}", gone.size) as meter:

            def show(stats: CopyStats) -> None:
                meter.update(stats.bytes_done, files=stats.files)

            restored = restoring.restore(repository, gone, aliases=moved, stats=stats, progress=show)
    version = restored.version
    printing.line(version.name)
    if not restored.created:
        labelled = (version.description, version.metadata) != (gone.description, gone.metadata)
        note_reused(version.name, version.number, restored.latest_before, labelled=labelled)
        return
    printing.note(
        f"{gone.name} came back as {version.name}: {printing.many(version.files, 'file')}, {printing.size(version.size)}; "
        f"{printing.size(stats.bytes_stored)} stored anew"
    )
    if gone.metadata is None:
        printing.note(
            f"without its metadata, which this server does not tell; set it with: artifactfs edit {version.name} --metadata K=V"
        )


def _foresee(repository: Repository, gone: Tombstone) -> None:
    from artifactfs import restoring

    outlook = restoring.foresee(repository, gone)
    if outlook.same is not None:
        printing.line(f"would restore {gone.name} as {outlook.same.name}, which has the same contents")
        return
    printing.line(f"would restore {gone.name}  {printing.size(gone.size)}")
    printing.note(f"{printing.many(gone.files, 'file')}; {printing.size(outlook.missing)} would be stored anew")


@click.command("prune")
@click.argument("names", type=NAME, nargs=-1, metavar="[NAME]...")
@rule_options
@permission_options
@dry_run
@as_json
@pass_context
def prune_command(
    context: Context,
    *,
    names: tuple[str, ...],
    keep_last: int | None,
    older_than: str | None,
    keep_aliased: bool,
    where: str,
    delete_aliases: bool,
    protected: bool,
    in_use: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Delete versions by a rule, of some artifacts or of all; says first what goes and the bytes that come free.

    A version goes when all that is given holds for it. `latest`, versions with aliases, and versions that a mount builds on stay,
    unless it is told otherwise. Without a rule here, the rules that are kept (artifactfs retention) are applied.

    \b
    Example:
      artifactfs prune bike-dataset --keep-last 10 --older-than 30d --dry-run
      artifactfs prune --older-than 8w --where 'tag != "release"'
    """
    from artifactfs.model.retention import Permissions
    from artifactfs.pruning import Kept, carry_out, plan

    for name in names:
        check_name(name)
    rule = read_rule(keep_last=keep_last, older_than=older_than, keep_aliased=keep_aliased, where=where)
    if keep_aliased and delete_aliases:
        raise InvalidInput("--keep-aliased and --delete-aliases exclude each other; give one of them")
    permissions = Permissions(aliases=delete_aliases, protected=protected, in_use=in_use)
    with context.open() as repository:
        registry = repository.registry
        rules = registry.retention.rules() if rule.empty else [rule]
        if not rules:
            raise InvalidInput(
                "prune without a rule would delete everything; give --keep-last, --older-than, --keep-aliased or --where, "
                "or keep a rule: artifactfs retention set"
            )
        present = [repository.present_name(name) for name in names]
        found = plan(registry, rules, present, now=time.time_ns(), permissions=permissions)
        freed = _freed(repository, found.gone)
        if not as_json:
            _show(found.gone, found.kept, freed, as_json=False, dry_run=dry_run)
        gone, kept = list(found.gone), list(found.kept)
        if not dry_run:
            outcomes: list[Tombstone | Kept] = []
            try:
                for outcome in carry_out(registry, found.gone, permissions=permissions):
                    outcomes.append(outcome)  # noqa: PERF402 - those before an error count
            except ArtifactFSError:
                done = sum(not isinstance(outcome, Kept) for outcome in outcomes)
                printing.note(
                    f"deleted {printing.many(done, 'version')}, then stopped: the rest goes when this is run again"
                )
                raise
            late = [outcome for outcome in outcomes if isinstance(outcome, Kept)]
            numbers = {outcome.id for outcome in outcomes if not isinstance(outcome, Kept)}
            gone, kept = [version for version in gone if version.id in numbers], kept + late
            if not as_json:
                for each in late:
                    printing.note(f"kept {each.version.name} after all: {each.reason}")
                printing.note(f"deleted {printing.many(len(gone), 'version')}")
    if as_json:
        _show(gone, kept, freed, as_json=True, dry_run=dry_run)


def read_rule(
    *, keep_last: int | None, older_than: str | None, keep_aliased: bool, where: str, artifact: str = ""
) -> RetentionRule:
    """A rule of the options, which may be empty. Raises InvalidInput."""
    from artifactfs.model.retention import RetentionRule

    seconds = None
    if older_than is not None:
        seconds = read_span(older_than)
        if seconds is None:
            raise InvalidInput(f"not a span of time: {older_than!r}; give --older-than as 30m, 12h, 30d or 8w")
    parse_condition(where)
    return RetentionRule(
        artifact=artifact, keep_last=keep_last, older_than=seconds, keep_aliased=keep_aliased, where=where
    )


def _freed(repository: Repository, gone: Sequence[VersionRecord]) -> Freed:
    """What would come free. Looks at every node of the project."""
    from artifactfs.reachability import Contents, Freed, freed

    if not gone:
        return Freed(0, 0)
    registry = repository.registry
    ids = {version.id for version in gone}
    living = (
        version
        for artifact in registry.artifacts()
        for version in registry.versions(artifact.name)
        if version.id not in ids
    )
    return freed(registry, Contents(repository.reader), gone, living)


def _show(
    gone: Sequence[VersionRecord], kept: Sequence[Kept], freed: Freed | None, *, as_json: bool, dry_run: bool
) -> None:
    if as_json:
        printing.as_json(
            {
                "dry_run": dry_run,
                "versions": [_fields(version) for version in gone],
                "kept": [{"name": each.version.name, "reason": each.reason} for each in kept],
                **({} if freed is None else {"frees": {"bytes": freed.size, "chunks": freed.chunks}}),
            }
        )
        return
    for _, versions in itertools.groupby(gone, key=lambda version: version.artifact):
        _print_gone("would delete" if dry_run else "delete", list(versions), sizes=True)
    for (name, reason), those in _alike(kept).items():
        if len(those) > printing.FEW:
            printing.line(f"keep {_several(name, those)}  {printing.shown(reason)}")
            continue
        for version in those:
            printing.line(f"keep {version.name}  {printing.shown(reason)}")
    if freed is not None:
        will = "would come" if dry_run else "come"
        printing.note(
            f"{printing.many(len(gone), 'version')}{f', {len(kept):,} kept' if kept else ''}; "
            f"{printing.size(freed.size)} {will} free when garbage is collected"
        )


def _print_gone(verb: str, versions: Sequence[VersionRecord], *, sizes: bool) -> None:
    """Versions of one artifact: a line each, of more than a few one line."""
    if len(versions) > printing.FEW:
        size = f"  {printing.size(sum(version.size for version in versions))}" if sizes else ""
        printing.line(f"{verb} {_several(versions[0].artifact, versions)}{size}")
        return
    for version in versions:
        printing.line(f"{verb} {version.name}{f'  {printing.size(version.size)}' if sizes else ''}")


def _several(name: str, versions: Sequence[VersionRecord]) -> str:
    return f"{name}: {len(versions):,} versions ({printing.spans([version.number for version in versions])})"


def _alike(kept: Sequence[Kept]) -> dict[tuple[str, str], list[VersionRecord]]:
    """Versions that stay, by artifact and reason."""
    found: dict[tuple[str, str], list[VersionRecord]] = {}
    for each in kept:
        found.setdefault((each.version.artifact, each.reason), []).append(each.version)
    return found


def _fields(version: VersionRecord) -> dict[str, Any]:
    return {
        "name": version.name,
        "digest": format_digest(version.digest),
        "size": version.size,
        "created": printing.iso(version.created),
        "aliases": list(version.aliases),
    }


@click.command("rename")
@click.argument("old", type=NAME)
@click.argument("new")
@pass_context
def rename_command(context: Context, old: str, new: str) -> None:
    """Give an artifact another name. Versions, numbers, aliases and lineage stay with it.

    Mounts show it by the new name within two seconds. Addresses by the old name lead to it until a rename gives the name to another
    artifact; nothing is put or committed under it meanwhile.

    \b
    Example:
      artifactfs rename bike-data bike-dataset
    """
    check_name(old)
    check_name(new)
    if old == new:
        raise Conflict(f"{old} has this name already")
    with context.open() as repository:
        repository.registry.retention.rename(old, new)
    printing.line(new)
