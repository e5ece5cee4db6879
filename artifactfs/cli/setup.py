"""``init``, ``doctor``, ``help``, ``completion``: a repository's beginning, the machine, and how to learn."""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from click.core import ParameterSource

from artifactfs.cli import printing
from artifactfs.cli.context import Context, pass_context, registry_option
from artifactfs.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

SHELLS: Final = ("bash", "zsh", "fish")
TASKS: Final[tuple[str, ...]] = ("data-sets", "models", "references", "lineage", "search", "fsspec", "from-wandb")
"""Documents that begin with what somebody wants to do, in the order of a first day; `help` shows them first."""


@click.command("init")
@click.argument("directory", required=False, metavar="[DIR]", type=click.Path(path_type=Path))
@click.option(
    "--encrypt", is_flag=True, help="Encrypt the project, which holds nothing yet; also in a repository that is there."
)
@click.option(
    "--key-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="With --encrypt: its key; made when it is not there. Without: the one that the settings give, or a new one of this user.",
)
@registry_option
@pass_context
def init_command(
    context: Context, directory: Path | None, *, encrypt: bool, key_file: Path | None, registry: str | None
) -> None:
    """Make an embedded repository in a new or empty directory; prints the directory.

    Without DIR, where --repository, ARTIFACTFS_REPOSITORY, the configuration file or the default say. The default repository is also
    made by the first put or mount.

    With --encrypt what the project stores is encrypted (help encryption). Each project has its own key, or none. With --registry too
    it is a project of the database of servers, and no directory is made.

    \b
    Example:
      artifactfs init /data/artifacts
      artifactfs --project patients init /data/artifacts --encrypt
      artifactfs --project patients init --encrypt --registry postgresql://artifactfs@db.example.com/artifactfs
      export ARTIFACTFS_REPOSITORY=/data/artifacts
    """
    from artifactfs.repository import Repository

    settings = context.settings
    location = settings.repository if directory is None else str(directory.expanduser().absolute())
    if key_file is not None and not encrypt:
        raise InvalidInput("--key-file is of --encrypt; give both, or neither")
    # The variable may be there for serve: a directory is then made as without it.
    said = click.get_current_context().get_parameter_source("registry") is ParameterSource.COMMANDLINE
    if said and not encrypt:
        raise InvalidInput("--registry is of --encrypt: `artifactfs serve` makes the tables of a database; give both")
    if encrypt and registry is not None:
        if directory is not None:
            raise InvalidInput(
                f"the project is in the directory {directory} or in the database of --registry (ARTIFACTFS_REGISTRY); leave one out"
            )
        from artifactfs.cli.encryption import encrypt_in

        printing.line(encrypt_in(context, registry, key_file))
        return
    if encrypt:
        from artifactfs.cli.encryption import encrypt as encrypted

        made = encrypted(context, location, key_file)
    else:
        made = Repository.create(location, project=settings.project, credentials=settings.credentials)
    with made as repository:
        printing.line(repository.location)
    if directory is not None and location != settings.repository:
        printing.note(f"use it with: export ARTIFACTFS_REPOSITORY={location}, or --repository {location}")


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor_command(ctx: click.Context, as_json: bool) -> None:
    """Check FUSE, permissions, the repository and mounts, and say what to do.

    Exit status 1 when something stands in the way; warnings leave it 0.

    \b
    Example:
      artifactfs doctor
    """
    from artifactfs.cli.doctor import examine

    findings = examine(ctx.ensure_object(Context))
    if as_json:
        printing.as_json([{"check": f.check, "state": f.state, "found": f.found, "advice": f.advice} for f in findings])
    else:
        width = max(len(finding.check) for finding in findings)
        for finding in findings:
            printing.line(f"{finding.state:<5} {finding.check:<{width}}  {finding.found}")
            if finding.advice:
                printing.line(f"{'':<5} {'':<{width}}  -> {finding.advice}")
    ctx.exit(1 if any(finding.state == "fail" for finding in findings) else 0)


@click.command("help")
@click.argument("topic", required=False)
@click.pass_context
def help_command(ctx: click.Context, topic: str | None) -> None:
    """Show a document, or a command's help; without TOPIC, what there is.

    \b
    Example:
      artifactfs help semantics
    """
    documents = _documents()
    root = ctx.find_root()
    if topic is None:
        printing.line(root.command.get_help(root))
        if documents:
            printing.line()
            width = max(len(name) for name in documents)
            tasks = [name for name in TASKS if name in documents]
            printing.line("Tasks (artifactfs help TASK):")
            for name in tasks:
                printing.line(f"  {name:<{width}}  {_heading(documents[name])}")
            printing.line()
            printing.line("Topics (artifactfs help TOPIC):")
            for name in sorted(documents.keys() - set(tasks)):
                printing.line(f"  {name:<{width}}  {_heading(documents[name])}")
        return
    assert isinstance(root.command, click.Group)  # noqa: S101 - `help` is a command of the group
    command = root.command.get_command(root, topic)
    if topic in documents:
        _show(documents[topic].read_text(encoding="utf-8"))
        if command is not None:
            printing.note(f"options of the command: artifactfs {topic} --help")
        return
    if command is None:
        names = ", ".join(sorted(documents)) or "none"
        raise NotFound(f"no topic or command {topic!r}; topics: {names}; commands: artifactfs --help")
    with click.Context(command, info_name=topic, parent=root) as below:
        printing.line(command.get_help(below))


def _documents() -> dict[str, Traversable]:
    directory = files("artifactfs") / "docs"
    if not directory.is_dir():
        return {}
    return {item.name.removesuffix(".md"): item for item in directory.iterdir() if item.name.endswith(".md")}


def _heading(document: Traversable) -> str:
    with document.open(encoding="utf-8") as text:
        return next((line.lstrip("# ").strip() for line in text if line.startswith("#")), "")


def _show(text: str) -> None:
    if not sys.stdout.isatty():
        printing.line(text.rstrip("\n"))
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    with console.pager(styles=True):
        console.print(Markdown(text))


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print a script that makes SHELL complete commands, options, artifacts and aliases.

    \b
    Example:
      echo 'eval "$(artifactfs completion bash)"' >> ~/.bashrc
      artifactfs completion fish > ~/.config/fish/completions/artifactfs.fish
    """
    from artifactfs.cli.completion import script

    printing.line(script(ctx.find_root().command, shell))
