"""Runs, and the links between them and versions: the statements, and records from rows.

Used by :mod:`artifactfs.registry.sql` and the commit. Functions on the caller's connection or transaction; safe from any thread.
Nothing here is a visible change of the project: its revision stays.

A Run that is running says so by renewing its row. Once its time is over it reads as crashed, ended when it was last renewed; nothing
writes that down, so it needs nobody to notice it, and a later renewal makes it running again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import BindParameter, ColumnElement, Connection, Select, Table, bindparam, false, func, select, update

from artifactfs.errors import InvalidInput, NotFound
from artifactfs.model.lineage import CRASHED, FAILED, FINISHED, RUNNING, STATES, Link, Links, NewRun, RunRecord
from artifactfs.model.names import check_run, is_run
from artifactfs.registry.checks import LARGEST, check_run_config, check_words, is_text
from artifactfs.registry.database import Database, as_json
from artifactfs.registry.deletion import tombstones_with_ids
from artifactfs.registry.schema import artifact, run, run_input, run_output, version
from artifactfs.registry.sessions import lifetime
from artifactfs.registry.versions import BATCH, record_of, versions_with_ids

LONGEST_COMMAND: Final = 1 << 17  # characters; a client records less

_COLUMNS: Final = (
    "project",
    "id",
    "name",
    "job_type",
    "state",
    "started",
    "renewed",
    "expires",
    "config",
    "host",
    "command",
    "commit_hash",
)
_LINK_COLUMNS: Final = ("project", "run", "version", "at")


def _count(links: Table) -> Any:
    of_run = (links.c.project == run.c.project) & (links.c.run == run.c.id)
    return select(func.count()).select_from(links).where(of_run).correlate(run).scalar_subquery()


# `expires` and `renewed` stand at the end: a record is made of them and the rest.
_RUNS: Final = select(
    run.c.id,
    run.c.name,
    run.c.job_type,
    run.c.state,
    run.c.started,
    run.c.ended,
    run.c.config,
    run.c.host,
    run.c.command,
    run.c.commit_hash,
    run.c.exit_status,
    _count(run_input),
    _count(run_output),
    run.c.renewed,
    run.c.expires,
).where(run.c.project == bindparam("project"))
_STATE: Final = 3
_ENDED: Final = 5
_BY_ID: Final = _RUNS.where(run.c.id.in_(bindparam("ids", expanding=True)))
_LAST_FIRST: Final = (run.c.started.desc(), run.c.id.desc())
_HOLD: Final = (
    select(run.c.state).where(run.c.project == bindparam("of"), run.c.id == bindparam("called")).with_for_update()
)
_CHANGE: Final = update(run).where(run.c.project == bindparam("of"), run.c.id == bindparam("called"))
_RENEW: Final = _CHANGE.where(run.c.state == RUNNING)
_VERSIONS_THERE: Final = (
    select(version.c.id)
    .join_from(version, artifact, artifact.c.id == version.c.artifact)
    .where(artifact.c.project == bindparam("project"), version.c.id.in_(bindparam("ids", expanding=True)))
)


def _links_of(links: Table) -> tuple[Any, Any]:
    """The statements that find the links of some versions, and of some Runs."""
    found = select(links.c.run, links.c.version, links.c.at).where(links.c.project == bindparam("project"))
    keys: BindParameter[Any] = bindparam("keys", expanding=True)
    return found.where(links.c.version.in_(keys)), found.where(links.c.run.in_(keys))


_LINKS: Final = ((False, *_links_of(run_input)), (True, *_links_of(run_output)))


def check_new(new: NewRun) -> NewRun:
    """A Run as it may be started. InvalidInput for what is none."""
    check_run(new.id)
    check_words(new.name, "the name of a run", least=1, most=255)
    check_words(new.job_type, "a job type", most=128)
    check_words(new.commit_hash, "a git commit", most=128)
    check_words(new.host, "the name of a host", most=255)
    if not all(map(is_text, new.command)):
        raise InvalidInput("the command of the run is not valid UTF-8 or holds NUL; replace what is not")
    if (length := sum(map(len, new.command))) > LONGEST_COMMAND:
        raise InvalidInput(f"the command of the run has {length} characters; shorten it to {LONGEST_COMMAND}")
    lifetime(new.seconds, what="a run")
    return msgspec.structs.replace(new, config=check_run_config(new.config))


def check_change(*, config: dict[str, Any] | None, state: str | None, exit_status: int | None) -> dict[str, Any]:
    """What is given, by column. A Run is started to be running, and nobody says that it crashed: only its ends are written."""
    if state not in {None, FINISHED, FAILED}:
        raise InvalidInput(f"a run cannot be made {state!r}: {FINISHED!r} and {FAILED!r} end it")
    if exit_status is not None and not -(2**31) <= exit_status < 2**31:
        raise InvalidInput(f"not an exit status: {exit_status}")
    checked = None if config is None else check_run_config(config)
    given = {"config": checked, "state": state, "exit_status": exit_status}
    return {column: value for column, value in given.items() if value is not None}


def start_run(connection: Connection, database: Database, project: int, new: NewRun, *, now: int) -> RunRecord:
    """Start a checked Run, or take the one with this id up again."""
    expires = now + lifetime(new.seconds, what="a run")
    config, command = as_json(new.config), as_json(new.command)
    row = (
        project,
        new.id,
        new.name,
        new.job_type,
        RUNNING,
        now,
        now,
        expires,
        config,
        new.host,
        command,
        new.commit_hash,
    )
    database.insert_absent(connection, run, _COLUMNS, [row])
    again = {"state": RUNNING, "ended": None, "exit_status": None, "renewed": now, "expires": expires}
    connection.execute(_CHANGE, {"of": project, "called": new.id, **again})
    return _require_record(connection, project, new.id, now=now)


def renew_run(connection: Connection, project: int, called: str, *, now: int, expires: int) -> None:
    """Move the instant at which a Run counts as crashed. NotFound without it."""
    renewed = connection.execute(_RENEW, {"of": project, "called": called, "renewed": now, "expires": expires})
    if not renewed.rowcount:
        require_run(connection, project, called)


def update_run(connection: Connection, project: int, called: str, change: dict[str, Any], *, now: int) -> RunRecord:
    """Replace what a checked change gives. Ending a Run again the same way leaves when it ended. NotFound without it."""
    present = require_run(connection, project, called)
    if change.get("state", present) != present:
        change = change | {"ended": now}
    if change:
        connection.execute(_CHANGE, {"of": project, "called": called, **change})
    return _require_record(connection, project, called, now=now)


def require_run(connection: Connection, project: int, called: str) -> str:
    """The state of a Run as it is written down; its row is held until the transaction ends. NotFound without it."""
    state = connection.execute(_HOLD, {"of": project, "called": called}).scalar()
    if state is None:
        raise _no_run(called)
    return str(state)


def runs_with_ids(connection: Connection, project: int, ids: Sequence[str], *, now: int) -> list[RunRecord]:
    """The Runs of the project with these ids (any number, each once), in their order."""
    found: dict[str, RunRecord] = {}
    for batch in _batches(ids):
        rows = connection.execute(_BY_ID, {"project": project, "ids": batch})
        found.update((record.id, record) for record in (_run(row, now) for row in rows))
    return [found[called] for called in ids if called in found]


def wanted(
    *, job_type: str | None, state: str | None, name: str | None, limit: int | None, offset: int, now: int
) -> Select[Any]:
    """The statement that finds Runs, the last started first. InvalidInput for a state or a limit that there is not."""
    conditions = [] if state is None else [_is_in(state, now)]
    for column, value in ((run.c.job_type, job_type), (run.c.name, name)):
        if value is not None:
            conditions.append(column == value if is_text(value) else false())
    for number, what in ((limit, "limit"), (offset, "offset")):
        if number is not None and not 0 <= number <= LARGEST:
            raise InvalidInput(f"not a {what} of runs: {number}; choose 0 or more")
    # SQLite skips rows only where there is a limit.
    return _RUNS.where(*conditions).order_by(*_LAST_FIRST).limit(LARGEST if limit is None else limit).offset(offset)


def runs(connection: Connection, project: int, statement: Select[Any], *, now: int) -> list[RunRecord]:
    """The Runs of the project that a statement by :func:`wanted` finds."""
    return [_run(row, now) for row in connection.execute(statement, {"project": project})]


def add_inputs(
    connection: Connection, database: Database, project: int, called: str, versions: Collection[int], *, now: int
) -> None:
    """Record what a Run used, all or nothing; a version may be deleted by now. NotFound without the Run or a version."""
    require_run(connection, project, called)
    wanted = sorted(set(versions))
    there: set[int] = set()
    for batch in _batches([identity for identity in wanted if 0 <= identity <= LARGEST]):
        there.update(connection.execute(_VERSIONS_THERE, {"project": project, "ids": batch}).scalars())
    if absent := [identity for identity in wanted if identity not in there]:
        raise NotFound(f"there is no version with the id {absent[0]} in this project; use the id of a version's record")
    add_links(connection, database, run_input, project, called, wanted, now=now)


def add_links(
    connection: Connection,
    database: Database,
    links: Table,
    project: int,
    called: str,
    versions: Iterable[int],
    *,
    now: int,
) -> None:
    """Link a Run with versions, in ``run_input`` or ``run_output``. A link that is there keeps its time."""
    rows = [(project, called, identity, now) for identity in versions]
    if rows:
        database.insert_absent(connection, links, _LINK_COLUMNS, rows)


def links(
    connection: Connection, project: int, versions: Collection[int], called: Collection[str], *, now: int
) -> Links:
    """All links of these versions and of these Runs, in order of time, and what they name."""
    identities = sorted({identity for identity in versions if 0 <= identity <= LARGEST})
    names = sorted({name for name in called if is_run(name)})
    found: dict[tuple[str, int, bool], Link] = {}
    for output, by_version, by_run in _LINKS:
        asked = [(by_version, batch) for batch in _batches(identities)] + [(by_run, batch) for batch in _batches(names)]
        for statement, keys in asked:
            for name, identity, at in connection.execute(statement, {"project": project, "keys": keys}):
                found[name, identity, output] = record_of(Link, (name, identity, output, at))
    ordered = sorted(found.values(), key=lambda link: (link.at, link.run, link.version, link.output))
    ids = list(dict.fromkeys(link.version for link in ordered))
    return Links(
        ordered,
        runs_with_ids(connection, project, list(dict.fromkeys(link.run for link in ordered)), now=now),
        versions_with_ids(connection, project, ids),
        tombstones_with_ids(connection, project, ids),
    )


def _is_in(state: str, now: int) -> ColumnElement[bool]:
    """What a Run is in a state by: as records tell it."""
    if state not in STATES:
        raise InvalidInput(f"not a state of a run: {state!r}; {', '.join(STATES)} are")
    if state == RUNNING:
        return (run.c.state == RUNNING) & (run.c.expires > now)
    if state == CRASHED:
        return (run.c.state == RUNNING) & (run.c.expires <= now)
    return run.c.state == state


def _run(row: Sequence[Any], now: int) -> RunRecord:
    *values, renewed, expires = row
    if values[_STATE] == RUNNING and isinstance(expires, int) and expires <= now:
        values[_STATE], values[_ENDED] = CRASHED, renewed
    return record_of(RunRecord, values)


def _require_record(connection: Connection, project: int, called: str, *, now: int) -> RunRecord:
    found = runs_with_ids(connection, project, [called], now=now)
    if not found:
        raise _no_run(called)
    return found[0]


def _no_run(called: str) -> NotFound:
    return NotFound(f"there is no run {called!r} in this project; `artifactfs runs` lists those there are")


def _batches(keys: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(keys), BATCH):
        yield keys[start : start + BATCH]
