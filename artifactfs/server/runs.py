"""Routes of Runs and lineage: start, heartbeat, end, inputs, and the links between Runs and versions.

Each is one method of the Registry contract, whose docstrings say what they do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

from fastapi import Path, Query
from starlette.responses import Response

from artifactfs.errors import NotFound
from artifactfs.model.access import READ, WRITE
from artifactfs.model.lineage import Link, Links, NewRun, RunRecord
from artifactfs.model.records import VersionRecord
from artifactfs.model.retention import Tombstone
from artifactfs.registry.contract import Registry
from artifactfs.remote import wire
from artifactfs.server.calls import ProjectCall
from artifactfs.server.document import Operations
from artifactfs.server.portions import bound, fitting, portion

operation: Final = Operations("Runs")

RunId = Annotated[str, Path(description="The run's id.")]


@operation("POST", "/runs", takes=NewRun, gives=RunRecord, role=WRITE)
async def start_run(call: ProjectCall) -> Response:
    """Start a Run, or take up the one with this id again."""
    new = await call.message(NewRun)
    return await call.write(lambda registry: registry.start_run(new))


@operation("GET", "/runs", gives=wire.Runs, role=READ)
async def runs(
    call: ProjectCall,
    job_type: Annotated[str | None, Query(description="Of this job type alone.")] = None,
    state: Annotated[
        str | None, Query(description="In this state alone: running, finished, failed or crashed.")
    ] = None,
    name: Annotated[str | None, Query(description="Of this name alone.")] = None,
    limit: Annotated[int | None, Query(description=f"How many at most; never more than {wire.RECORDS}.")] = None,
    offset: Annotated[int, Query(description="How many to leave out first.")] = 0,
) -> Response:
    """Runs, the last started first."""

    def find(registry: Registry) -> wire.Runs:
        most = bound(limit)
        found = registry.runs(job_type=job_type, state=state, name=name, limit=most, offset=offset)
        taken = portion(found)
        return wire.Runs(taken, more=len(taken) < len(found) or len(found) == most != limit)

    return await call.read(find)


@operation("GET", "/runs/{run}", gives=RunRecord, fails=(404,), role=READ)
async def run(call: ProjectCall, run: RunId) -> Response:
    """One Run."""

    def find(registry: Registry) -> RunRecord:
        found = registry.run(run)
        if found is None:
            raise NotFound(f"there is no run {run!r}; `artifactfs runs` lists those there are")
        return found

    return await call.read(find)


@operation("PATCH", "/runs/{run}", takes=wire.RunChange, gives=RunRecord, fails=(404,), role=WRITE)
async def update_run(call: ProjectCall, run: RunId) -> Response:
    """Replace a Run's configuration, or end it."""
    new = await call.message(wire.RunChange)
    return await call.write(
        lambda registry: registry.update_run(run, config=new.config, state=new.state, exit_status=new.exit_status)
    )


@operation("PUT", "/runs/{run}/life", takes=wire.RunLife, fails=(404,), role=WRITE)
async def renew_run(call: ProjectCall, run: RunId) -> Response:
    """Say that a Run still runs: its heartbeat."""
    life = await call.message(wire.RunLife)
    return await call.write(lambda registry: registry.renew_run(run, seconds=life.seconds))


@operation("POST", "/runs/{run}/inputs", takes=wire.Inputs, fails=(404,), role=WRITE)
async def add_inputs(call: ProjectCall, run: RunId) -> Response:
    """Record that a Run used versions. Outputs are recorded by commits."""
    used = await call.message(wire.Inputs)
    return await call.write(lambda registry: registry.add_inputs(run, used.versions))


@operation("POST", "/links", takes=wire.LinksWanted, gives=wire.Lineage, role=READ)
async def links(call: ProjectCall) -> Response:
    """All links of some versions and Runs, with the Runs and versions at both ends."""
    wanted = await call.message(wire.LinksWanted)
    return await call.read(
        lambda registry: _lineage(registry.links(versions=wanted.versions, runs=wanted.runs), max(0, wanted.after))
    )


def _lineage(found: Links, after: int) -> wire.Lineage:
    """As much behind the first ``after`` links as one answer holds. The order stays while links are added."""
    rest = sorted(found.links, key=lambda link: (link.at, link.run, link.version, link.output))[after:]
    runs = {record.id: record for record in found.runs}
    versions = {record.id: record for record in found.versions}
    deleted = {record.id: record for record in found.deleted}
    taken = rest[: fitting(_sizes(rest, runs, {**versions, **deleted}))]
    named_runs = dict.fromkeys(link.run for link in taken)
    named_versions = dict.fromkeys(link.version for link in taken)
    return wire.Lineage(
        taken,
        [runs[identity] for identity in named_runs if identity in runs],
        [versions[identity] for identity in named_versions if identity in versions],
        more=len(taken) < len(rest),
        deleted=[deleted[identity] for identity in named_versions if identity in deleted],
    )


def _sizes(
    links: list[Link], runs: dict[str, RunRecord], versions: dict[int, VersionRecord | Tombstone]
) -> Iterator[int]:
    """Encoded bytes of each link, with the records that it is the first to name."""
    told: set[object] = set()
    for link in links:
        size = len(wire.encode(link))
        for identity, record in ((link.run, runs.get(link.run)), (link.version, versions.get(link.version))):
            if record is not None and identity not in told:
                told.add(identity)
                size += len(wire.encode(record))
        yield size
