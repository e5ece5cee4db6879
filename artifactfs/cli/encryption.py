"""``rekey``, and what ``init --encrypt`` does: an encrypted project's key, made and exchanged. A key is never printed."""

from __future__ import annotations

from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from artifactfs.cli import printing
from artifactfs.cli.context import Context, pass_context, registry_option
from artifactfs.errors import Access, Conflict, InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from artifactfs.config import Settings
    from artifactfs.registry.sql import SQLRegistry
    from artifactfs.repository import Repository


class Chosen(NamedTuple):
    """A key and where it is. Not to be printed."""

    key: bytes
    where: str
    file: Path | None
    made: bool


def encrypt(context: Context, location: str, key_file: Path | None) -> Repository:
    """Make a repository, if it is not there, and have the project, which holds nothing yet, be encrypted. To be closed."""
    from artifactfs import sealing
    from artifactfs.repository import Repository

    sealing.require()
    settings = context.settings
    with _key(settings, key_file, given=key_file is None) as chosen:
        try:
            repository = Repository.create(
                location, project=settings.project, cache=settings.cache, credentials=settings.credentials
            )
        except Conflict:
            repository = Repository.open(
                location, project=settings.project, cache=settings.cache, credentials=settings.credentials
            )
        try:
            registry_of(repository).encrypt(chosen.key)
        except BaseException:
            repository.close()
            raise
    _tell(settings, chosen)
    return repository


def encrypt_in(context: Context, url: str, key_file: Path | None) -> str:
    """Have the project in a server's database, which holds nothing of it yet, be encrypted; the tables are made. Returns its name."""
    from artifactfs import sealing

    sealing.require()
    settings = context.settings
    with (
        closing(_database(settings, url, create=True)) as registry,
        _key(settings, key_file, given=key_file is None) as chosen,
    ):
        registry.encrypt(chosen.key)
        name = str(registry)
    _tell(settings, chosen)
    return name


@click.command("rekey")
@click.option(
    "--new-key-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The new key; made when it is not there. Without it: a new key among those of this user.",
)
@registry_option
@pass_context
def rekey_command(context: Context, new_key_file: Path | None, registry: str | None) -> None:
    """Exchange the key of an encrypted project, all or nothing; what is stored is not written anew.

    Runs where the registry is, or in a server's database (--registry), with the present key at hand. The old key then opens nothing
    but backups of the registry that were made before. A server takes the new key up once it is where the old one was.

    \b
    Example:
      artifactfs rekey --new-key-file new.key
      artifactfs rekey --registry postgresql://artifactfs@db.example.com/artifactfs --new-key-file new.key
    """
    settings = context.settings
    with _registry(context, registry) as opened, _key(settings, new_key_file, given=False) as chosen:
        count = opened.rekey(chosen.key)
    printing.line(f"{printing.many(count, 'pack')} of project {settings.project} rekeyed")
    _tell(settings, chosen)


def registry_of(repository: Repository) -> SQLRegistry:
    """The registry itself, as it is not asked for keys through a server. InvalidInput."""
    from artifactfs.registry.sql import SQLRegistry

    registry = repository.registry
    if not isinstance(registry, SQLRegistry):
        raise InvalidInput(
            f"keys are made and exchanged where the repository is, not through {repository.location}; run it on that machine"
        )
    return registry


@contextmanager
def _registry(context: Context, url: str | None) -> Iterator[SQLRegistry]:
    """The registry in a database, or the repository's."""
    if url is not None:
        with closing(_database(context.settings, url, create=False)) as registry:
            yield registry
        return
    with context.open() as repository:
        yield registry_of(repository)


def _database(settings: Settings, url: str, *, create: bool) -> SQLRegistry:
    from artifactfs.keys import ProjectKeys
    from artifactfs.registry.opening import check_database, open_registry

    return open_registry(
        check_database(url), project=settings.project, create=create, keys=ProjectKeys(settings.credentials)
    )


@contextmanager
def _key(settings: Settings, file: Path | None, *, given: bool) -> Iterator[Chosen]:
    """The key in a file, or a new one in it. Without a file the one that is ``given`` by the settings, or a new one.

    A file that was made here goes again when the block raises what says that nothing was changed.
    """
    from artifactfs import keys, sealing

    file = None if file is None else file.expanduser().absolute()
    chosen = None
    if file is not None and file.exists():
        chosen = Chosen(keys.read_key(file), str(file), file, made=False)
    elif file is None and given:
        found = keys.given_key(settings.credentials, settings.project)
        chosen = None if found is None else Chosen(found.key, found.where, None, made=False)
    if chosen is None:
        new = sealing.new_key()
        directory = settings.credentials.key_directory
        if file is None and directory is not None:
            file = keys.kept_at(directory, sealing.key_id(new))
        if file is None:
            raise InvalidInput("there is no place for a new key; name a file for it")
        keys.write_key(file, new)
        chosen = Chosen(new, str(file), file, made=True)
    try:
        yield chosen
    except (Access, Conflict, InvalidInput, NotFound):
        if chosen.made and chosen.file is not None:
            chosen.file.unlink(missing_ok=True)
        raise


def _tell(settings: Settings, chosen: Chosen) -> None:
    from artifactfs import sealing

    identity = sealing.key_id(chosen.key)
    printing.note(
        f"project {settings.project} is encrypted with the key {identity} from {chosen.where}; keep a copy of it elsewhere: "
        "without it nobody can read what is stored"
    )
    directory = settings.credentials.key_directory
    if chosen.file is not None and chosen.file.parent != directory and chosen.file != settings.credentials.key_file:
        printing.note(f"use it with: export ARTIFACTFS_KEY_FILE={chosen.file}, or key_file in config.toml")
