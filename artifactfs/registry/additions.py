"""Adding to a database what the tables of this release have and those of an older format lack.

Used by the migrations of both databases (:mod:`artifactfs.registry.migration`, :mod:`artifactfs.registry.migrations`), in their
transaction. Every format so far has all that the one before had, so that nothing is ever taken away or changed. Safe from any thread.
"""

from __future__ import annotations

from sqlalchemy import Connection, inspect
from sqlalchemy.schema import CreateColumn, CreateIndex, CreateTable

from artifactfs.registry.schema import TABLES


def add_what_is_lacking(connection: Connection) -> None:
    """Add tables, columns and indexes that are not there, empty or with their defaults."""
    for table in TABLES.sorted_tables:
        connection.execute(CreateTable(table, if_not_exists=True))
        present = {column["name"] for column in inspect(connection).get_columns(table.name)}
        for column in table.columns:
            if column.name not in present:
                definition = CreateColumn(column).compile(dialect=connection.dialect)
                connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {definition}")
        for index in table.indexes:
            connection.execute(CreateIndex(index, if_not_exists=True))
