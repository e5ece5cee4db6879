"""A registry's PostgreSQL database: its connections and transactions, its format, and its errors in our words.

Used by :mod:`artifactfs.registry.sql`, which knows the tables' meaning but no PostgreSQL. Safe from any thread and from any number of
processes and machines. At a fork nothing is open (:mod:`artifactfs.forks`).

Isolation is READ COMMITTED: a statement sees what is committed when it begins. What a transaction reads in order to change it, it
holds (FOR UPDATE) from then on; the orders in which rows are held are in ``artifactfs/docs/concurrency.md``.

Durability. A transaction's COMMIT with synchronous_commit=on returns when the log is on the disk up to its commit record. One with off
is visible and atomic at once, and its record lies in the log *before* that of every transaction that commits later; the log is
written in one order, and replayed from a checkpoint to the first record that is not whole. So a durable commit makes durable what was
committed before it (https://www.postgresql.org/docs/current/wal-async-commit.html).

Every wait is bounded: for a connection of ours, for a connection to the server, for a row that another client holds (lock_timeout),
for a statement (statement_timeout), and, should the server or the network stop to answer, for the socket (:class:`_Bounded`). A
client that stops in the middle of a transaction loses it, so that it holds nobody up (idle_in_transaction_session_timeout).
"""

from __future__ import annotations

import select as polling
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Table, bindparam, create_engine, event, inspect, select
from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool

from artifactfs.errors import ArtifactFSError, Format, InvalidInput, NotFound, Unavailable
from artifactfs.forks import Gate
from artifactfs.registry.database import BUSY_SECONDS, READERS, as_json, read_json
from artifactfs.registry.migrations import OLDEST, create, migrate
from artifactfs.registry.postgresql_errors import translated
from artifactfs.registry.schema import FORMAT, FORMAT_KEY, TABLES, meta, project

WRITERS: Final = 8
"""Transactions of one process at once that write; beside READERS connections these are all that it has."""
CONNECT_SECONDS: Final = 10
MIGRATION_SECONDS: Final = 3600.0
"""How long a statement of a migration may take, and a replica may wait for another one's."""

_ADVISORY_LOCK: Final = 0x41465372  # "AFSr": who makes or migrates the tables holds it
_IDLE_SECONDS: Final = 30.0  # a connection that was idle for longer is asked for a sign of life before it is used
_SLACK_SECONDS: Final = 5.0  # by which the socket is waited for longer than the server is allowed to take
_ROWS: Final = 10_000  # of one INSERT

# What libpq does by itself when the other side is gone without a word; what the URL says counts more.
_PARAMETERS: Final[dict[str, Any]] = {
    "application_name": "artifactfs",
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # milliseconds
}
_SECRETS: Final = ("password", "sslpassword")
# Off would take durability away; what is stronger than on stays.
_SETTINGS: Final = """
SELECT set_config('statement_timeout', %(statement)s, false),
       set_config('lock_timeout', %(lock)s, false),
       set_config('idle_in_transaction_session_timeout', %(idle)s, false),
       set_config('default_transaction_isolation', 'read committed', false),
       set_config('synchronous_commit',
                  CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END,
                  false),
       current_setting('server_encoding')
"""

_FORMAT: Final = select(meta.c.value).where(meta.c.key == FORMAT_KEY)
_REVISION: Final = select(project.c.revision).where(project.c.name == bindparam("called"))

# Said in the schema it would load SQLAlchemy's dialect of PostgreSQL, 17 ms of every command.
for _table in TABLES.tables.values():
    for _index in _table.indexes:
        _index.dialect_options["postgresql"]["where"] = _index.dialect_options["sqlite"]["where"]


class PostgresDatabase:
    """A :class:`~artifactfs.registry.database.Database` in PostgreSQL, by a URL that libpq understands.

    ``create`` makes the tables when they are not there, and brings those of an older format to this release's; otherwise NotFound, or
    Format. ``seconds`` bounds every wait for another client or for a free connection. InvalidInput for a URL that is none or has a
    password.
    """

    def __init__(self, url: str, *, create: bool = False, seconds: float = BUSY_SECONDS) -> None:
        self._parameters = parameters_of(url)
        self._shown = f"the registry {_shown(self._parameters)}"
        self._seconds = seconds
        self._closed = False
        self._writers = threading.BoundedSemaphore(WRITERS)
        self._inserts: dict[tuple[str, tuple[str, ...]], str] = {}
        self._gate = Gate(seconds=seconds)
        self._engine = create_engine(
            "postgresql+psycopg://",
            creator=self._connect,
            poolclass=QueuePool,
            pool_size=READERS + WRITERS,
            max_overflow=0,
            pool_timeout=seconds,
            pool_use_lifo=True,  # those that are not needed become idle, and go when the server closes them
            json_serializer=as_json,
            json_deserializer=read_json,
        )
        event.listen(self._engine, "checkout", _require_alive)
        event.listen(self._engine, "checkin", _note_use)
        self._reader = self._engine.execution_options(isolation_level="AUTOCOMMIT")  # no BEGIN and ROLLBACK around
        try:
            self._open(create=create)
        except BaseException:
            self.close()
            raise
        self._gate.closes(self._let_go)

    def __str__(self) -> str:
        return self._shown

    @property
    def outlived(self) -> bool:
        """Always."""
        return True

    def close(self) -> None:
        """Close every connection. Idempotent."""
        self._closed = True
        self._let_go()

    def _let_go(self) -> None:
        """Close every connection for now; new ones are opened as they are needed."""
        self._engine.dispose()

    # -- transactions ----------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self, *, seconds: float | None = None) -> Iterator[Connection]:
        """A connection on which every statement sees one commit or the next, never a part. ``seconds`` bounds each statement."""
        self._require_open()
        if seconds is not None:
            with self._gate, self._translated(), self._engine.connect() as connection, _patient(connection, seconds):
                yield connection
            return
        with self._gate, self._translated(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def writing(self, *, durable: bool) -> Iterator[Connection]:
        """One transaction, committed at the end, undone when the body raises.

        ``durable``: synced to the disk on return, with all that was committed before (see the module). Nothing is repeated here: the
        body is the caller's.
        """
        self._require_open()
        with self._gate:
            if not self._writers.acquire(timeout=self._seconds):
                raise Unavailable(
                    f"{self} is busy: {WRITERS} other threads have been writing for {self._seconds:g} s; repeat later"
                )
            try:
                with self._translated(), self._engine.connect() as connection:
                    if not durable:
                        connection.exec_driver_sql("SET LOCAL synchronous_commit TO off")
                    yield connection
                    self._commit(connection)
            finally:
                self._writers.release()

    def _commit(self, connection: Connection) -> None:
        # The server answers a COMMIT of a transaction that failed by undoing it, which is no error to the driver.
        if _driver(connection).info.transaction_status is TransactionStatus.INERROR:
            raise Unavailable(f"{self} undid the work, as a part of it failed; repeat")
        try:
            connection.commit()
        except DBAPIError as error:
            if error.connection_invalidated:
                raise Unavailable(
                    f"{self} was lost at the end of a change, which was made or not: look, or repeat "
                    "(a commit that is repeated is made once)"
                ) from error
            raise

    def insert_absent(self, connection: Connection, table: Table, names: Sequence[str], rows: list[Any]) -> None:
        """Insert rows (tuples in the order of ``names``) whose keys are not there yet; the others stay as they are.

        Columns go as arrays: 5,000 rows of chunks are one statement, and not as many in a pipeline.
        """
        key = (table.name, tuple(names))
        text = self._inserts.get(key)
        if text is None:
            text = self._inserts[key] = self._insertion(table, names)
        for start in range(0, len(rows), _ROWS):
            columns = tuple(list(column) for column in zip(*rows[start : start + _ROWS], strict=True))
            connection.exec_driver_sql(text, columns)

    def _insertion(self, table: Table, names: Sequence[str]) -> str:
        quote = self._engine.dialect.identifier_preparer.quote
        kinds = [table.c[name].type.compile(self._engine.dialect).partition(" COLLATE ")[0] for name in names]
        columns = ", ".join(map(quote, names))
        arrays = ", ".join(f"%s::{kind}[]" for kind in kinds)
        return (
            f"INSERT INTO {quote(table.name)} ({columns}) "  # noqa: S608 - names of our own schema
            f"SELECT * FROM unnest({arrays}) ON CONFLICT DO NOTHING"
        )

    def revision(self, project: str) -> int:
        """The revision of the project with this name; 0 when it is not there. One question of the server, by a key."""
        with self.reading() as connection:
            revision = connection.execute(_REVISION, {"called": project}).scalar()
        return 0 if revision is None else int(revision)

    def damages(self) -> list[str]:
        """Nothing: what PostgreSQL has to look into its files (pg_amcheck, checksums) is for its superuser."""
        self._require_open()
        return []

    # -- opening ---------------------------------------------------------------------------------------------------

    def _connect(self) -> psycopg.Connection[Any]:
        connection = _Bounded.connect(**self._parameters, client_encoding="UTF8", autocommit=True)
        try:
            milliseconds = f"{max(1, int(self._seconds * 1000))}"
            connection.patience = self._statement_seconds + _SLACK_SECONDS
            settings = {
                "statement": f"{int(self._statement_seconds * 1000)}",
                "lock": milliseconds,
                "idle": f"{int(self._statement_seconds * 1000)}",
            }
            row = connection.execute(_SETTINGS, settings).fetchone()
            if row is None or row[-1] != "UTF8":
                raise Format(f"{self} has the encoding {row and row[-1]}: make a database with ENCODING 'UTF8'")
            connection.autocommit = False
        except BaseException:
            connection.close()
            raise
        return connection

    @property
    def _statement_seconds(self) -> float:
        """How long one statement may take: it may wait for a row, and work."""
        return 2 * self._seconds

    def _open(self, *, create: bool) -> None:
        if self._is_ready(create=create):
            return
        with self.writing(durable=True) as connection, _patient(connection, MIGRATION_SECONDS):
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")
            self._make(connection)

    def _make(self, connection: Connection) -> None:
        """Make or migrate the tables, unless another process just did."""
        found = self._found(connection)
        if found is None:
            create(connection)
        elif found != str(FORMAT):
            migrate(connection)

    def _is_ready(self, *, create: bool) -> bool:
        with self.reading() as connection:
            found = self._found(connection)
        if found == str(FORMAT):
            return True
        older = found in {str(number) for number in range(OLDEST, FORMAT)}
        if found is not None and not older:
            raise Format(f"{self} has format {found}, this release reads format {FORMAT}; use a newer release")
        if not create:
            if older:
                raise Format(f"{self} has format {found}; `artifactfs serve` brings it to format {FORMAT}")
            raise NotFound(f"{self} has no tables yet; `artifactfs serve` makes them")
        return False

    def _found(self, connection: Connection) -> str | None:
        """The format of the tables; None when there are none."""
        looked = inspect(connection)
        if not looked.has_table(meta.name):
            return None
        if {column["name"] for column in looked.get_columns(meta.name)} != set(meta.c.keys()):
            raise Format(f"{self} holds tables of something else: give ArtifactFS a database of its own")
        found = connection.execute(_FORMAT).scalar()
        if found is None:
            raise Format(f"{self} says no format: restore the database from a backup")
        return str(found)

    # -- errors ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (psycopg.Error, SQLAlchemyError) as error:
            raise self._translate(error) from error

    def _translate(self, error: Exception) -> ArtifactFSError:
        if isinstance(error, PoolTimeout):
            return Unavailable(f"{self} is busy: no connection became free within {self._seconds:g} s; repeat later")
        if self._closed:
            return Unavailable(f"{self} was closed")
        opening = isinstance(error, DBAPIError) and error.statement is None and not error.connection_invalidated
        cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        if isinstance(cause, psycopg.Error):
            return translated(self, cause, opening=opening or isinstance(error, psycopg.Error))
        return ArtifactFSError(f"{self} failed: {cause}")

    def _require_open(self) -> None:
        if self._closed:
            raise Unavailable(f"{self} was closed")


class _Bounded(psycopg.Connection[Any]):
    """A connection whose every wait for the server ends: one that does not answer for so long is given up."""

    patience: float = BUSY_SECONDS

    def wait(self, gen: Any, *bounds: Any, **named: Any) -> Any:
        """Run one of the driver's steps, which yields what it waits for and is told every 0.1 s that there is nothing yet."""
        return super().wait(self._within(gen), *bounds, **named)

    def _within(self, steps: Any) -> Any:
        deadline = time.monotonic() + self.patience
        try:
            wanted = next(steps)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > deadline:
                    steps.close()
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"no answer within {self.patience:g} s")
                wanted = steps.send(ready)
        except StopIteration as end:
            return end.value


def parameters_of(url: str) -> dict[str, Any]:
    """The driver's parameters for a URL, with ours where it says nothing. InvalidInput for one that is none, or has a secret."""
    try:
        given = conninfo_to_dict(url)
    except psycopg.Error:
        # Its message may repeat a password.
        raise InvalidInput(
            "not a URL of PostgreSQL; write postgresql://USER@HOST:PORT/DATABASE, with special characters as %XX"
        ) from None
    for secret in _SECRETS:
        if given.get(secret):
            raise InvalidInput(
                f"the URL of the registry has a {secret}, which others could see: leave it out, and give it in ~/.pgpass, "
                "in the file that PGPASSFILE names, in PGPASSWORD, or by a service (?service=NAME)"
            )
    return {**_PARAMETERS, **given}


def _shown(parameters: dict[str, Any]) -> str:
    """What names a database in messages."""
    if parameters.get("service"):
        return f"postgresql://?service={parameters['service']}"
    host, port = parameters.get("host") or "", parameters.get("port")
    where = f"[{host}]" if host.startswith("/") else host
    return f"postgresql://{where}{f':{port}' if port else ''}/{parameters.get('dbname') or ''}"


def _driver(connection: Connection) -> _Bounded:
    return cast("_Bounded", connection.connection.driver_connection)


@contextmanager
def _patient(connection: Connection, seconds: float) -> Iterator[None]:
    """A transaction whose statements may take so long."""
    driver = _driver(connection)
    usual = driver.patience
    driver.patience = seconds + _SLACK_SECONDS
    try:
        for setting in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            connection.exec_driver_sql(f"SET LOCAL {setting} TO {int(seconds * 1000)}")
        yield
    finally:
        driver.patience = usual


def _require_alive(connection: Any, record: Any, _proxy: Any) -> None:
    """Before a connection is used again: one whose end the server has told, or that says nothing any more, is replaced.

    A look at the socket, 3 us; a question of the server, as a pool can ask before each use, is a way there and back.
    """
    used = record.info.get("used")
    if used is None:
        return  # new
    heard = polling.poll()  # select() takes no descriptor beyond 1,023
    heard.register(connection.fileno(), polling.POLLIN)
    if heard.poll(0):
        raise DisconnectionError("the server has something to say, as when it ends a connection")
    if time.monotonic() - used > _IDLE_SECONDS:
        try:
            connection.autocommit = True
            connection.execute("")
            connection.autocommit = False
        except psycopg.Error as error:
            raise DisconnectionError(str(error)) from error


def _note_use(connection: Any, record: Any) -> None:
    if connection is not None:
        record.info["used"] = time.monotonic()
