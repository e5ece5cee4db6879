"""``runs`` and ``lineage``: which processes used and made versions, and what a version came from."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from artifactfs.cli import printing
from artifactfs.cli.context import ADDRESS, Context, pass_context
from artifactfs.cli.inspect import as_json, tombstone_fields, version_fields
from artifactfs.errors import Conflict, NotFound
from artifactfs.model.lineage import STATES
from artifactfs.model.names import Address

if TYPE_CHECKING:
    from artifactfs.model.lineage import Lineage, Links, RunRecord
    from artifactfs.model.records import VersionRecord
    from artifactfs.model.retention import Tombstone
    from artifactfs.registry.contract import Registry

_LINES: Final = {True: ("├── ", "└── ", "│   "), False: ("|-- ", "`-- ", "|   ")}
_GAP: Final = "    "
_DEEP: Final = 8
"""Levels from which what is a chain is indented no further: a data set that each day's run appends to has hundreds."""
_NAMED: Final = 5  # ids that a message offers


@click.command("runs")
@click.argument("run", required=False)
@click.option("--job-type", metavar="T", help="Runs of this job type.")
@click.option("--state", type=click.Choice(STATES), help="Runs in this state.")
@click.option("--name", metavar="NAME", help="Runs of this name.")
@click.option("--limit", metavar="N", type=click.IntRange(min=0), help="At most so many.")
@as_json
@pass_context
def runs_command(
    context: Context,
    run: str | None,
    job_type: str | None,
    state: str | None,
    name: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """List runs, the last started first, with how many versions each used and made.

    With RUN, the id or the name of one, show all that is known of it: its command, configuration, inputs and outputs.

    \b
    Example:
      artifactfs runs --job-type train --state failed --limit 10
      artifactfs runs train-20260131-140509
    """
    if run is not None:
        if job_type or state or name or limit is not None:
            raise click.UsageError("RUN names one run; the options choose among all: give one or the others")
        _show_run(context, run, as_json=as_json)
        return
    try:
        with context.open() as repository:
            found = repository.registry.runs(job_type=job_type, state=state, name=name, limit=limit)
    except NotFound:
        if not context.settings.repository_is_default:
            raise
        found = []  # nothing was run yet on this machine
    if as_json:
        printing.json_array(map(run_fields, found))
        return
    rows = [
        (
            run.id,
            run.name,
            run.job_type,
            run.state,
            printing.when(run.started),
            _took(run),
            str(run.inputs),
            str(run.outputs),
        )
        for run in found
    ]
    if rows:
        headings = ("RUN", "NAME", "JOB TYPE", "STATE", "STARTED", "TOOK", "INPUTS", "OUTPUTS")
        printing.table(headings, rows, right=(5, 6, 7))
    else:
        printing.note(
            "no runs; `artifactfs run --job-type T -- COMMAND` makes one"
            if not (job_type or state or name)
            else "no such runs"
        )


def _show_run(context: Context, wanted: str, *, as_json: bool) -> None:
    with context.open() as repository:
        run = _find_run(repository.registry, wanted)
        links = repository.registry.links(runs=[run.id])
    names = {version.id: version.name for version in links.versions}
    names |= {gone.id: gone.name for gone in links.deleted}
    deleted = {gone.name for gone in links.deleted}
    used, made = (
        [names.get(link.version) for link in links.links if link.output is output] for output in (False, True)
    )
    if as_json:
        printing.as_json({**run_fields(run), "used": used, "logged": made})
        return
    state = run.state if run.exit_status is None else f"{run.state}, exit status {run.exit_status}"
    took = f"  (took {_took(run)})" if run.ended is not None else ""
    for label, text in (
        ("run", run.id),
        ("name", run.name),
        ("job type", run.job_type),
        ("state", state),
        ("started", printing.when(run.started)),
        ("ended", printing.when(run.ended) + took if run.ended is not None else "not yet"),
        ("host", run.host),
        ("commit", run.commit_hash),
        ("command", shlex.join(run.command)),
        *_lines("inputs", used, deleted),
        *_lines("outputs", made, deleted),
    ):
        printing.line(f"{label:<10}{printing.shown(text)}".rstrip())
    printing.line("config")
    printing.values(run.config)


def _lines(label: str, names: Sequence[str | None], deleted: set[str]) -> list[tuple[str, str]]:
    """A version a line, the first behind the label."""
    shown = [f"{name} (deleted)" if name in deleted else name or "a deleted version" for name in names] or ["none"]
    return [(label if number == 0 else "", name) for number, name in enumerate(shown)]


def _find_run(registry: Registry, wanted: str) -> RunRecord:
    """The Run of an id or, if there is only one of it, of a name."""
    found = registry.run(wanted)
    if found is not None:
        return found
    named = registry.runs(name=wanted, limit=_NAMED + 1)
    if not named:
        raise NotFound(f"no run has the id or name {wanted!r}; `artifactfs runs` lists them")
    if len(named) > 1:
        more = ", …" if len(named) > _NAMED else ""
        ids = ", ".join(run.id for run in named[:_NAMED])
        raise Conflict(f"several runs are called {wanted!r}: give the id of one ({ids}{more})")
    return named[0]


def run_fields(run: RunRecord) -> dict[str, Any]:
    """A Run as JSON shows it."""
    return {
        "id": run.id,
        "name": run.name,
        "job_type": run.job_type,
        "state": run.state,
        "started": printing.iso(run.started),
        "ended": printing.iso(run.ended) if run.ended is not None else None,
        "exit_status": run.exit_status,
        "inputs": run.inputs,
        "outputs": run.outputs,
        "config": run.config,
        "host": run.host,
        "command": list(run.command),
        "commit_hash": run.commit_hash or None,
    }


def _took(run: RunRecord) -> str:
    """How long a Run that ended took: ``9 s``, ``2:05 min``, ``1:30 h``."""
    if run.ended is None:
        return ""
    seconds = max(0, run.ended - run.started) // 1_000_000_000
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60}:{seconds % 60:02} min"
    return f"{seconds // 3600}:{seconds % 3600 // 60:02} h"


@click.command("lineage")
@click.argument("address", type=ADDRESS)
@click.option("--depth", metavar="N", type=click.IntRange(min=0), help="At most so many runs away.")
@click.option("--upstream", "only", flag_value="upstream", help="Only what it was made from.")
@click.option("--downstream", "only", flag_value="downstream", help="Only what was made from it.")
@as_json
@click.option("--dot", is_flag=True, help="Print the graph for Graphviz: artifactfs lineage A --dot | dot -Tsvg")
@pass_context
def lineage_command(
    context: Context, address: Address, depth: int | None, only: str | None, as_json: bool, dot: bool
) -> None:
    """Show what a version was made from, by which runs, and what was made from it.

    A run or version that comes again is written once with all that belongs to it, and marked (above) elsewhere.

    \b
    Example:
      artifactfs lineage bike-model:latest
      artifactfs lineage bike-model:v3 --upstream --depth 2
    """
    from artifactfs.model.lineage import walk

    if as_json and dot:
        raise click.UsageError("--json and --dot are two formats: give one of them")
    with context.open_for(address) as repository:
        root: VersionRecord | Tombstone
        try:
            root = repository.resolve(address)
        except NotFound:
            gone = repository.tombstone(address)
            if gone is None:
                raise
            root = gone

        def ask(versions: Collection[int], runs: Collection[str]) -> Links:
            return repository.registry.links(versions=versions, runs=runs)

        found = walk(root, ask, depth=depth, upstream=only != "downstream", downstream=only != "upstream")
    if as_json:
        printing.as_json(graph_fields(found))
    elif dot:
        for line in dot_lines(found):
            printing.line(line)
    else:
        unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        for line in tree_lines(found, unicode=unicode):
            printing.line(line)
    if not found.complete:
        printing.note(
            "there is more; --depth says how far to go" if depth is not None else "there is more: this is cut"
        )


def graph_fields(found: Lineage) -> dict[str, Any]:
    """The graph as JSON shows it. Versions that were deleted since are listed apart."""
    versions: dict[int, VersionRecord | Tombstone] = {**found.versions, **found.deleted}
    return {
        "version": found.root.name,
        "versions": [{"id": version.id, **version_fields(version)} for version in found.versions.values()],
        "deleted": [{"id": gone.id, **tombstone_fields(gone)} for gone in found.deleted.values()],
        "runs": [run_fields(run) for run in found.runs.values()],
        "links": [
            {
                "run": link.run,
                "version": versions[link.version].name if link.version in versions else None,
                "version_id": link.version,
                "kind": "output" if link.output else "input",
                "at": printing.iso(link.at),
            }
            for link in found.links
        ],
        "complete": found.complete,
    }


def dot_lines(found: Lineage) -> Iterator[str]:
    """The graph in Graphviz's language: versions are boxes, runs ellipses, and arrows go the way of the data."""
    yield "digraph lineage {"
    yield '  rankdir=LR; node [fontname="sans-serif"];'
    named = {link.version for link in found.links} | set(found.versions) | set(found.deleted)
    for identity in sorted(named):
        version, gone = found.versions.get(identity), found.deleted.get(identity)
        if gone is not None:
            label = _quoted(gone.name, f"{gone.type}, deleted")
        else:
            label = _quoted("a deleted version") if version is None else _quoted(version.name, version.type)
        bold = ", penwidth=2" if identity == found.root.id else ""
        yield f'  "v{identity}" [shape=box, label={label}{bold}];'
    for run in found.runs.values():
        yield f'  "run {run.id}" [shape=ellipse, label={_quoted(run.name, _kind(run))}];'
    for link in found.links:
        ends = (f'"run {link.run}"', f'"v{link.version}"')
        yield f"  {' -> '.join(ends if link.output else reversed(ends))};"
    yield "}"


def _quoted(*lines: str) -> str:
    escaped = (printing.shown(line).replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(escaped) + '"'


def _kind(run: RunRecord) -> str:
    return f"{run.job_type}, {run.state}" if run.job_type else run.state


def tree_lines(found: Lineage, *, unicode: bool) -> Iterator[str]:
    """The graph as a tree below the version that was asked for: up to its makers, then down to its users."""
    fork, last, bar = _LINES[unicode]
    yield _version_line(found, found.root.id)
    drawn: set[tuple[int | str, bool]] = set()
    # A list instead of calls of itself: a chain of runs may be longer than Python's stack.
    pending = _branches(found, found.root.id, up=True) + _branches(found, found.root.id, up=False)
    stack = [("", each, number == 0) for number, each in enumerate(reversed(pending))]
    while stack:
        prefix, (how, node, up), is_last = stack.pop()
        below = _branches(found, node, up=up)
        again = bool(below) and (node, up) in drawn
        drawn.add((node, up))
        text = _run_line(found.runs.get(node), node) if isinstance(node, str) else _version_line(found, node)
        yield f"{prefix}{last if is_last else fork}{how} {text}{'  (above)' if again else ''}"
        if not again:
            chained = is_last and len(below) == 1 and len(prefix) >= _DEEP * len(_GAP)
            inner = prefix if chained else prefix + (_GAP if is_last else bar)
            stack += [(inner, each, number == 0) for number, each in enumerate(reversed(below))]


def _branches(found: Lineage, node: int | str, *, up: bool) -> list[tuple[str, int | str, bool]]:
    """What hangs below a version or Run in one direction: how it is linked, and what it is."""
    nodes: list[int] | list[str]
    if isinstance(node, str):
        how, nodes = ("from", found.used.get(node, [])) if up else ("made", found.made.get(node, []))
    else:
        how, nodes = ("made by", found.makers.get(node, [])) if up else ("used by", found.users.get(node, []))
    return [(how, each, up) for each in nodes]


def _version_line(found: Lineage, identity: int) -> str:
    gone = found.deleted.get(identity)
    if gone is not None:
        when = printing.when(gone.deleted)
        return printing.shown(f"{gone.name}  {gone.type}, deleted {when} by {gone.deleted_by or 'somebody'}")
    version = found.versions.get(identity)
    return f"{version.name}  {printing.shown(version.type)}" if version is not None else "a deleted version"


def _run_line(run: RunRecord | None, identity: str) -> str:
    if run is None:
        return identity
    name = "" if run.name == identity else f"{printing.shown(run.name)}  "
    return f"{name}{printing.shown(_kind(run))}  {printing.when(run.started)}  {identity}"
