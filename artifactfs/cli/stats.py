"""``stats``: what takes the space."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from artifactfs.cli import printing
from artifactfs.cli.context import NAME, Context, pass_context
from artifactfs.cli.inspect import as_json, exact_bytes
from artifactfs.cli.plotting import check_picture, print_chart, write_picture
from artifactfs.errors import InvalidInput, NotFound
from artifactfs.model.names import Address, check_name

if TYPE_CHECKING:
    from artifactfs.model.retention import Usage
    from artifactfs.reachability import Space, VersionSpace
    from artifactfs.repository import Repository

_TITLE: Final = "stored MiB, by version in the order of their making"
_MIB: Final = 1 << 20


@click.command("stats")
@click.argument("name", type=NAME, required=False)
@click.option("--plot", is_flag=True, help="Draw how the stored bytes grew with the versions.")
@click.option("--output", metavar="FILE", type=click.Path(path_type=Path), help="With --plot: a picture, .png or .svg.")
@as_json
@exact_bytes
@pass_context
def stats_command(
    context: Context, name: str | None, *, plot: bool, output: Path | None, as_json: bool, exact: bool
) -> None:
    """Say what takes the space: by artifact, or with NAME by version.

    OWN is what would come free if only this went: stored bytes that no other artifact (or version) holds. ADDED is what no older
    version had. LOGICAL are the bytes of the files, each version for itself. Looks at every directory of every version.

    \b
    Example:
      artifactfs stats
      artifactfs stats bike-dataset --plot
    """
    from artifactfs.reachability import Contents, space

    if name is not None:
        check_name(name)
    if output is not None:
        if not plot:
            raise InvalidInput("--output goes with --plot; give both")
        check_picture(output)
    if plot and as_json:
        raise InvalidInput("--plot and --json are two formats: give one of them")
    with context.open() as repository:
        registry = repository.registry
        if name is not None:
            name = repository.resolve(Address(None, name)).artifact
        usage = registry.retention.usage()
        everything = [one for record in registry.artifacts() for one in registry.versions(record.name)]
        found = space(registry, Contents(repository.reader), everything)
        if plot:
            _plot(repository, found, name, output)
            return
    versions = [each for each in found.versions if each.version.artifact == name]
    if as_json:
        printing.as_json(
            {
                "stored": usage.stored,
                "held": found.held,
                "unheld": max(0, usage.stored - found.held),
                "shared": found.shared,
                "logical": usage.logical,
                "quota_stored": usage.quota_stored,
                "quota_logical": usage.quota_logical,
                "artifacts": [
                    {"name": each.artifact, "versions": each.versions, "logical": each.logical, "own": each.own}
                    for each in found.artifacts
                    if name in {None, each.artifact}
                ],
                "versions": [
                    {
                        "name": each.version.name,
                        "created": printing.iso(each.version.created),
                        "logical": each.version.size,
                        "own": each.own,
                        "added": each.added,
                    }
                    for each in (versions if name is not None else found.versions)
                ],
            }
        )
    elif name is not None:
        _print_versions(versions, exact=exact)
    else:
        _print_artifacts(found, usage, exact=exact)


def _print_versions(versions: list[VersionSpace], *, exact: bool) -> None:
    printing.table(
        ("VERSION", "LOGICAL", "OWN", "ADDED", "CREATED", "ALIASES"),
        [
            (
                f"v{each.version.number}",
                printing.size(each.version.size, exact=exact),
                printing.size(each.own, exact=exact),
                printing.size(each.added, exact=exact),
                printing.when(each.version.created),
                " ".join(each.version.aliases),
            )
            for each in versions
        ],
        right=(1, 2, 3),
    )


def _print_artifacts(found: Space, usage: Usage, *, exact: bool) -> None:
    def size(count: int) -> str:
        return printing.size(count, exact=exact)

    rows = [
        (each.artifact, f"{each.versions:,}", size(each.logical), size(each.own))
        for each in sorted(found.artifacts, key=lambda each: (-each.own, each.artifact))
    ]
    rows.append(("(held by several)", "", "", size(found.shared)))
    rows.append(("(held by none)", "", "", size(max(0, usage.stored - found.held))))
    rows.append(("(all)", f"{usage.versions:,}", size(usage.logical), size(usage.stored)))
    printing.table(("ARTIFACT", "VERSIONS", "LOGICAL", "OWN"), rows, right=(1, 2, 3))
    for what, used, quota in (
        ("stored", usage.stored, usage.quota_stored),
        ("logical", usage.logical, usage.quota_logical),
    ):
        if quota is not None:
            printing.note(f"quota, {what}: {size(used)} of {size(quota)}")


def _plot(repository: Repository, found: Space, name: str | None, output: Path | None) -> None:
    """Stored bytes over versions: each adds what no older one of the project had."""
    chosen = [each for each in found.versions if name in {None, each.version.artifact}]
    if not chosen:
        raise NotFound("there is no version yet, so there is nothing to draw; `artifactfs put` makes one")
    sums = itertools.accumulate(each.added for each in chosen)
    points = [(number, total / _MIB) for number, total in enumerate(sums)]
    title = name or repository.project

    def label(number: int) -> str:
        version = chosen[number].version
        return version.name if name is None else f"v{version.number}"

    if output is None:
        print_chart(f"{title}  {_TITLE}", points, label=label)
    else:
        write_picture(output, title, _TITLE, points, label=label)
