"""What every command needs: settings, an open repository, and the types of its arguments.

Settings are read on first use, so that ``--help`` works with a broken configuration file. Runs on the main thread.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import click

from artifactfs.cli.imports import import_at_once
from artifactfs.cli.printing import note
from artifactfs.errors import InvalidInput, NotFound
from artifactfs.model.names import Address, check_alias, check_metadata, parse_address

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from artifactfs.config import Settings
    from artifactfs.repository import Repository

    Opening = Callable[[], Repository]


class Context:
    """The options before the command's name, and what follows from them."""

    def __init__(
        self,
        *,
        repository: str | None = None,
        project: str | None = None,
        cache_dir: str | None = None,
        cache_size: str | None = None,
        timeout: str | None = None,
        direct: bool = True,
    ) -> None:
        self._repository = repository
        self._project = project
        self._cache_dir = cache_dir
        self._cache_size = cache_size
        self._timeout = timeout
        self._direct = direct

    @cached_property
    def settings(self) -> Settings:
        """Options, environment, configuration file, defaults."""
        from artifactfs import config

        return config.load(
            repository=self._repository,
            project=self._project,
            cache_dir=self._cache_dir,
            cache_size=self._cache_size,
            timeout=self._timeout,
            direct=self._direct,
        )

    def open(self, *, create: bool = False, project: str | None = None) -> Repository:
        """Open the repository; ``create`` makes an embedded one on first use. Close it (it is a context manager)."""
        return self._open(self.settings.repository, project or self.settings.project, create=create)

    def open_other(self, location: str, *, project: str) -> Repository:
        """Open another repository than the one that commands work on, making an embedded one on first use."""
        from artifactfs import config

        return self._open(config.location_of(location), project, create=True)

    def open_source(self, location: str, *, project: str) -> Repository:
        """Open another repository that something is taken from; it must be there."""
        from artifactfs import config

        return self._open(config.location_of(location), project, create=False)

    def _open(self, location: str, project: str, *, create: bool) -> Repository:
        import_at_once("artifactfs.repository")
        from artifactfs.repository import Repository

        settings = self.settings
        try:
            return Repository.open(
                location,
                project=project,
                cache=settings.cache,
                seconds=settings.seconds,
                credentials=settings.credentials,
            )
        except NotFound:
            if not create:
                raise
        repository = Repository.open_or_create(
            location,
            project=project,
            cache=settings.cache,
            seconds=settings.seconds,
            credentials=settings.credentials,
        )
        note(f"made a new repository in {location}")
        return repository

    def open_for(self, address: Address) -> Repository:
        """Open the repository in the project of an address."""
        return self.open(project=address.project)

    @contextmanager
    def in_database(self, url: str, project: str | None = None) -> Iterator[Opening]:
        """What opens the repository whose registry is in a database. Nothing is made there, and nothing stays on this machine."""
        from artifactfs.directory import STORE
        from artifactfs.keys import ProjectKeys
        from artifactfs.registry.opening import check_database, open_registry
        from artifactfs.repository import Repository

        settings = self.settings
        apart = settings.repository_is_default or "://" in settings.repository
        beside = None if apart else Path(settings.repository) / STORE
        check_database(url)
        with TemporaryDirectory(prefix="artifactfs-") as disk:

            def opened() -> Repository:
                keys = ProjectKeys(settings.credentials)
                return Repository.over(
                    open_registry(url, project=project or settings.project, keys=keys),
                    beside=beside,
                    disk=Path(disk),
                    credentials=settings.credentials,
                    seconds=settings.seconds,
                )

            yield opened


pass_context: Callable[[Callable[..., Any]], Callable[..., Any]] = click.make_pass_decorator(Context)
registry_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--registry",
    metavar="URL",
    envvar="ARTIFACTFS_REGISTRY",
    show_envvar=True,
    help="Work in this PostgreSQL database, without a server.",
)


class AddressType(click.ParamType[Address]):
    """``name``, ``name:version-or-alias``, ``name:v0/path``, ``project/name:v0``."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        """Parse; raises InvalidInput."""
        del param, ctx
        return value if isinstance(value, Address) else parse_address(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Names of artifacts; after ``:`` aliases and versions."""
        del param
        from artifactfs.cli.completion import complete_address

        return complete_address(ctx, incomplete)


class NameType(click.ParamType[str]):
    """An artifact's name, completed but not checked here: commands differ in what they say about a wrong one."""

    name = "name"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Names of artifacts."""
        del param
        from artifactfs.cli.completion import complete_name

        return complete_name(ctx, incomplete)


class MountpointType(click.ParamType[Path]):
    """A directory that is not looked at: click's own type would wait for a mount whose process does not answer."""

    name = "directory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """A path, ``~`` expanded."""
        del param, ctx
        return Path(value).expanduser()

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Directories, by the shell."""
        del ctx, param
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="dir")]


ADDRESS = AddressType()
NAME = NameType()
MOUNTPOINT = MountpointType()


def version_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that `put` and `commit` share: what belongs to the new version."""
    for option in (
        click.option("--metadata", "metadata", metavar="K=V", multiple=True, help="Metadata; V is JSON, or else text."),
        click.option("--description", metavar="TEXT", help="Free text that says what this version is."),
        click.option("--alias", "aliases", metavar="NAME", multiple=True, help="Alias to move to it, besides latest."),
        click.option("--type", "type_", metavar="TYPE", help="dataset (default), model, result, or another word."),
    ):
        command = option(command)
    return command


_JSON: Final = frozenset('{["')  # what a value begins with that was meant as more than a word


def read_metadata(pairs: tuple[str, ...]) -> dict[str, Any] | None:
    """``K=V`` options as a metadata object; None without any. Raises InvalidInput."""
    metadata = read_values(pairs, "--metadata")
    return check_metadata(metadata) if metadata else None


def read_values(pairs: tuple[str, ...], option: str) -> dict[str, Any]:
    """The values of ``K=V`` options: V is JSON, or else text. Raises InvalidInput."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, mark, value = pair.partition("=")
        if not mark or not key:
            what = option.removeprefix("--")
            example = "rate=0.01" if option == "--config" else "rows=17379"
            raise InvalidInput(f"not {what}: {pair!r}; give KEY=VALUE, for example {option} {example}")
        if key in values:
            raise InvalidInput(f"{option} {key} is given twice; a list is written as JSON: {option} '{key}=[1, 2]'")
        try:
            values[key] = json.loads(value)
        except (ValueError, RecursionError) as error:
            if value.lstrip()[:1] in _JSON:
                text = shlex.quote(f"{key}={json.dumps(value, ensure_ascii=False)}")
                raise InvalidInput(
                    f"{option} {key}: begins like JSON and is none ({error}); correct it, or give text as {text}"
                ) from error
            values[key] = value
    return values


def read_aliases(aliases: tuple[str, ...]) -> tuple[str, ...]:
    """Checked aliases without repetition, in the order given. Raises InvalidInput."""
    return tuple(dict.fromkeys(check_alias(alias) for alias in aliases))


_UNITS: Final = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_SPAN: Final = re.compile(r"(\d{1,6})([mhdw])", re.ASCII)


def read_span(text: str) -> int | None:
    """Seconds of ``30m``, ``12h``, ``30d``, ``8w``; None for what is none."""
    found = _SPAN.fullmatch(text)
    return int(found[1]) * _UNITS[found[2]] if found is not None else None
