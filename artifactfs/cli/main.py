"""The command ``artifactfs``: its group, and how whatever goes wrong ends as one line and an exit status.

Exit status: 0 done, 1 the operation failed, 2 wrong usage, 130 interrupted, 141 the reader of the output went away.
Commands live in one module per subject, imported only when one of them is needed. Runs on the main thread.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from importlib import import_module
from typing import Final

import click

from artifactfs import __version__
from artifactfs.cli import INTERRUPTED
from artifactfs.cli.context import Context
from artifactfs.cli.imports import import_at_once
from artifactfs.errors import ArtifactFSError, InvalidInput

PIPE_CLOSED: Final = 141
COMPLETION_VARIABLE: Final = "_ARTIFACTFS_COMPLETE"

# Subject, module below artifactfs.cli, commands in the order of a first session.
COMMANDS: Final = (
    ("Content", "content", ("put", "get")),
    ("Mount", "mounting", ("mount", "unmount", "status")),
    ("Staging", "staging", ("stage", "commit", "diff", "discard", "rebase")),
    ("Staging", "workspaces", ("export",)),
    ("Versions", "inspect", ("ls", "show", "log")),
    ("Search", "finding", ("find",)),
    ("Search", "plotting", ("plot",)),
    ("Lineage", "running", ("run",)),
    ("Lineage", "lineage", ("runs", "lineage")),
    ("Labels", "labels", ("alias", "tag", "edit")),
    ("Upkeep", "removal", ("delete", "restore", "prune", "rename")),
    ("Upkeep", "collecting", ("gc",)),
    ("Upkeep", "retention", ("retention", "quota")),
    ("Upkeep", "stats", ("stats",)),
    ("Sharing", "transfer", ("copy",)),
    ("Server", "serving", ("serve",)),
    ("Server", "tokens", ("token",)),
    ("Server", "encryption", ("rekey",)),
    ("Cache", "caching", ("cache",)),
    ("Repository and help", "setup", ("init",)),
    ("Repository and help", "verifying", ("verify",)),
    ("Repository and help", "setup", ("doctor", "help", "completion")),
)

# What other tools call it: git, DVC, Docker, W&B and the shell.
OTHER_COMMANDS: Final = {
    "add": ("put",),
    "checkout": ("get", "stage"),
    "cp": ("copy",),
    "download": ("get",),
    "du": ("stats",),
    "fsck": ("verify",),
    "history": ("log",),
    "info": ("show",),
    "list": ("ls",),
    "login": ("token",),
    "mv": ("rename",),
    "pull": ("get", "copy"),
    "push": ("put", "copy"),
    "remove": ("delete",),
    "reset": ("discard",),
    "rm": ("delete",),
    "search": ("find",),
    "server": ("serve",),
    "sync": ("copy",),
    "umount": ("unmount",),
    "undelete": ("restore",),
    "upload": ("put",),
}
OTHER_OPTIONS: Final = {"-m": "--description", "--message": "--description"}


class Commands(click.Group):
    """The group: finds a command's module by name, lists commands by subject."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, by subject."""
        del ctx
        return [name for _, _, names in COMMANDS for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name; imports its module."""
        del ctx
        for _, module, names in COMMANDS:
            if cmd_name in names:
                # `help` and `mount` would hide modules and builtins, so functions bear a suffix.
                command = getattr(import_at_once(f"artifactfs.cli.{module}"), f"{cmd_name}_command")
                assert isinstance(command, click.Command)  # noqa: S101 - the table above names commands only
                return command
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it; an unknown word is answered with the command that was meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            meant = OTHER_COMMANDS.get(args[0]) or get_close_matches(args[0], self.list_commands(ctx), n=2, cutoff=0.7)
            if not meant:
                raise
            raise click.UsageError(
                f"No such command {args[0]!r}. Did you mean {' or '.join(map(repr, meant))}?", ctx
            ) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Commands in sections."""
        for subject in dict.fromkeys(subject for subject, _, _ in COMMANDS):
            with formatter.section(subject):
                rows = []
                for name in (name for about, _, names in COMMANDS if about == subject for name in names):
                    command = self.get_command(ctx, name)
                    if command is not None:
                        rows.append((name, command.get_short_help_str(limit=96)))
                formatter.write_dl(rows)


@click.group(
    cls=Commands,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="Documents: artifactfs help. A command's options and an example: artifactfs COMMAND --help.",
)
@click.option("--repository", metavar="URL", help="Directory, or URL of a server. [env: ARTIFACTFS_REPOSITORY]")
@click.option("--project", metavar="NAME", help="Project within the repository. [env: ARTIFACTFS_PROJECT]")
@click.option("--cache-dir", metavar="DIR", help="Cache of what servers hold. [env: ARTIFACTFS_CACHE_DIR]")
@click.option("--cache-size", metavar="SIZE", help="What it may take, as 50GB or 200MiB. [env: ARTIFACTFS_CACHE_SIZE]")
@click.option("--timeout", metavar="SECONDS", help="Bound of a request to a server. [env: ARTIFACTFS_TIMEOUT]")
@click.option(
    "--no-direct", is_flag=True, help="Read through the server, not from its object store. [env: ARTIFACTFS_DIRECT=0]"
)
@click.version_option(__version__, message="artifactfs %(version)s")
@click.pass_context
def cli(
    ctx: click.Context,
    repository: str | None,
    project: str | None,
    cache_dir: str | None,
    cache_size: str | None,
    timeout: str | None,
    *,
    no_direct: bool,
) -> None:
    """Versioned datasets, models and results as ordinary directories.

    \b
    artifactfs put bike-dataset ~/bikes          files become bike-dataset:v0
    artifactfs mount                             and are read below ~/artifacts
    artifactfs commit bike-dataset               what changed in staging becomes v1
    """
    ctx.obj = Context(
        repository=repository,
        project=project,
        cache_dir=cache_dir,
        cache_size=cache_size,
        timeout=timeout,
        direct=not no_direct,
    )


def main() -> None:
    """Run what the process was called with, and end it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Names are bytes at heart: what the terminal's encoding lacks is escaped instead of raising.
            utf8 = stream.encoding.lower().replace("-", "") == "utf8"
            stream.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")
    if COMPLETION_VARIABLE in os.environ:
        sys.exit(import_module("artifactfs.cli.completion").complete(cli, os.environ[COMPLETION_VARIABLE]))
    sys.exit(guarded(sys.argv[1:]))


def guarded(arguments: list[str]) -> int:
    """Run a command line; every failure becomes a line on stderr and an exit status."""
    try:
        # Not cli.main(), which prints at an interruption and hides a closed pipe.
        with cli.make_context("artifactfs", list(arguments)) as ctx:
            if not arguments:
                print(cli.get_help(ctx), file=sys.stderr)
                return 2
            cli.invoke(ctx)
        sys.stdout.flush()
    except click.exceptions.Exit as ended:
        return _flushed(ended.exit_code)
    except click.UsageError as error:
        return _wrong_usage(error)
    except click.ClickException as error:
        return fail(error.format_message())
    except InvalidInput as error:
        return fail(str(error), 2)
    except ArtifactFSError as error:
        return fail(str(error))
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except OSError as error:
        if error.errno == errno.EPIPE:
            return _pipe_closed()
        return _unexpected(error, _system_message(error))
    except Exception as error:
        # The last border: a fault of ours must not show a traceback, but must be traceable.
        return _unexpected(error, f"unexpected failure: {_first_line(error)}")
    return 0


def _flushed(status: int) -> int:
    """The status of a command that ended early, once its output is out."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _pipe_closed()
    return status


def fail(message: str, status: int = 1) -> int:
    """Print an error's line (or heading and lines) and return the exit status."""
    try:
        print(f"artifactfs: {message}", file=sys.stderr)
    except OSError:
        return status  # nobody reads it
    return status


def _wrong_usage(error: click.UsageError) -> int:
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        meant = OTHER_OPTIONS.get(error.option_name)
        if meant is not None and any(meant in parameter.opts for parameter in error.ctx.command.params):
            error = click.UsageError(f"No such option {error.option_name!r}. Did you mean {meant!r}?", error.ctx)
    message = error.format_message().rstrip(".")
    path = error.ctx.command_path if error.ctx is not None else "artifactfs"
    text = " ".join(message.split())
    return fail(f"{text}{'' if text.endswith('?') else ';'} see {path} --help", 2)


def _pipe_closed() -> int:
    # What is still buffered has no reader; without this the interpreter would complain while it ends.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
    return PIPE_CLOSED


def _system_message(error: OSError) -> str:
    place = f": {error.filename}" if error.filename else ""
    hint = "; free some space and try again" if error.errno in {errno.ENOSPC, errno.EDQUOT} else ""
    return f"{(error.strerror or str(error)).lower()}{place}{hint}"


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _unexpected(error: BaseException, message: str) -> int:
    if os.environ.get("ARTIFACTFS_DEBUG"):
        traceback.print_exception(error)
        return fail(message)
    try:
        log = Context().settings.state_dir / "error.log"
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        log.write_text("".join(traceback.format_exception(error)), encoding="utf-8", errors="backslashreplace")
    except (OSError, ArtifactFSError):
        return fail(f"{message}; ARTIFACTFS_DEBUG=1 shows where")
    return fail(f"{message}; details in {log}")
