"""The Registry's tables, in types that SQLite and PostgreSQL both have.

Used by the modules of this package only. The tables are immutable values and may be used from any thread.

Instants are nanoseconds since the epoch, sizes are bytes, digests of chunks and trees are 32 raw bytes. Identifiers are never used
again (AUTOINCREMENT on SQLite): inode numbers, caches, lineage and sessions rely on it.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
)

# The format that this release writes and reads; it stands in `meta` under FORMAT_KEY. Any change of a table raises it, and
# gets a step in `migration.py`.
FORMAT: Final = 3
FORMAT_KEY: Final = "format"
# Key in `meta` of the bucket that the packs are in; absent or empty: they are beside the registry. Since format 3.
STORE_KEY: Final = "store"
# Key in `meta` of the registry, another one, whose packs lie beside this one; absent: they are this one's. Since format 3.
OTHER_KEY: Final = "registry"

# SQLite numbers rows by itself only in a column that is INTEGER to the letter; there it has 64 bits anyway.
_IDENTIFIER: Final = BigInteger().with_variant(Integer(), "sqlite")

TABLES: Final = MetaData()

meta: Final = Table(
    "meta",
    TABLES,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

project: Final = Table(
    "project",
    TABLES,
    Column("id", _IDENTIFIER, primary_key=True),
    Column("name", String(128), nullable=False, unique=True),
    Column("revision", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    # Id of the key that wraps the keys of its packs; empty: nothing is sealed. Since format 3.
    Column("key_id", String(64), nullable=False, server_default=""),
    # Bytes at most: of its packs, and of its living versions' files as if each were stored alone; null: any number. Since format 3.
    Column("quota_stored", BigInteger),
    Column("quota_logical", BigInteger),
    sqlite_autoincrement=True,
)

artifact: Final = Table(
    "artifact",
    TABLES,
    Column("id", _IDENTIFIER, primary_key=True),
    Column("project", ForeignKey("project.id"), nullable=False),
    Column("name", String(128), nullable=False),
    Column("type", String(128), nullable=False),
    Column("created", BigInteger, nullable=False),
    # The number of the next version. It only rises, so that a deleted version's number is not given again.
    Column("next_number", BigInteger, nullable=False),
    UniqueConstraint("project", "name"),
    sqlite_autoincrement=True,
)

version: Final = Table(
    "version",
    TABLES,
    Column("id", _IDENTIFIER, primary_key=True),
    Column("artifact", ForeignKey("artifact.id"), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("files", BigInteger, nullable=False),
    Column("entries", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("description", Text, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("deleted", BigInteger),  # null while the version lives
    # When description, metadata or tags were last replaced; 0: never. Since format 2, as is the next one.
    Column("updated", BigInteger, nullable=False, server_default="0"),
    Column("run", String(64), nullable=False, server_default=""),  # that made it; empty when none did
    Column("deleted_by", String(255), nullable=False, server_default=""),  # for people. Since format 3.
    UniqueConstraint("artifact", "number"),
    sqlite_autoincrement=True,
)

# Equal contents are one version; those of a deleted version may come again, under a new number. An index that is partial here is so on
# PostgreSQL too, as artifactfs/registry/postgresql.py says: here that would load SQLAlchemy's dialect of it with every command.
Index(
    "version_living_digest",
    version.c.artifact,
    version.c.digest,
    unique=True,
    sqlite_where=version.c.deleted.is_(None),
)

# Every commit that was made, by the id its client gave it. A row of its own and no column of `version`, because a commit
# that reused a version must answer its repeats too, without moving `latest` a second time.
commit_made: Final = Table(
    "commit_made",
    TABLES,
    Column("artifact", ForeignKey("artifact.id"), primary_key=True),
    Column("commit_id", String(128), primary_key=True),
    Column("version", ForeignKey("version.id"), nullable=False),
    Column("created", Boolean, nullable=False),  # whether it made the version or reused it
    sqlite_with_rowid=False,
)

alias: Final = Table(
    "alias",
    TABLES,
    Column("artifact", ForeignKey("artifact.id"), primary_key=True),
    Column("name", String(128), primary_key=True),
    Column("version", ForeignKey("version.id"), nullable=False),
    sqlite_with_rowid=False,
)

tag: Final = Table(
    "tag",
    TABLES,
    Column("version", ForeignKey("version.id"), primary_key=True),
    Column("name", String(128), primary_key=True),
    sqlite_with_rowid=False,
)
Index("tag_name", tag.c.name)

# Runs are named by their clients, within their project. `expires` is when one that is running and was not renewed counts as crashed,
# which nothing writes down: it is seen when the row is read.
run: Final = Table(
    "run",
    TABLES,
    Column("project", ForeignKey("project.id"), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("job_type", String(128), nullable=False),
    Column("state", String(16), nullable=False),  # running, finished or failed
    Column("started", BigInteger, nullable=False),
    Column("ended", BigInteger),
    Column("renewed", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False),
    Column("config", JSON, nullable=False),
    Column("host", Text, nullable=False),
    Column("command", JSON, nullable=False),
    Column("commit_hash", String(128), nullable=False),
    Column("exit_status", Integer),
)
Index("run_started", run.c.project, run.c.started, run.c.id)


def _links(name: str) -> Table:
    """Versions that Runs read, or made. The rows of a deleted version stay, as its own row does."""
    return Table(
        name,
        TABLES,
        Column("project", BigInteger, primary_key=True),
        Column("run", String(64), primary_key=True),
        Column("version", ForeignKey("version.id"), primary_key=True),
        Column("at", BigInteger, nullable=False),  # the first time
        ForeignKeyConstraint(["project", "run"], ["run.project", "run.id"]),
        Index(f"{name}_version", "version"),
        sqlite_with_rowid=False,
    )


run_input: Final = _links("run_input")
run_output: Final = _links("run_output")

pack: Final = Table(
    "pack",
    TABLES,
    Column("id", _IDENTIFIER, primary_key=True),  # what a chunk's row names, instead of 64 digits
    Column("project", ForeignKey("project.id"), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("wrapped_key", LargeBinary),  # null: its chunks are not sealed. Since format 3.
    Column("state", SmallInteger, nullable=False, server_default="0"),  # as below. Since format 3, as are the next two.
    # Of a condemned pack: the highest session that may rely on it; null while that is not known.
    Column("barrier", BigInteger),
    Column("session", BigInteger),  # that recorded it last; it may have ended long ago
    UniqueConstraint("project", "digest"),
    sqlite_autoincrement=True,
)

PACK_ALIVE: Final = 0
PACK_CONDEMNED: Final = 1
"""Nothing alive was found in it. Its chunks can be read, but who stores is told that they are missing."""
PACK_DELETING: Final = 2
"""It was found dead once more after all who might have relied on it had ended. Nothing brings it back."""
PACK_GONE: Final = 3
"""Deleted, with the rows of its chunks. The row stays: 100 bytes for 64 MiB, where removing it would look through all chunks."""

# What is not there, or is about to go. Few at a time, apart from those that are gone.
Index(
    "pack_not_alive",
    pack.c.project,
    pack.c.state,
    sqlite_where=pack.c.state != PACK_ALIVE,
)

# Who collects garbage in a project, and what was collected. Its row is also what recording packs and collecting wait for each other
# with, where a database has several writers. Since format 3.
collection: Final = Table(
    "collection",
    TABLES,
    Column("project", ForeignKey("project.id"), primary_key=True),
    Column("holder", String(255), nullable=False, server_default=""),  # for people; empty: nobody
    Column("token", String(64), nullable=False, server_default=""),  # of the one who holds it
    Column("beat", BigInteger, nullable=False, server_default="0"),  # rises while its holder lives
    Column(
        "collected", BigInteger, nullable=False, server_default="0"
    ),  # of what was deleted before this instant, packs may have gone
    sqlite_with_rowid=False,
)

# Who may do what. Of a token's secret the hash is kept alone. Since format 3.
token: Final = Table(
    "token",
    TABLES,
    Column("id", String(32), primary_key=True),  # the public part of the token
    Column("secret", LargeBinary, nullable=False),  # SHA-256 of the rest
    Column("project", String(128), nullable=False),  # by name, as it need not be there yet; empty: all
    Column("role", String(16), nullable=False),  # read, write or admin
    Column("name", String(255), nullable=False),  # for people
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger),  # null: never
    Column("revoked", BigInteger),
    sqlite_with_rowid=False,
)

chunk: Final = Table(
    "chunk",
    TABLES,
    Column("project", ForeignKey("project.id"), primary_key=True),
    Column("digest", LargeBinary, primary_key=True),
    Column("pack", ForeignKey("pack.id"), nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("length", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("flags", SmallInteger, nullable=False),
    sqlite_with_rowid=False,  # the key is the table: 51 bytes a chunk, and one descent instead of two
)

session: Final = Table(
    "session",
    TABLES,
    Column("id", _IDENTIFIER, primary_key=True),
    Column("project", ForeignKey("project.id"), nullable=False),
    Column("kind", String(64), nullable=False),
    Column("started", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False),
    # When a collection counted it as ended: then it stays so, whatever the clock says later. Since format 3.
    Column("ended", BigInteger),
    sqlite_autoincrement=True,
)

# Versions that a session keeps from being deleted: of a mount, those that its staging is based on and those that it pins.
# Since format 3.
held_version: Final = Table(
    "held_version",
    TABLES,
    Column("session", ForeignKey("session.id", ondelete="CASCADE"), primary_key=True),
    Column("version", ForeignKey("version.id"), primary_key=True),
    Column("purpose", Text, nullable=False),  # for people
    Index("held_version_version", "version"),
    sqlite_with_rowid=False,
)

# Names that artifacts had before they were renamed. Since format 3.
former_name: Final = Table(
    "former_name",
    TABLES,
    Column("project", ForeignKey("project.id"), primary_key=True),
    Column("name", String(128), primary_key=True),
    Column("artifact", ForeignKey("artifact.id"), nullable=False),
    sqlite_with_rowid=False,
)

# What a row of the next two tables says of all artifacts of its project, instead of one (an artifact's id).
EVERY_ARTIFACT: Final = 0

# Aliases that are moved and removed on purpose only. Since format 3.
protection: Final = Table(
    "protection",
    TABLES,
    Column("project", ForeignKey("project.id"), primary_key=True),
    Column("artifact", BigInteger, primary_key=True),
    Column("alias", String(128), primary_key=True),
    sqlite_with_rowid=False,
)

# Which versions are deleted by themselves. Since format 3.
retention_rule: Final = Table(
    "retention_rule",
    TABLES,
    Column("project", ForeignKey("project.id"), primary_key=True),
    Column("artifact", BigInteger, primary_key=True),
    Column("keep_last", BigInteger),
    Column("older_than", BigInteger),  # seconds
    Column("keep_aliased", Boolean, nullable=False),
    Column("condition", Text, nullable=False),
    Column("changed", BigInteger, nullable=False),
    Column("changed_by", String(255), nullable=False),
    sqlite_with_rowid=False,
)

# Trees that processes added to a draft of an artifact, which need not be there yet. They go with the session that keeps what
# they hold.
draft_part: Final = Table(
    "draft_part",
    TABLES,
    Column("project", ForeignKey("project.id"), primary_key=True),
    Column("artifact", String(128), primary_key=True),
    Column("draft", String(128), primary_key=True),
    Column("digest", LargeBinary, primary_key=True),
    Column("session", ForeignKey("session.id", ondelete="CASCADE"), primary_key=True),
    Index("draft_part_session", "session"),
    sqlite_with_rowid=False,
)

# What search looks for in versions' metadata: a row for each value (position 0) and each different scalar of a list (1 and up), as
# registry/facts.py makes them. The path is the value's keys as a condition writes them, without "metadata.".
fact: Final = Table(
    "fact",
    TABLES,
    Column("version", ForeignKey("version.id"), primary_key=True),
    Column("path", Text, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("project", ForeignKey("project.id"), nullable=False),
    Column("kind", SmallInteger, nullable=False),
    Column("number", Double),
    Column("text", Text),  # of a long one the beginning
    Column("whole", Text),  # null unless it is long
    sqlite_with_rowid=False,
)

# One index for every comparison and for sorting: each names project, path and kind, then the number or the text; the rest makes it
# covering. A row of PostgreSQL's indexes holds 2,704 bytes, which is why no long text is in one.
Index(
    "fact_value",
    fact.c.project,
    fact.c.path,
    fact.c.kind,
    fact.c.number,
    fact.c.text,
    fact.c.position,
    fact.c.version,
)

# All text compares by its code points in every database, as it does in Python; SQLite's always does.
for _table in TABLES.tables.values():
    for _column in _table.columns:
        if isinstance(_column.type, String):
            _kind = type(_column.type)
            _column.type = _column.type.with_variant(_kind(_column.type.length, collation="C"), "postgresql")
