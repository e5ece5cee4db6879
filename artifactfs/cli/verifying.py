"""``verify``: whether all is as it was stored, which files a damage hits, and repair."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from artifactfs.cli import printing
from artifactfs.cli.context import ADDRESS, Context
from artifactfs.cli.damages import damage_lines, shortened
from artifactfs.errors import Integrity, InvalidInput
from artifactfs.model.names import Address

if TYPE_CHECKING:
    from artifactfs.checkup import Checked
    from artifactfs.health.pace import Pace
    from artifactfs.model.records import VersionRecord
    from artifactfs.repository import Repository
    from artifactfs.upkeep import Damage, ReferencesReport, VerifyReport


@click.command("verify")
@click.argument("address", type=ADDRESS, required=False)
@click.option(
    "--quick", is_flag=True, help="Compare registry, packs' sizes, tables and the chunk index; read no content."
)
@click.option("--resume", is_flag=True, help="Go on with a verify of everything that was interrupted.")
@click.option("--rate", metavar="SIZE", help="Read at most so many bytes a second, as 200MB.")
@click.option("--repair", is_flag=True, help="Mend what is damaged from whatever else holds the bytes.")
@click.option(
    "--from", "sources", metavar="REPOSITORY", multiple=True, help="With --repair: take lost bytes from here too."
)
@click.option("--references", is_flag=True, help="Ask the sources of references, instead of reading what is stored.")
@click.option(
    "--registry",
    metavar="URL",
    envvar="ARTIFACTFS_REGISTRY",
    show_envvar=True,
    help="Verify this PostgreSQL database and the packs that it names, without a server.",
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
    --resume, --rate and --repair are for the machine that has the directory, or, --quick and --rate, for who has
    the database (--registry) and the store.

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
    """
    context = ctx.ensure_object(Context)
    if address is not None and address.path:
        raise InvalidInput(f"{address} names a path; verify checks versions: {address.name}:latest")
    _check_options(address, quick=quick, resume=resume, repair=repair, references=references, rate=rate)
    if sources and not repair:
        raise InvalidInput("--from says where --repair may take lost bytes from; give --repair too")
    limit = _rate(rate)
    if registry is not None:
        for word, given in (("--repair", repair), ("--resume", resume), ("--references", references)):
            if given:
                raise InvalidInput(f"{word} is not for a database (--registry); leave it out, or leave out --registry")
        with _in_database(context, registry, address) as repository:
            versions = None if address is None else _chosen(repository, address)
            sound = _at_hand(repository, versions, _pace(limit), quick=quick, resume=None, as_json=as_json)
        ctx.exit(0 if sound else 1)
    if repair:
        ctx.exit(0 if _repair(context, sources, _pace(limit), as_json=as_json) else 1)
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


@contextmanager
def _in_database(context: Context, url: str, address: Address | None) -> Iterator[Repository]:
    """The repository whose registry is in a database. Nothing is made there, and nothing stays on this machine."""
    from artifactfs.directory import STORE
    from artifactfs.keys import ProjectKeys
    from artifactfs.registry.opening import check_database, open_registry
    from artifactfs.repository import Repository

    settings = context.settings
    project = settings.project if address is None or address.project is None else address.project
    apart = settings.repository_is_default or "://" in settings.repository
    beside = None if apart else Path(settings.repository) / STORE
    with TemporaryDirectory(prefix="artifactfs-verify-") as disk:
        registry = open_registry(check_database(url), project=project, keys=ProjectKeys(settings.credentials))
        with Repository.over(
            registry, beside=beside, disk=Path(disk), credentials=settings.credentials, seconds=settings.seconds
        ) as repository:
            yield repository


def _at_hand(
    repository: Repository,
    versions: list[VersionRecord] | None,
    pace: Pace,
    *,
    quick: bool,
    resume: bool | None,
    as_json: bool,
) -> bool:
    """Verify what is at hand. ``resume`` None: what was interrupted cannot be gone on with."""
    from artifactfs.checkup import check_versions, check_whole

    total = _bytes_of_packs(repository) if versions is None and not quick else None
    with printing.Meter("verify", total) as meter:

        def show(checked: Checked) -> None:
            meter.update(checked.stored, files=checked.files)

        try:
            if versions is None:
                checked = check_whole(repository, content=not quick, resume=bool(resume), pace=pace, progress=show)
            else:
                checked = check_versions(repository, versions, pace=pace, progress=show)
        except KeyboardInterrupt:
            if versions is None and not quick and resume is not None:
                printing.note("interrupted; what was read need not be read again: artifactfs verify --resume")
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
        if not checked.sound and resume is None:
            printing.note(
                "copy the packs that are missing or damaged back from a backup of the store, or store the same files once more"
            )
        elif not checked.sound:
            printing.note("mend what can be mended with: artifactfs verify --repair; see artifactfs help repair")
    return checked.sound


def _bytes_of_packs(repository: Repository) -> int | None:
    try:
        return sum(size for _, size in repository.registry.packs())
    except Integrity:
        return None  # the registry is damaged, which is told later


def _repair(context: Context, sources: tuple[str, ...], pace: Pace, *, as_json: bool) -> bool:
    from artifactfs.checkup import CacheHolder, Holder, RepositoryHolder, index_of, repair, rescue_registry
    from artifactfs.content.cache import Cache
    from artifactfs.keys import ProjectKeys

    settings = context.settings
    with context.open() as repository:
        index_of(repository)  # a server's is refused first
        place = repository.disk
    # While nothing has it open.
    rescued = rescue_registry(place, settings.project, keys=ProjectKeys(settings.credentials))
    with ExitStack() as stack, printing.Meter("repair", None) as meter:
        repository = stack.enter_context(context.open())
        holders: list[Holder] = []
        if settings.cache.directory.is_dir():
            cache = Cache(settings.cache)
            stack.callback(cache.close)
            holders.append(CacheHolder(cache))
        for source in sources:
            other = stack.enter_context(context.open_source(source, project=repository.project))
            if other.is_same(repository):
                raise InvalidInput(f"--from {source} is the very repository that is repaired; give another one")
            holders.append(RepositoryHolder(other))

        def show(checked: Checked) -> None:
            meter.update(checked.stored, files=checked.files)

        result = repair(repository, lambda: context.open(project=repository.project), holders, pace=pace, progress=show)
    result.done[:0] = rescued
    if as_json:
        printing.as_json({"done": result.done, "restored": result.restored, "left": _fields(result.left)})
        return result.left.sound
    for line in shortened(result.done):
        printing.line(f"repaired: {line}")
    _print_checked(result.left)
    if result.left.sound:
        printing.note("everything is sound" if result.done else "nothing was damaged")
    else:
        printing.note(f"left: {_sum(result.left)}")
        for line in _advice(result.left):
            printing.note(line)
    return result.left.sound


def _advice(checked: Checked) -> list[str]:
    advice = []
    if checked.hits:
        advice.append(
            "what is still damaged is nowhere here; store the same files once more (artifactfs put), or repeat with --from "
            "REPOSITORY, a copy that has the versions; else delete these versions"
        )
    if checked.registry:
        advice.append("of a registry only the chunk index is made anew from packs: restore registry.db from a backup")
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
