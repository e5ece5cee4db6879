"""``verify``: whether all is as it was stored, which files a damage hits, and repair."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from artifactfs.cli import printing
from artifactfs.cli.context import ADDRESS, Context
from artifactfs.cli.damages import damage_lines, shortened
from artifactfs.errors import Integrity, InvalidInput
from artifactfs.model.names import Address

if TYPE_CHECKING:
    from artifactfs.checkup import Checked
    from artifactfs.cli.context import Opening
    from artifactfs.health.pace import Pace
    from artifactfs.model.records import VersionRecord
    from artifactfs.repository import Repository
    from artifactfs.upkeep import Damage, ReferencesReport, VerifyReport


COMMAND: Final = "artifactfs verify"


@click.command("verify")
@click.argument("address", type=ADDRESS, required=False)
@click.option(
    "--quick", is_flag=True, help="Compare registry, packs' sizes, tables and the chunk index; read no content."
)
@click.option("--resume", is_flag=True, help="Go on with a verify of everything that was interrupted.")
@click.option("--rate", metavar="SIZE", help="Read at most so many bytes a second, as 200MB.")
@click.option("--repair", is_flag=True, help="Mend what is damaged from whatever else holds the bytes.")
@click.option(
    "--from",
    "sources",
    metavar="REPOSITORY",
    multiple=True,
    help="With --repair: take lost bytes from here too: a directory, a server, or a restored database.",
)
@click.option("--references", is_flag=True, help="Ask the sources of references, instead of reading what is stored.")
@click.option(
    "--registry",
    metavar="URL",
    envvar="ARTIFACTFS_REGISTRY",
    show_envvar=True,
    help="Verify, or repair, this PostgreSQL database and the packs that it names, without a server.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def verify_command(
    ctx: click.Context,
    *,
    address: Address | None,
    quick: bool,
    resume: bool,
    rate: str | None,
    repair: bool,
    sources: tuple[str, ...],
    references: bool,
    registry: str | None,
    as_json: bool,
) -> None:
    """Read everything and check it; names each damaged file. Without ADDRESS, every version, every pack and the registry.

    With --quick no content is read. With --repair what is damaged is mended: sound chunks are moved out of damaged packs, the chunk
    index is corrected from packs, and lost chunks are taken from other packs, the cache, the repositories of --from and the sources of
    references; what cannot be had stays listed. Of a server's repository versions are read as any client reads them; --quick,
    --resume, --rate and --repair are for the machine that has the directory, or for who has the database (--registry) and the store:
    servers may go on meanwhile.

    With --references the source of each reference is asked whether it still has what was recorded: of one that tells size and etag or
    version nothing is downloaded.

    Exit status 1 when something is damaged, or a source has changed or cannot be had.

    \b
    Example:
      artifactfs verify
      artifactfs verify --quick
      artifactfs verify bike-dataset:v0
      artifactfs verify --rate 200MB --resume
      artifactfs verify --repair --from /backup/artifacts
      artifactfs verify --references bike-dataset:latest
      artifactfs verify --registry postgresql://artifactfs@db.example.com/artifactfs
      artifactfs verify --registry postgresql://artifactfs@db.example.com/artifactfs --repair
    """
    context = ctx.ensure_object(Context)
    if address is not None and address.path:
        raise InvalidInput(f"{address} names a path; verify checks versions: {address.name}:latest")
    _check_options(address, quick=quick, resume=resume, repair=repair, references=references, rate=rate)
    if sources and not repair:
        raise InvalidInput("--from says where --repair may take lost bytes from; give --repair too")
    limit = _rate(rate)
    if registry is not None:
        if references:
            raise InvalidInput(
                "--references is not for a database (--registry); leave it out, or leave out --registry and ask a server"
            )
        project = address.project if address is not None else None
        with context.in_database(registry, project) as opened:
            if repair:
                sound = _repair(context, opened, [], sources, _pace(limit), as_json=as_json)
            else:
                with opened() as repository:
                    versions = None if address is None else _chosen(repository, address)
                    given = ctx.get_parameter_source("registry") is ParameterSource.COMMANDLINE
                    sound = _at_hand(
                        repository,
                        versions,
                        _pace(limit),
                        quick=quick,
                        resume=resume,
                        as_json=as_json,
                        command=f"artifactfs verify --registry {shlex.quote(registry)}" if given else COMMAND,
                    )
        ctx.exit(0 if sound else 1)
    if repair:
        rescued = _rescued(context)
        ctx.exit(0 if _repair(context, context.open, rescued, sources, _pace(limit), as_json=as_json) else 1)
    with context.open(project=address.project if address is not None else None) as repository:
        if references:
            sound = not _verify_references(repository, _chosen(repository, address), as_json=as_json)
        elif _is_server(repository):
            if quick or resume or limit:
                raise InvalidInput(
                    f"{repository.location} is a server's: --quick, --resume and --rate are for its machine, with the directory "
                    "that it serves: artifactfs --repository DIR verify"
                )
            sound = not _through_client(
                repository, _chosen(repository, address), registry=address is None, as_json=as_json
            )
        else:
            versions = None if address is None else _chosen(repository, address)
            sound = _at_hand(repository, versions, _pace(limit), quick=quick, resume=resume, as_json=as_json)
    ctx.exit(0 if sound else 1)


def _check_options(
    address: Address | None, *, quick: bool, resume: bool, repair: bool, references: bool, rate: str | None
) -> None:
    modes = [word for word, given in (("--quick", quick), ("--repair", repair), ("--references", references)) if given]
    if len(modes) > 1:
        raise InvalidInput(f"{modes[0]} and {modes[1]} exclude each other; give one of them")
    whole = [word for word, given in (("--quick", quick), ("--repair", repair), ("--resume", resume)) if given]
    if address is not None and whole:
        raise InvalidInput(f"{whole[0]} is about the whole repository, not {address}; leave the address out")
    if resume and modes:
        raise InvalidInput(f"--resume goes on with reading everything; leave {modes[0]} out")
    if references and rate:
        raise InvalidInput("--rate bounds the reading of what is stored; leave it out with --references")


def _rate(text: str | None) -> int:
    from artifactfs.config import parse_size

    if text is None:
        return 0
    rate = parse_size(text)
    if rate < 1:
        raise InvalidInput(
            "--rate is the bytes that are read a second, for example 200MB; without it, all that the disk gives"
        )
    return rate


def _pace(rate: int) -> Pace:
    from artifactfs.health.pace import Pace

    return Pace(rate)


def _is_server(repository: Repository) -> bool:
    from artifactfs.repository import is_url

    return is_url(repository.location)


def _at_hand(
    repository: Repository,
    versions: list[VersionRecord] | None,
    pace: Pace,
    *,
    quick: bool,
    resume: bool,
    as_json: bool,
    command: str = COMMAND,
) -> bool:
    """Verify what is at hand, and say whether it is sound. ``command``: how it was asked for."""
    from artifactfs.checkup import check_versions, check_whole

    total = _bytes_of_packs(repository) if versions is None and not quick else None
    with printing.Meter("verify", total) as meter:

        def show(checked: Checked) -> None:
            meter.update(checked.stored, files=checked.files)

        try:
            if versions is None:
                checked = check_whole(repository, content=not quick, resume=resume, pace=pace, progress=show)
            else:
                checked = check_versions(repository, versions, pace=pace, progress=show)
        except KeyboardInterrupt:
            if versions is None and not quick:
                printing.note(f"interrupted; what was read need not be read again: {command} --resume")
            raise
    if as_json:
        printing.as_json(_fields(checked))
    else:
        _print_checked(checked)
        what = "looked at" if quick else "checked"
        amount = "" if quick else f", {printing.size(checked.bytes)}"
        files = f", {printing.many(checked.files, 'file')}" if checked.files or not quick else ""
        packs = f", {printing.many(checked.packs, 'pack')}" if versions is None else ""
        printing.note(f"{what} {printing.many(checked.versions, 'version')}{files}{packs}{amount}: {_sum(checked)}")
        if not checked.sound:
            printing.note(f"mend what can be mended with: {command} --repair; see artifactfs help repair")
    return checked.sound


def _bytes_of_packs(repository: Repository) -> int | None:
    try:
        return sum(size for _, size in repository.registry.packs())
    except Integrity:
        return None  # the registry is damaged, which is told later


def _rescued(context: Context) -> list[str]:
    """Give the repository a new registry if pages of it are damaged; what was done."""
    from artifactfs.checkup import index_of, rescue_registry
    from artifactfs.keys import ProjectKeys

    settings = context.settings
    with context.open() as repository:
        index_of(repository)  # a server's is refused first
        place = repository.disk
    # While nothing has it open.
    return rescue_registry(place, settings.project, keys=ProjectKeys(settings.credentials))


def _repair(
    context: Context, opened: Opening, rescued: list[str], sources: tuple[str, ...], pace: Pace, *, as_json: bool
) -> bool:
    from artifactfs.checkup import CacheHolder, Holder, RepositoryHolder, repair
    from artifactfs.content.cache import Cache

    settings = context.settings
    with ExitStack() as stack, printing.Meter("repair", None) as meter:
        repository = stack.enter_context(opened())
        holders: list[Holder] = []
        if settings.cache.directory.is_dir():
            cache = Cache(settings.cache)
            stack.callback(cache.close)
            holders.append(CacheHolder(cache))
        for source in sources:
            other = stack.enter_context(_source(context, source, repository.project))
            if other.is_same(repository):
                raise InvalidInput(f"--from {source} is the very repository that is repaired; give another one")
            holders.append(RepositoryHolder(other))

        def show(checked: Checked) -> None:
            meter.update(checked.stored, files=checked.files)

        result = repair(repository, opened, holders, pace=pace, progress=show)
    result.done[:0] = rescued
    if as_json:
        printing.as_json(
            {
                "done": result.done,
                "restored": result.restored,
                "unused": result.unused,
                "left": _fields(result.left),
            }
        )
        return result.left.sound
    for line in shortened(result.done):
        printing.line(f"repaired: {line}")
    _print_checked(result.left)
    for line in result.unused:
        printing.note(f"not taken from a reference: {printing.shown(line)}")
    if result.left.sound:
        printing.note("everything is sound" if result.done else "nothing was damaged")
    else:
        printing.note(f"left: {_sum(result.left)}")
        for line in _advice(result.left):
            printing.note(line)
    return result.left.sound


@contextmanager
def _source(context: Context, location: str, project: str) -> Iterator[Repository]:
    from artifactfs.registry.opening import is_database

    with ExitStack() as stack:
        if is_database(location):
            opened = stack.enter_context(context.in_database(location, project))
        else:
            opened = partial(context.open_source, location, project=project)
        yield stack.enter_context(opened())


def _advice(checked: Checked) -> list[str]:
    advice = []
    if checked.hits:
        advice.append(
            "what is still damaged is nowhere here; store the same files once more (artifactfs put), or repeat with --from "
            "REPOSITORY, a copy that has the versions; else delete these versions"
        )
    if checked.registry:
        advice.append(
            "of a registry only the chunk index is made anew from packs: restore the rest from a backup of it"
        )
    return advice


def _print_checked(checked: Checked) -> None:
    for line in checked.registry:
        printing.line(f"damaged: registry: {printing.shown(line)}")
    for line in shortened(checked.faults):
        printing.line(f"damaged: store: {line}")
    # A damaged registry is the reason for all that it was asked for: said once.
    same = [hit for hit in checked.hits if any(line in hit.reason for line in checked.registry)]
    if len(same) > printing.FEW:
        versions = printing.many(len({hit.version for hit in same}), "version")
        printing.line(f"damaged: {len(same):,} places in {versions} cannot be read for that reason; --json lists them")
    else:
        same = []
    told = {id(hit) for hit in same}
    for line in damage_lines((hit.version, hit.path, hit.reason) for hit in checked.hits if id(hit) not in told):
        printing.line(f"damaged: {line}")


def _sum(checked: Checked) -> str:
    if checked.sound:
        return "everything is sound"
    parts = []
    if checked.registry:
        parts.append(f"{printing.many(len(checked.registry), 'damage')} of the registry")
    if checked.faults:
        parts.append(f"{printing.many(len(checked.faults), 'damage')} of packs and their index")
    if checked.hits:
        parts.append(f"{len(checked.hits):,} places in versions cannot be read")
    elif not checked.registry:
        parts.append("all files can be read")
    return ", ".join(parts)


def _fields(checked: Checked) -> dict[str, Any]:
    return {
        "versions": checked.versions,
        "files": checked.files,
        "packs": checked.packs,
        "chunks": checked.chunks,
        "bytes": checked.bytes,
        "damages": [
            *({"version": "", "path": "registry", "reason": line} for line in checked.registry),
            *({"version": "", "path": "store", "reason": line} for line in checked.faults),
            *({"version": hit.version, "path": hit.path, "reason": hit.reason} for hit in checked.hits),
        ],
    }


def _through_client(
    repository: Repository, versions: list[VersionRecord], *, registry: bool, as_json: bool
) -> list[Damage]:
    from artifactfs.upkeep import verify

    with printing.Meter("verify", None) as meter:

        def show(report: VerifyReport) -> None:
            meter.update(report.bytes_checked, files=report.files)

        report = verify(repository, versions, registry=registry, progress=show)
    if as_json:
        printing.as_json(
            {
                "versions": report.versions,
                "files": report.files,
                "chunks": report.chunks_checked,
                "bytes": report.bytes_checked,
                "damages": _damage_fields(report.damages),
            }
        )
    else:
        _print_damages("damaged", report.damages)
        printing.note(
            f"checked {printing.many(report.versions, 'version')}, {printing.many(report.files, 'file')}, "
            f"{printing.size(report.bytes_checked)}: "
            + (printing.many(len(report.damages), "damage") if report.damages else "everything is sound")
        )
    return report.damages


def _verify_references(repository: Repository, versions: list[VersionRecord], *, as_json: bool) -> list[Damage]:
    from artifactfs.upkeep import verify_references

    with printing.Meter("verify --references", None) as meter:

        def show(report: ReferencesReport) -> None:
            meter.update(0, references=report.references)

        report = verify_references(repository, versions, progress=show)
    if as_json:
        printing.as_json(
            {
                "versions": report.versions,
                "references": report.references,
                "unrecorded": report.unrecorded,
                "unknown": report.unknown,
                "damages": _damage_fields(report.damages),
            }
        )
    else:
        _print_damages("not as recorded", report.damages)
        if report.unrecorded:
            what = printing.many(report.unrecorded, "reference")
            printing.note(f"{what} recorded by the URI alone: that the source is there is all that was checked")
        if report.unknown:
            printing.note(f"{printing.many(report.unknown, 'reference')} of unknown schemes not checked")
        printing.note(
            f"asked for {printing.many(report.references, 'reference')} of "
            f"{printing.many(report.versions, 'version')}: "
            + (f"{len(report.damages):,} not as recorded" if report.damages else "all are as recorded")
            if report.references
            else f"nothing to ask for in {printing.many(report.versions, 'version')}"
        )
    return report.damages


def _damage_fields(damages: list[Damage]) -> list[dict[str, str]]:
    return [{"version": damage.version, "path": damage.path, "reason": damage.reason} for damage in damages]


def _print_damages(word: str, damages: list[Damage]) -> None:
    for line in damage_lines((damage.version, damage.path, damage.reason) for damage in damages):
        printing.line(f"{word}: {line}")


def _chosen(repository: Repository, address: Address | None) -> list[VersionRecord]:
    if address is None:
        return [
            version
            for artifact in repository.registry.artifacts()
            for version in repository.registry.versions(artifact.name)
        ]
    if address.selector is None and address.digest is None:
        repository.resolve(address)  # NotFound with near misses
        return repository.registry.versions(address.name)
    return [repository.resolve(address)]
