"""What the tables must say of each other, beyond what the database enforces: one query a rule.

Used by ``Registry.check``. Functions on the caller's connection; reads everything once. Safe from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Select, Table, func, select

from artifactfs.model.digest import DIGEST_SIZE
from artifactfs.model.names import LATEST
from artifactfs.registry.schema import (
    EVERY_ARTIFACT,
    PACK_ALIVE,
    PACK_GONE,
    alias,
    artifact,
    chunk,
    fact,
    former_name,
    pack,
    project,
    protection,
    retention_rule,
    run_input,
    run_output,
    tag,
    version,
)

_SHOWN: Final = 20  # findings of one rule; more would say no more


class Rule(NamedTuple):
    """A query that finds nothing in a whole registry, and what one of its rows means."""

    breaches: Select[Any]
    told: Callable[[Sequence[Any]], str]


def _hexadecimal(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else repr(value)  # damaged rows hold anything


def _not_of_deleted(table: Table, what: str) -> Rule:
    return Rule(
        select(artifact.c.name, version.c.number)
        .distinct()
        .join_from(table, version, version.c.id == table.c.version)
        .join(artifact, artifact.c.id == version.c.artifact)
        .where(version.c.deleted.is_not(None)),
        lambda row: f"{row[0]}:v{row[1]} is deleted, but has {what}",
    )


def _of_own_project(table: Table, what: str) -> Rule:
    its_own = (artifact.c.id == table.c.artifact) & (artifact.c.project == table.c.project)
    return Rule(
        select(table.c.artifact)
        .outerjoin_from(table, artifact, its_own)
        .where(table.c.artifact != EVERY_ARTIFACT, artifact.c.id.is_(None)),
        lambda row: f"{what} is of the artifact with the id {row[0]}, which its project lacks",
    )


RULES: Final = (
    # An alias names a living version of its own artifact.
    Rule(
        select(artifact.c.name, alias.c.name)
        .join_from(alias, artifact, artifact.c.id == alias.c.artifact)
        .outerjoin(version, (version.c.id == alias.c.version) & (version.c.artifact == alias.c.artifact))
        .where(version.c.id.is_(None) | version.c.deleted.is_not(None)),
        lambda row: f"the alias {row[0]}:{row[1]} names no living version of {row[0]}",
    ),
    # An artifact with a living version has a `latest`.
    Rule(
        select(artifact.c.name).where(
            select(version.c.id).where(version.c.artifact == artifact.c.id, version.c.deleted.is_(None)).exists(),
            ~select(alias.c.name).where(alias.c.artifact == artifact.c.id, alias.c.name == LATEST).exists(),
        ),
        lambda row: f"{row[0]} has versions, but no alias {LATEST}",
    ),
    # No number is given twice.
    Rule(
        select(artifact.c.name, func.max(version.c.number), artifact.c.next_number)
        .join_from(artifact, version, version.c.artifact == artifact.c.id)
        .group_by(artifact.c.id, artifact.c.name, artifact.c.next_number)
        .having(func.max(version.c.number) >= artifact.c.next_number),
        lambda row: f"{row[0]} has v{row[1]}, but would give the number {row[2]} next",
    ),
    Rule(
        select(artifact.c.name, version.c.number)
        .join_from(version, artifact, artifact.c.id == version.c.artifact)
        .where(func.length(version.c.digest) != DIGEST_SIZE),
        lambda row: f"the digest of {row[0]}:v{row[1]} has a wrong length",
    ),
    # A deleted version has nothing that search would find it by.
    *(_not_of_deleted(table, what) for table, what in ((tag, "tags"), (fact, "facts"))),
    # A Run is linked with versions of its own project.
    *(
        Rule(
            select(links.c.run, artifact.c.name, version.c.number)
            .join_from(links, version, version.c.id == links.c.version)
            .join(artifact, artifact.c.id == version.c.artifact)
            .where(artifact.c.project != links.c.project),
            lambda row: f"the run {row[0]} is linked with {row[1]}:v{row[2]} of another project",
        )
        for links in (run_input, run_output)
    ),
    # The Run that made a version has it as an output.
    Rule(
        select(artifact.c.name, version.c.number, version.c.run)
        .join_from(version, artifact, artifact.c.id == version.c.artifact)
        .outerjoin(
            run_output,
            (run_output.c.project == artifact.c.project)
            & (run_output.c.run == version.c.run)
            & (run_output.c.version == version.c.id),
        )
        .where(version.c.run != "", run_output.c.version.is_(None)),
        lambda row: f"{row[0]}:v{row[1]} was made by the run {row[2]!r}, of which it is no output",
    ),
    # A pack has a data key when its project is encrypted, and none otherwise. Of an object that a collection found, or that was only
    # said to come, no key is known, and that of a pack which is gone went with it.
    Rule(
        select(project.c.name, pack.c.digest)
        .join_from(pack, project, project.c.id == pack.c.project)
        .where(
            (project.c.key_id == "") != pack.c.wrapped_key.is_(None),
            (pack.c.state == PACK_ALIVE) | pack.c.wrapped_key.is_not(None),
        ),
        lambda row: f"the pack {row[1]} has a key and the project {row[0]} is not encrypted, or the other way round",
    ),
    # What is said of an artifact is said in its own project.
    _of_own_project(protection, "a protected alias"),
    _of_own_project(retention_rule, "a retention rule"),
    _of_own_project(former_name, "a former name"),
    # A chunk lies in a pack of its project.
    Rule(
        select(chunk.c.digest, pack.c.digest)
        .join_from(chunk, pack, pack.c.id == chunk.c.pack)
        .where(
            (chunk.c.project != pack.c.project)
            | (chunk.c.offset < 0)
            | (chunk.c.length <= 0)
            | (chunk.c.offset + chunk.c.length > pack.c.size)
            | (func.length(chunk.c.digest) != DIGEST_SIZE)
            | (pack.c.state == PACK_GONE)
        ),
        lambda row: f"the chunk {_hexadecimal(row[0])} does not lie in its pack {row[1]}",
    ),
)


def breaches(connection: Connection) -> Iterator[str]:
    """Each broken rule's findings, a line each. Damage that prevents a query from running raises Integrity."""
    for rule in RULES:
        rows = connection.execute(rule.breaches.limit(_SHOWN + 1)).all()
        yield from map(rule.told, rows[:_SHOWN])
        if len(rows) > _SHOWN:
            yield "… and more of these"
