"""The Registry's tables, in types that SQLite and PostgreSQL both have.

Used by the modules of this package only. The tables are immutable values and may be used from any thread.

Instants are nanoseconds since the epoch, sizes are bytes, digests of chunks and trees are 32 raw bytes. Identifiers are never used
again (AUTOINCREMENT on SQLite): inode numbers, caches and sessions rely on it.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
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

# The format that this release writes and reads; it stands in `meta` under FORMAT_KEY. Any change of a table raises it.
FORMAT: Final = 1
FORMAT_KEY: Final = "format"

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
    UniqueConstraint("artifact", "number"),
    sqlite_autoincrement=True,
)

# Equal contents are one version; those of a deleted version may come again, under a new number.
Index(
    "version_living_digest",
    version.c.artifact,
    version.c.digest,
    unique=True,
    sqlite_where=version.c.deleted.is_(None),
    postgresql_where=version.c.deleted.is_(None),
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

pack: Final = Table(
    "pack",
    TABLES,
    Column("id", _IDENTIFIER, primary_key=True),  # what a chunk's row names, instead of 64 digits
    Column("project", ForeignKey("project.id"), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    UniqueConstraint("project", "digest"),
    sqlite_autoincrement=True,
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
    sqlite_autoincrement=True,
)
