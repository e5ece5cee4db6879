"""Search on the tables, against the same conditions read by plain Python."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, create_engine, event, insert, select

from artifactfs.errors import InvalidInput
from artifactfs.model.query import Both, Comparison, Either, Field, Not, Query, parse_order
from artifactfs.model.records import VersionRecord
from artifactfs.registry import facts, search
from artifactfs.registry.postgresql import PostgresDatabase
from artifactfs.registry.schema import TABLES, alias, artifact, fact, project, tag, version
from tests.postgres import Server

PROJECT, OTHER = 1, 2
MISSING = object()


# -- a registry without its transactions ---------------------------------------------------------------------------


@contextmanager
def empty(engine: Engine) -> Iterator[Connection]:
    """A connection on tables that hold two projects and nothing else; undone at the end."""
    with engine.connect() as connection:
        names = {PROJECT: "here", OTHER: "elsewhere"}
        rows = [{"id": number, "name": name, "revision": 1, "created": 0} for number, name in names.items()]
        connection.execute(insert(project), rows)
        yield connection
        connection.rollback()


def in_memory() -> Engine:
    engine = create_engine("sqlite://")
    TABLES.create_all(engine)
    return engine


ENGINE = in_memory()


@pytest.fixture(scope="module")
def postgres_engine(postgres: Server) -> Iterator[Engine]:
    name = postgres.new_database()
    with closing(PostgresDatabase(postgres.url(name), create=True)) as database:
        yield database._engine
    postgres.drop_database(name)


@pytest.fixture
def in_sqlite():
    with empty(ENGINE) as connected:
        yield connected


@pytest.fixture(params=["sqlite", "postgresql"])
def connection(request: pytest.FixtureRequest):
    with empty(ENGINE if request.param == "sqlite" else request.getfixturevalue("postgres_engine")) as connected:
        yield connected


def record(number: int, name: str = "a", kind: str = "model", /, **parts: Any) -> VersionRecord:
    """A version to be stored; its id is its number plus 1, so that all of a test are different."""
    values = {
        "id": number + 1,
        "artifact": name,
        "type": kind,
        "number": number,
        "digest": number.to_bytes(32, "big"),
        "size": 0,
        "files": 0,
        "entries": 0,
        "created": 0,
        "description": "",
        "metadata": {},
        "aliases": (),
    }
    return VersionRecord(**{**values, **parts})


def store(connection: Connection, *records: VersionRecord, of: int = PROJECT) -> None:
    """Versions as the registry's commit stores them. An artifact's id is made of its name."""
    seen = {row.id for row in connection.execute(select(artifact.c.id))}
    for each in records:
        number = of * 1000 + sum(each.artifact.encode())
        if number not in seen:
            seen.add(number)
            values = {"id": number, "project": of, "name": each.artifact, "type": each.type}
            connection.execute(insert(artifact), {**values, "created": 0, "next_number": 0})
        names = ("id", "number", "digest", "size", "files", "entries", "created", "description", "metadata")
        values = {name: getattr(each, name) for name in (*names, "updated", "run")}
        connection.execute(insert(version), {**values, "artifact": number})
        for name in each.aliases:
            connection.execute(insert(alias), {"artifact": number, "name": name, "version": each.id})
        for name in each.tags:
            connection.execute(insert(tag), {"version": each.id, "name": name})
        facts.replace(connection, of, each.id, each.metadata)


def found(connection: Connection, where: str = "", **query: Any) -> list[int]:
    """Numbers of the versions that match."""
    return [each.number for each in search.find(connection, PROJECT, Query(where=where, **query))]


@contextmanager
def statements(connection: Connection) -> Iterator[list[str]]:
    """What is executed meanwhile."""
    executed: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        executed.append(statement)

    event.listen(connection, "before_cursor_execute", note)
    try:
        yield executed
    finally:
        event.remove(connection, "before_cursor_execute", note)


# -- by example ----------------------------------------------------------------------------------------------------


def test_the_record_that_is_found_is_the_one_that_was_stored(connection):
    stored = record(
        3,
        size=7,
        files=2,
        entries=3,
        created=5,
        description="a model",
        metadata={"accuracy": 0.93, "dataset": {"name": "bikes"}},
        aliases=("best", "latest"),
        tags=("checked",),
        updated=6,
        run="run-1",
    )
    store(connection, stored, record(4, metadata={"accuracy": 0.5}))
    where = "metadata.accuracy > 0.9 and metadata.dataset.name = 'bikes'"
    assert search.find(connection, PROJECT, Query(type="model", where=where, sort=("-metadata.accuracy",))) == [stored]


VALUES = {
    "one": 1,
    "half": 0.5,
    "text": "bike dataset",
    "yes": True,
    "no": False,
    "nothing": None,
    "list": ["a", "b", 1, True, None, ["deep"], {"deep": 1}],
    "object": {"inner": {"deep": "down"}},
    "long": "x" * 200 + "needle" + "y" * 200,
    "my key": "quoted",
    "k" * 300: "long key",
}


@pytest.mark.parametrize(
    "where",
    [
        "metadata.one = 1",
        "metadata.one = 1.0",
        "metadata.one != 2",
        "metadata.one in (3, 'x', 1)",
        "metadata.half < 0.6 and metadata.half > 0.4",
        "metadata.half <= 0.5 and metadata.half >= 0.5",
        "metadata.text contains 'ike data'",
        "metadata.text contains ''",
        "metadata.text > 'bike' and metadata.text < 'c'",
        "metadata.yes = true",
        "metadata.yes != false",
        "metadata.nothing = null",
        "metadata.nothing exists",
        "metadata.one != null",
        "metadata.list != null",
        "metadata.object != null",
        "metadata.list exists",
        "metadata.list contains 'a'",
        "metadata.list contains 1",
        "metadata.list contains true",
        "metadata.list contains null",
        "metadata.object exists",
        "metadata.object.inner.deep = 'down'",
        "metadata.long contains 'needle'",
        f"metadata.long = '{VALUES['long']}'",
        f"metadata.long in ('x', '{VALUES['long']}')",
        f"metadata.long > '{'x' * 200}' and metadata.long < '{'x' * 201}'",
        f"metadata.long != '{'x' * 200}'",
        "metadata.'my key' = 'quoted'",
        f"metadata.{'k' * 300} = 'long key'",
        "not metadata.other exists",
        "not metadata.one = 2",
        "metadata.one = 1 or metadata.other = 1",
    ],
)
def test_a_condition_that_holds(connection, where):
    store(connection, record(0, metadata=VALUES))
    assert found(connection, where) == [0]
    assert found(connection, f"not ({where})") == []


@pytest.mark.parametrize(
    "where",
    [
        "metadata.other = 1",
        "metadata.other != 1",
        "metadata.other < 1",
        "metadata.other != null",
        "metadata.other = null",
        "metadata.other exists",
        "metadata.one = '1'",
        "metadata.one != '1'",
        "metadata.one = true",
        "metadata.yes = 1",
        "metadata.yes != 1",
        "metadata.one < 'a'",
        "metadata.text > 0",
        "metadata.nothing != 1",
        "metadata.nothing != null",
        "metadata.list = 'a'",
        "metadata.list != 'a'",
        "metadata.list contains 'deep'",
        "metadata.list contains 'A'",
        "metadata.list contains false",
        "metadata.text contains 'BIKE'",
        "metadata.text contains 'a%t'",
        "metadata.text contains 1",
        "metadata.one contains 1",
        "metadata.yes contains true",
        "metadata.nothing contains null",
        "metadata.object = null",
        "metadata.object.inner = 'down'",
        "metadata.list.deep = 1",
        "metadata.long = 'x'",
        f"metadata.long = '{'x' * 200}'",
        f"metadata.{'k' * 299} exists",
        "metadata.One = 1",
    ],
)
def test_a_condition_that_does_not_hold(connection, where):
    store(connection, record(0, metadata=VALUES))
    assert found(connection, where) == []
    assert found(connection, f"not ({where})") == [0]


@pytest.mark.parametrize(
    ("where", "numbers"),
    [
        ("name = 'a'", [1]),
        ("name > 'a'", [2]),
        ("type in ('model', 'result')", [1]),
        ("type contains 'set'", [2]),
        ("version >= 2", [2]),
        ("version = 'v1'", [1]),
        ("version < 1.5", [1]),
        ("version != 1.5", [1, 2]),
        ("size > 1_000", [2]),
        ("size = 99999999999999999999", []),
        ("files in (3, 4)", [1]),
        ("created = '2026-01-01'", [1]),
        ("created > '2026-01-01'", [2]),
        ("created <= '2026-01-02'", [1, 2]),
        ("updated > '2026-01-01'", [2]),
        ("updated < '2026-01-01'", []),
        ("updated != '2026-01-01'", [2]),
        ("not updated exists", [1]),
        ("description contains 'clean'", [2]),
        ("description != 'x'", [2]),
        ("description exists", [2]),
        ("alias = 'best'", [2]),
        ("alias in ('latest', 'other')", [1, 2]),
        ("alias exists", [1, 2]),
        ("not alias contains 'best'", [1]),
        ("tag = 'broken'", [1]),
        ("tag exists", [1]),
        ("not tag exists", [2]),
        ("run = 'run-2'", [2]),
        ("run exists", [2]),
        ("run != 'run-1'", [2]),
        (f"digest = 'blake3:{'0' * 63}2'", [2]),
        (f"digest != 'blake3:{'0' * 63}2'", [1]),
        (f"digest in ('blake3:{'0' * 63}1')", [1]),
        ("digest exists and size exists", [1, 2]),
    ],
)
def test_fields_of_the_record(connection, where, numbers):
    day = 86_400 * 10**9
    new_year = 1_767_225_600 * 10**9
    store(
        connection,
        record(1, "a", "model", size=5, files=3, created=new_year, aliases=("latest",), tags=("broken", "old")),
        record(
            2,
            "b",
            "dataset",
            size=5000,
            created=new_year + day,
            updated=new_year + 2 * day,
            description="cleaned",
            aliases=("best", "latest"),
            run="run-2",
        ),
    )
    assert found(connection, where) == numbers


def test_a_query_s_own_fields_are_all_of_them_wanted(connection):
    store(
        connection,
        record(0, "a", "model", aliases=("x",), tags=("t",)),
        record(1, "b", "model", aliases=("y",)),
        record(2, "c", "dataset"),
    )
    assert found(connection) == [0, 1, 2]
    assert found(connection, artifact="b") == [1]
    assert found(connection, type="model") == [0, 1]
    assert found(connection, alias="x") == [0]
    assert found(connection, tag="t") == [0]
    assert found(connection, artifact="a", type="model", alias="x", tag="t", where="version = 0") == [0]
    assert found(connection, artifact="a", alias="y") == []
    assert found(connection, artifact="\udc80") == []
    assert found(connection, tag="\0") == []


def test_versions_of_other_projects_and_deleted_ones_are_not_found(connection):
    store(connection, record(0, metadata={"a": 1}), record(1, metadata={"a": 1}))
    store(connection, record(2, metadata={"a": 1}), of=OTHER)
    facts.remove(connection, 1 + 1)
    connection.execute(version.update().where(version.c.id == 2).values(deleted=1))
    for where in ("metadata.a = 1", "", "not metadata.a = 2"):
        assert found(connection, where) == [0]
    assert found(connection, "metadata.a = 1", sort=("metadata.a",), limit=5) == [0]


def test_facts_are_replaced_and_removed(connection):
    store(connection, record(0, metadata={"a": 1, "b": ["x"]}))
    facts.replace(connection, PROJECT, 1, {"a": 2})
    assert found(connection, "metadata.a = 2 and not metadata.b exists") == [0]
    facts.replace(connection, PROJECT, 1, {"a": {"c": {}}})
    assert found(connection, "metadata.a = 2") == []
    assert found(connection, "metadata.a.c exists") == [0]
    facts.remove(connection, 1)
    assert connection.execute(select(fact)).all() == []


def test_what_one_version_may_cost_is_bounded_and_what_is_left_out_lies_deepest(connection):
    metadata = {
        "losses": list(range(5000)),
        "same": ["x"] * 5000 + ["y"],
        "deep": {"many": {f"k{number}": number for number in range(20_000)}},
        "z": 1,
    }
    store(connection, record(0, metadata=metadata))
    assert found(connection, "metadata.z = 1 and metadata.losses contains 999 and metadata.same contains 'y'") == [0]
    assert found(connection, "metadata.losses contains 1000") == []
    assert len(connection.execute(select(fact)).all()) == facts.MOST_FACTS


# -- order, limit, offset ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sort", "numbers"),
    [
        ((), [1, 2, 3, 4, 5, 6]),
        (("metadata.a",), [2, 1, 4, 3, 5, 6]),
        (("-metadata.a",), [3, 4, 1, 2, 5, 6]),
        (("type", "-version"), [6, 3, 2, 5, 4, 1]),
        (("-type", "metadata.a"), [1, 4, 5, 2, 3, 6]),
        (("metadata.none", "-version"), [6, 5, 4, 3, 2, 1]),
        (("-updated",), [4, 3, 1, 2, 5, 6]),
        (("updated",), [3, 4, 1, 2, 5, 6]),
        (("-name",), [6, 5, 4, 3, 2, 1]),
        (("-digest", "run", "description"), [6, 5, 4, 3, 2, 1]),
    ],
)
def test_order(connection, sort, numbers):
    values = {1: 5, 2: 0.5, 3: "text", 4: "a", 5: None, 6: [1]}
    kinds = {2: "dataset", 3: "dataset", 6: "dataset"}
    updated = {3: 7, 4: 8}
    store(
        connection,
        *(
            record(
                number,
                "abcdefg"[number],
                kinds.get(number, "model"),
                metadata={"a": value},
                updated=updated.get(number, 0),
            )
            for number, value in values.items()
        ),
    )
    assert found(connection, sort=sort) == numbers
    for offset in range(8):
        for limit in range(8):
            assert found(connection, sort=sort, limit=limit, offset=offset) == numbers[offset : offset + limit]
    assert found(connection, sort=sort, offset=2) == numbers[2:]


def test_names_and_long_texts_are_ordered_by_their_characters(connection):
    texts = {0: "a" * 300, 1: "a" * 128, 2: "a" * 127, 3: "B", 4: "a" * 128 + "b", 5: "ä"}
    store(connection, *(record(number, metadata={"t": text}) for number, text in texts.items()))
    rising = sorted(texts, key=texts.__getitem__)
    assert found(connection, sort=("metadata.t",)) == rising
    assert found(connection, sort=("-metadata.t",)) == rising[::-1]


def test_the_best_few_are_taken_from_the_index(in_sqlite, monkeypatch):
    monkeypatch.setattr(search, "WALKED", 10)
    store(in_sqlite, *(record(number, metadata={"a": number % 10, "b": number}) for number in range(40)))
    with statements(in_sqlite) as executed:
        assert found(in_sqlite, "metadata.a < 9", sort=("-metadata.a",), limit=2) == [8, 18]
    assert len(executed) == 4  # the last value that is looked at, whether others equal it, ids, and the records
    for statement in executed[:3]:
        plan = " ".join(row[3] for row in in_sqlite.exec_driver_sql(f"EXPLAIN QUERY PLAN {_bound(statement)}"))
        assert "fact_value (project=? AND path=? AND kind<?)" in plan
    with statements(in_sqlite) as executed:
        assert len(found(in_sqlite, sort=("-metadata.a",), limit=41)) == 40
    assert len(executed) == 2  # more than are looked at, so all are asked for; and the records
    with statements(in_sqlite) as executed:
        assert found(in_sqlite, "metadata.b < 39", sort=("-metadata.a",), limit=2) == [9, 19]
    assert len(executed) == 4  # 4 of 10 are 9, and two of these are wanted


def test_values_that_are_equal_to_the_last_of_the_first_are_all_looked_at(connection, monkeypatch):
    # By name: the order of rows with one value in the index is another one.
    store(connection, *(record(number, f"n{99 - number}", metadata={"a": number // 7}) for number in range(40)))
    for sort in (("metadata.a",), ("-metadata.a",), ("metadata.a", "-version"), ("-metadata.a", "name")):
        monkeypatch.setattr(search, "WALKED", 1000)
        for where in ("", "metadata.a != 3"):
            whole = found(connection, where, sort=sort)
            for walked in (*range(1, 9), 13, 14, 15, 21, 39, 40, 44):
                monkeypatch.setattr(search, "WALKED", walked)
                for limit, offset in ((1, 0), (2, 0), (5, 3), (7, 0), (8, 7), (20, 2), (0, 0)):
                    wanted = whole[offset : offset + limit]
                    assert found(connection, where, sort=sort, limit=limit, offset=offset) == wanted, (
                        walked,
                        limit,
                        offset,
                    )


@pytest.mark.parametrize(
    "where",
    [
        "metadata.a > 0.5",
        "metadata.a = 'x'",
        "metadata.a in (1, 2)",
        "metadata.a = true",
        "metadata.a exists",
        "metadata.a contains 'x'",
        "metadata.a contains 1",
        "metadata.a != 'x'",
    ],
)
def test_conditions_on_metadata_are_answered_from_the_index_alone(in_sqlite, where):
    store(in_sqlite, record(0))
    with statements(in_sqlite) as executed:
        found(in_sqlite, where)
    plan = [row[3] for row in in_sqlite.exec_driver_sql(f"EXPLAIN QUERY PLAN {_bound(executed[0])}")]
    reading = [line for line in plan if line.startswith(("SEARCH fact ", "SCAN fact "))]
    assert reading
    assert all("COVERING INDEX fact_value (project=? AND path=?" in line for line in reading)


def _bound(statement: str) -> str:
    """A statement with something in each place, for a plan: which index is used does not depend on what it is."""
    return statement.replace("?", "'1'")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (Query(where="metadata.a ="), "unexpected end at character 13"),
        (Query(sort=("accuracy",)), "metadata.accuracy would do"),
        (Query(sort=("tag",)), "cannot sort by tag"),
        (Query(sort=("size",) * 11), "at most 10"),
        (Query(limit=-1), "not a limit: -1; 0 or more would do"),
        (Query(offset=-1), "not an offset"),
        (Query(limit=2**63), "not a limit"),
    ],
)
def test_a_wrong_query_is_refused(connection, query, words):
    with pytest.raises(InvalidInput, match=words):
        search.find(connection, PROJECT, query)


# -- by chance -----------------------------------------------------------------------------------------------------

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def holds(condition: Any, of: VersionRecord) -> bool:
    """What a condition says of a version, in plain Python."""
    match condition:
        case Both(parts):
            return all(holds(part, of) for part in parts)
        case Either(parts):
            return any(holds(part, of) for part in parts)
        case Not(part):
            return not holds(part, of)
    assert isinstance(condition, Comparison)
    value = value_of(condition.field, of)
    if condition.operator == "exists":
        return value is not MISSING and value != ()
    if isinstance(value, tuple):  # aliases, tags
        return any(wanted in value for wanted in condition.values)
    return any(compares(value, condition.operator, wanted) for wanted in condition.values)


def value_of(field: Field, of: VersionRecord) -> Any:
    if field.name == "metadata":
        value: Any = of.metadata
        for key in field.keys:
            value = value.get(key, MISSING) if isinstance(value, dict) else MISSING
        return value
    names = {"name": "artifact", "version": "number", "alias": "aliases", "tag": "tags"}
    value = getattr(of, names.get(field.name, field.name))
    return MISSING if field.name in {"description", "run", "updated"} and not value else value


def compares(value: Any, word: str, wanted: Any) -> bool:
    if word == "contains":
        if isinstance(value, list):
            return any(compares(element, "=", wanted) for element in value)
        return isinstance(value, str) and isinstance(wanted, str) and plain(wanted) in plain(value)
    if word == "!=" and wanted is None:
        return value is not MISSING and value is not None
    if kind_of(value) != kind_of(wanted):
        return False
    return _COMPARE["=" if word == "in" else word](plain(value), plain(wanted))


def kind_of(value: Any) -> str:
    return "number" if type(value) in {int, float} else type(value).__name__


def plain(value: Any) -> Any:
    return value.replace("\0", "\ufffd") if isinstance(value, str) else float(value) if type(value) is int else value


def order_of(of: VersionRecord, sort: tuple[str, ...]) -> list[Any]:
    """Rising keys; falling ones are of values that can be negated."""
    keys: list[Any] = []
    for text in sort:
        order = parse_order(text)
        value = value_of(order.field, of)
        absent = value is MISSING or value is None or isinstance(value, list | dict)
        rank = 0 if absent else {"number": 1, "str": 2, "bool": 3}[kind_of(value)]
        sign = -1 if order.falling else 1
        key = "" if absent else plain(value)
        codes = [ord(c) for c in key] if isinstance(key, str) else [key]
        keys += [absent, sign * rank, [sign * code for code in codes] + ([0x110000] if order.falling else [])]
    return [*keys, of.artifact, of.number]


keys = st.sampled_from(["a", "b", "my key"])
pieces = st.sampled_from(["", "a", "b", "ab", "B", "ä", "\0", "a" * 127, "a" * 128, "a" * 129, "a" * 128 + "b"])
scalars = st.one_of(
    pieces,
    st.sampled_from([0, 1, -1, 2, 0.5, 1.5, 1e300, 2**53, 2**53 + 1, 2**64 - 1]),
    st.booleans(),
    st.none(),
)
objects = st.recursive(
    scalars | st.lists(scalars, max_size=4),
    lambda inner: st.dictionaries(keys, inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=5,
)
metadata = st.dictionaries(keys, objects, max_size=3)
labels = st.lists(st.sampled_from(["x", "y", "z"]), unique=True, max_size=2).map(lambda names: tuple(sorted(names)))


@st.composite
def shelves(draw: st.DrawFn) -> list[VersionRecord]:
    """Versions with different numbers of one or two artifacts."""
    return [
        record(
            number,
            *draw(st.sampled_from([("a", "model"), ("B", "dataset")])),
            size=draw(st.integers(0, 3)),
            created=draw(st.integers(0, 3)) * 10**9,
            description=draw(pieces.filter(lambda text: "\0" not in text)),
            metadata=draw(metadata),
            tags=draw(labels),
            updated=draw(st.integers(0, 2)),
            run=draw(st.sampled_from(["", "r"])),
        )
        for number in range(draw(st.integers(1, 5)))
    ]


def _one(fields: st.SearchStrategy[Field], words: list[str], values: st.SearchStrategy[Any]):
    return st.builds(
        lambda field, word, value: Comparison(field, word, (value,)), fields, st.sampled_from(words), values
    )


ordered_scalars = scalars.filter(lambda value: value is not None and not isinstance(value, bool))
metadata_fields = st.lists(keys, min_size=1, max_size=2).map(lambda parts: Field("metadata", tuple(parts)))
comparisons = st.one_of(
    _one(metadata_fields, ["=", "!=", "contains"], scalars),
    _one(metadata_fields, ["<", "<=", ">", ">="], ordered_scalars),
    st.builds(lambda f, v: Comparison(f, "in", tuple(v)), metadata_fields, st.lists(scalars, min_size=1, max_size=4)),
    st.builds(lambda f: Comparison(f, "exists"), metadata_fields),
    _one(st.sampled_from([Field("name"), Field("description")]), ["=", "!=", "<", "<=", ">", ">=", "contains"], pieces),
    _one(
        st.sampled_from([Field("size"), Field("version")]),
        ["=", "!=", "<", ">="],
        st.sampled_from([0, 1, 1.5, 2, 1e30]),
    ),
    _one(st.just(Field("tag")), ["=", "contains"], st.sampled_from(["x", "y"])),
    _one(st.just(Field("updated")), ["<", ">="], st.integers(0, 3)),
    st.builds(
        lambda name: Comparison(Field(name), "exists"), st.sampled_from(["tag", "run", "updated", "description"])
    ),
)
conditions = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: Both(tuple(parts))),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: Either(tuple(parts))),
        inner.map(Not),
    ),
    max_leaves=6,
)
sorts = st.lists(
    st.sampled_from(
        [
            "metadata.a",
            "-metadata.a",
            'metadata."my key"',
            "-metadata.b.a",
            "size",
            "-size",
            "name",
            "-description",
            "updated",
        ]
    ),
    max_size=3,
).map(tuple)


def agrees(
    engine: Engine, shelf: list[VersionRecord], condition: Any, sort: tuple[str, ...], limit: int | None
) -> None:
    """Search finds what plain Python finds, in its order. The condition goes in as a tree: the parser has tests of its own."""
    with empty(engine) as connection, pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "parse_condition", lambda _text: condition)
        patch.setattr(search, "WALKED", 2)
        store(connection, *shelf)
        wanted = sorted((each for each in shelf if holds(condition, each)), key=lambda each: order_of(each, sort))
        assert search.find(connection, PROJECT, Query(sort=sort, limit=limit)) == wanted[:limit]


@settings(max_examples=300)  # of few values, so that they meet
@given(shelves(), conditions, sorts, st.none() | st.integers(0, 5))
@example([record(0, metadata={"a": "a" * 128})], Comparison(Field("metadata", ("a",)), "<=", ("a" * 128,)), (), None)
def test_search_finds_what_plain_python_finds(shelf, condition, sort, limit):
    agrees(ENGINE, shelf, condition, sort, limit)


@settings(max_examples=60)
@given(shelves(), conditions, sorts, st.none() | st.integers(0, 5))
@example([record(0, metadata={"a": "a" * 128})], Comparison(Field("metadata", ("a",)), "<=", ("a" * 128,)), (), None)
def test_postgresql_finds_what_plain_python_finds(postgres_engine, shelf, condition, sort, limit):
    agrees(postgres_engine, shelf, condition, sort, limit)
