"""``run``: a command as a Run. What it reads through a mount, or gets, becomes its inputs, what it commits or puts its outputs."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from artifactfs.cli import printing
from artifactfs.cli.context import Context, pass_context, read_values
from artifactfs.errors import ArtifactFSError, NotFound, Unavailable
from artifactfs.model.lineage import RUN_VARIABLE

if TYPE_CHECKING:
    from artifactfs.config import Settings
    from artifactfs.model.records import VersionRecord
    from artifactfs.repository import Repository
    from artifactfs.run import RunLife
    from artifactfs.supervision import Supervisor

NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126
_NAMED: Final = 5  # versions that the summary names
_SILENCE_SECONDS: Final = 5.0
_SETTLE_SECONDS: Final = 15.0  # the mount itself takes at most 10


@click.command("run", context_settings={"allow_interspersed_args": False})
@click.option("--job-type", metavar="T", required=True, help="The step of a pipeline: prepare, train, evaluate …")
@click.option("--name", metavar="NAME", help="A name for people (default: the job type and a part of the run's id).")
@click.option(
    "--config", "config", metavar="K=V", multiple=True, help="A value it works with; V is JSON, or else text."
)
@click.option("--quiet", is_flag=True, help="No summary at the end.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND...")
@pass_context
@click.pass_context
def run_command(
    ctx: click.Context,
    context: Context,
    job_type: str,
    name: str | None,
    config: tuple[str, ...],
    quiet: bool,
    command: tuple[str, ...],
) -> None:
    """Run a command as a run: what it reads through a mount becomes its inputs, what it commits or puts its outputs.

    So does what its children do, also those that go on after it. The command needs no change; terminal, signals and exit status are
    its own (128 and the number of the signal that ended it; 127: not found, 126: not executable). The variable ARTIFACTFS_RUN tells
    it, and artifactfs.init() in Python, which run it is in.

    \b
    Example:
      artifactfs run --job-type train --config lr=0.001 -- python train.py --epochs 10
    """
    from artifactfs.run import RunLife, describe
    from artifactfs.supervision import Supervisor, shown_status

    values = read_values(config, "--config")
    program = _program(command[0])
    # Before threads are started: they take over which signals are waited for.
    with Supervisor() as supervisor, context.open(create=True) as repository:
        new = describe(name=name, job_type=job_type, config=values, command=command)
        _adopt(context.settings, [os.getpid()], new.id, quiet=quiet)
        started = time.monotonic()
        life = RunLife(repository.registry, new)
        environment = {
            **os.environ,
            RUN_VARIABLE: life.id,
            "ARTIFACTFS_PROJECT": repository.project,
            "ARTIFACTFS_REPOSITORY": context.settings.repository,
        }
        try:
            supervisor.start(program, command, environment)
        except OSError as error:
            printing.note(
                f"artifactfs: cannot run {printing.shown(command[0])}: {(error.strerror or str(error)).lower()}"
            )
            code = NOT_EXECUTABLE
        else:
            code = supervisor.wait()
            _leave(context.settings, supervisor, life.id)
        _end(life, code)
        if not quiet:
            _summarize(repository, life, time.monotonic() - started)
    ctx.exit(shown_status(code))


def _program(command: str) -> str:
    """The path of a command as execvp(3) finds it. Ends with the status that shells give when there is none."""
    found = shutil.which(command)
    if found is not None:
        return found
    places = [Path()] if "/" in command else [Path(place) for place in os.get_exec_path()]
    there = [place / command for place in places if (place / command).exists()]
    if there:
        what = "a directory" if there[0].is_dir() else "not executable"
        printing.note(f"artifactfs: cannot run {printing.shown(command)}: {there[0]} is {what}")
        raise click.exceptions.Exit(NOT_EXECUTABLE)
    where = "it is not there" if "/" in command else "it is in no directory of PATH"
    printing.note(f"artifactfs: cannot run {printing.shown(command)}: {where}")
    raise click.exceptions.Exit(NOT_FOUND)


def _adopt(settings: Settings, pids: list[int], run: str, *, quiet: bool = True) -> list[Path]:
    """Tell the mounts of this repository and project which processes are the Run's; returns their workspaces."""
    from artifactfs.cli.mounts import listening
    from artifactfs.mount import control

    fields = {"run": run, "pids": pids, "repository": settings.repository, "project": settings.project}
    told = []
    for workspace in listening(settings):
        try:
            answer = control.request(workspace, "adopt", fields, silence=_SILENCE_SECONDS)
        except ArtifactFSError:
            continue  # it has just ended, or hangs; the variable in the environment tells it as well
        if not answer["ours"]:
            continue
        told.append(workspace)
        if not answer["witness"] and not quiet:
            printing.note(f"the mount at {answer['mountpoint']} is read-only: what is read there is not recorded")
    return told


def _leave(settings: Settings, supervisor: Supervisor, run: str) -> None:
    """Hand over what goes on after the command, and have recorded what was read."""
    from artifactfs.ancestry import descendants
    from artifactfs.mount import control

    left = descendants(os.getpid()) if supervisor.left_behind() else []
    for workspace in _adopt(settings, left, run):  # also those that the command has mounted
        try:
            answer = control.request(workspace, "settle", silence=_SETTLE_SECONDS)
        except ArtifactFSError as error:
            printing.note(f"what was read last may not be recorded: {error}")
            continue
        if answer["waiting"]:
            printing.note(
                f"{printing.many(answer['waiting'], 'input')} will be recorded when the repository can be reached again"
            )


def _end(life: RunLife, code: int) -> None:
    """Record the end. The command's exit status is passed on also when that fails."""
    try:
        life.end(exit_status=code)
    except ArtifactFSError as error:
        printing.note(f"the end of the run {life.id} is not recorded, it will read as crashed: {error}")
        life.abandon()


def _summarize(repository: Repository, life: RunLife, seconds: float) -> None:
    """One line that says what is recorded."""
    try:
        record = repository.registry.run(life.id)
        links = repository.registry.links(runs=[life.id])
    except Unavailable:
        return  # has been said
    if record is None:
        return
    names = {version.id: version.name for version in links.versions}
    parts = []
    for word, output in (("input", False), ("output", True)):
        ends = [names.get(link.version, "a deleted version") for link in links.links if link.output == output]
        rest = ", …" if len(ends) > _NAMED else ""
        parts.append(printing.many(len(ends), word) + (f" ({', '.join(ends[:_NAMED])}{rest})" if ends else ""))
    printing.note(f"run {printing.shown(record.name)} {record.state} after {seconds:.1f} s: {', '.join(parts)}")


def around(repository: Repository) -> str | None:
    """The Run that this command was started in, if it is one of the project; otherwise says that it is none."""
    from artifactfs.ancestry import run_of

    run = run_of(os.getpid())
    if run is not None and repository.registry.run(run) is None:
        note_unknown(run)
        return None
    return run


def note_unknown(run: str, what: str = "output") -> None:
    """Say that a version is not the output (or input) of the Run that made it (or read it)."""
    printing.note(f"not recorded as an {what} of the run {run}, which is not of this project; see artifactfs runs")


def record_input(repository: Repository, version: VersionRecord) -> None:
    """Record that the Run that this command was started in, if any, has read a version. What cannot be recorded is only said."""
    from artifactfs.ancestry import run_of

    run = run_of(os.getpid())
    if run is None:
        return
    try:
        repository.registry.add_inputs(run, [version.id])
    except NotFound:
        note_unknown(run, "input")
    except Unavailable as error:
        printing.note(f"not recorded as an input of the run {run}: {error}")
