"""The language of conditions: what it reads, what it refuses and in which words."""

from __future__ import annotations

import contextlib
import datetime as dt
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.errors import InvalidInput
from artifactfs.model import query
from artifactfs.model.query import (
    Both,
    Comparison,
    Condition,
    Either,
    Field,
    Not,
    Order,
    parse_condition,
    parse_field,
    parse_order,
)

DAY = 86_400 * 10**9
NEW_YEAR = 1_767_225_600 * 10**9  # 2026-01-01, UTC


def metadata(*keys: str) -> Field:
    return Field("metadata", keys)


# -- what is read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "operator", "value"),
    [
        ("metadata.a = 1", "=", 1),
        ("metadata.a == 1_000", "=", 1000),
        ("metadata.a != -2.5", "!=", -2.5),
        ("metadata.a<1e-3", "<", 0.001),
        ("metadata.a <= +.5", "<=", 0.5),
        ("metadata.a > 5.", ">", 5.0),
        ("metadata.a >= 99999999999999999999", ">=", 1e20),
        ("metadata.a = 'it\\'s'", "=", "it's"),
        ('metadata.a = "a \\"b\\" \\\\ \\n \\u00e4 \\ud83d\\ude00"', "=", 'a "b" \\ \n ä 😀'),
        ("metadata.a = true", "=", True),
        ("metadata.a = FALSE", "=", False),
        ("metadata.a != null", "!=", None),
        ("metadata.a contains 'x'", "contains", "x"),
        ("metadata.a CONTAINS 3", "contains", 3),
    ],
)
def test_a_comparison(text, operator, value):
    read = parse_condition(text)
    assert isinstance(read, Comparison)
    assert (read.field, read.operator) == (metadata("a"), operator)
    assert repr(read.values) == repr((value,))  # so that 1, 1.0 and true differ


def test_nothing_is_no_condition():
    assert parse_condition("") is None
    assert parse_condition(" \n\t") is None


def test_the_example_of_the_design():
    assert parse_condition('metadata.accuracy > 0.9 and metadata.dataset.name = "bikes"') == Both(
        (
            Comparison(metadata("accuracy"), ">", (0.9,)),
            Comparison(metadata("dataset", "name"), "=", ("bikes",)),
        )
    )


def test_not_binds_closest_then_and_then_or():
    a, b, c = (Comparison(metadata(key), "exists") for key in "abc")
    assert parse_condition("metadata.a exists or metadata.b exists and not metadata.c exists") == Either(
        (a, Both((b, Not(c))))
    )
    assert parse_condition("(metadata.a exists or metadata.b exists) and metadata.c exists") == Both(
        (Either((a, b)), c)
    )
    assert parse_condition("NOT (metadata.a exists AND metadata.b exists)") == Not(Both((a, b)))


def test_a_list_of_values():
    assert parse_condition("metadata.a in (1, 'x', null)") == Comparison(metadata("a"), "in", (1, "x", None))


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("metadata.a.b.c", ("a", "b", "c")),
        ("metadata.\"my key\".'2.x'", ("my key", "2.x")),
        ("metadata.val-acc.top-1.2026", ("val-acc", "top-1", "2026")),
        ("metadata.in.and.metadata", ("in", "and", "metadata")),
        ('metadata.""', ("",)),
        ("metadata.größe", ("größe",)),
    ],
)
def test_keys_with_more_than_letters_are_quoted(text, keys):
    assert parse_field(text) == metadata(*keys)
    assert parse_field(str(parse_field(text))) == metadata(*keys)
    assert str(parse_field(text)).isascii()


def test_numbers_of_versions_may_be_written_as_versions():
    assert parse_condition("version in ('v3', 4)") == Comparison(Field("version"), "in", (3, 4))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("created < '2026-01-01'", [("<", NEW_YEAR)]),
        ("created <= '2026-01-01'", [("<", NEW_YEAR + DAY)]),
        ("created > '2026-01-01'", [(">=", NEW_YEAR + DAY)]),
        ("created >= '2026-01-01'", [(">=", NEW_YEAR)]),
        ("created = '2026-01-01'", [(">=", NEW_YEAR), ("<", NEW_YEAR + DAY)]),
        ("created != '2026-01-01'", [("<", NEW_YEAR), (">=", NEW_YEAR + DAY)]),
        ("created > '2026-01-01T01:00+01:00'", [(">=", NEW_YEAR + 1)]),
        ("created >= '2026-01-01T00:00:00.000001Z'", [(">=", NEW_YEAR + 1000)]),
        ("created < '9999-12-31'", [("<", 2**63 - 1)]),
    ],
)
def test_a_date_without_time_is_the_whole_day(text, parts):
    read = parse_condition(text)
    found = read.parts if isinstance(read, Both | Either) else (read,)
    assert [(part.operator, part.values[0]) for part in found] == parts
    assert isinstance(read, Either) == ("!=" in text)


def test_an_order():
    assert parse_order("-metadata.accuracy") == Order(metadata("accuracy"), falling=True)
    assert parse_order("created") == Order(Field("created"), falling=False)


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("metadata.a = bikes", "unexpected 'bikes' at character 14 of the condition"),
        ("metadata.a = bikes", 'text stands in quotes: "bikes"'),
        ("metadata.a", "unexpected end at character 11"),
        ("metadata.a", "after metadata.a stands one of = != < <= > >= in contains exists"),
        ("accuracy > 0.9", "there is no field 'accuracy'; metadata.accuracy would do"),
        ("metadata > 1", "metadata needs a key"),
        ("name.x = 'a'", "name alone would do"),
        ("0.9 < metadata.a", "unexpected '0.9' at character 1"),
        ("metadata.a >> 3", "unexpected '>' at character 13"),
        ("metadata.a = 1)", "unexpected ')' at character 15"),
        ("(metadata.a = 1", "unexpected end at character 16"),
        ("metadata.a = 1 metadata.b = 2", "`and` and `or` join comparisons"),
        ("metadata.a = 1; DROP TABLE version", "unexpected ';' at character 15"),
        ("metadata.a = 'abc", "the text that begins here has no end"),
        ("metadata.a .b = 1", "keys are joined by dots without spaces"),
        ("metadata.a in ()", "unexpected ')' at character 16"),
        ("metadata.a in (1 2)", "`,` or `)` would do"),
        ("metadata.a in 3", "in parentheses"),
        ("metadata.a < true", 'a number or "text" has an order'),
        ("metadata.a >= null", "has an order"),
        ("metadata.a = 1e999", "the number is too large"),
        ("metadata.a = " + "9" * 5000, "too large"),
        ("metadata.a = 0x10", "a number is written as 1_000, 0.9 or 1e-3"),
        ("metadata.a = '\\q'", "there is no escape \\q"),
        ("metadata.a = '\\ud83d'", "half of a pair"),
        ("metadata.'\\q' = 1", "there is no escape \\q"),
        ("metadata.a = (1)", "unexpected '('"),
        ("not", "a field stands here"),
        ("and metadata.a = 1", "unexpected 'and' at character 1"),
        ("type = 'a' && size > 1", "unexpected '&' at character 12 of the condition"),
        ("type = 'a' && size > 1", "`and` joins comparisons"),
        ("type = 'a' || size > 1", "`or` joins comparisons"),
        ("type = 3", "type compares with text, which stands in quotes"),
        ("size > 'big'", "size is a number"),
        ("size = true", "size is a number"),
        ("version = 'three'", "version is a number"),
        ("size contains 3", "after size stands one of = != < <= > >= in exists"),
        ("tag != 'x'", "`not tag = …` would do"),
        ("alias < 'x'", "after alias stands one of = in contains exists"),
        ("digest = 'abc'", "64 hexadecimal digits"),
        ("created > '7d'", '"2026-01-31"'),
        ("created > 'yesterday'", "dates are written as"),
        ("created in ('2026-01-01')", "after created stands one of"),
        ("metadata.a = '\udc80'", "not valid UTF-8"),
        ("not " * 51 + "metadata.a exists", "at most 50 deep"),
        ("(" * 51 + "metadata.a exists" + ")" * 51, "at most 50 deep"),
        (" and ".join(["metadata.a exists"] * 101), "at most 100 comparisons"),
        ("metadata.a = '" + "x" * 10_000 + "'", "at most 10000"),
    ],
)
def test_a_wrong_condition_is_refused_in_one_line_that_says_where(text, words):
    with pytest.raises(InvalidInput) as caught:
        parse_condition(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("text", ["", "1", "metadata.a = 1", "metadata.a ", "'a'", "-", "(", "accuracy", "metadata."])
def test_a_wrong_field_is_refused_with_those_there_are(text):
    with pytest.raises(InvalidInput, match="would do"):
        parse_field(text)


def test_a_version_cannot_be_sorted_by_what_it_may_have_several_of():
    with pytest.raises(InvalidInput, match="cannot sort by tag"):
        parse_order("-tag")


@given(st.text(alphabet="metadata.ab =<>!()',\"\\ notinrue019-_é\ud800", max_size=60))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(InvalidInput):
        read = parse_condition(text)
        assert (read is None) == (not text.strip())


# -- there and back ------------------------------------------------------------------------------------------------


def written(condition: Condition) -> str:
    """The text of a condition."""
    match condition:
        case Both(parts):
            return " and ".join(map(_grouped, parts))
        case Either(parts):
            return " or ".join(map(_grouped, parts))
        case Not(part):
            return f"not {_grouped(part)}"
        case Comparison(field, operator, values):
            if operator == "exists":
                return f"{field} exists"
            if operator == "in":
                return f"{field} in ({', '.join(map(_literal, values))})"
            if field.name in {"created", "updated"}:
                moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
                moment += dt.timedelta(microseconds=values[0] // 1000)
                return f'{field} {operator} "{moment.isoformat()}"'
            return f"{field} {operator} {_literal(values[0])}"


def _grouped(condition: Condition) -> str:
    return written(condition) if isinstance(condition, Comparison) else f"({written(condition)})"


def _literal(value: object) -> str:
    return json.dumps(value)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
anything = texts | numbers | st.booleans() | st.none()
paths = st.builds(lambda keys: Field("metadata", tuple(keys)), st.lists(texts, min_size=1, max_size=3))
instants = st.builds(lambda us: (us * 1000,), st.integers(0, 4 * 10**15))


def one(fields: st.SearchStrategy[Field], operators: list[str], values: st.SearchStrategy[object]):
    return st.builds(lambda f, o, v: Comparison(f, o, (v,)), fields, st.sampled_from(operators), values)


def named(*names: str) -> st.SearchStrategy[Field]:
    return st.sampled_from([Field(name) for name in names])


comparisons = st.one_of(
    one(paths, ["=", "!=", "contains"], anything),
    one(paths, ["<", "<=", ">", ">="], texts | numbers),
    st.builds(lambda f, v: Comparison(f, "in", tuple(v)), paths, st.lists(anything, min_size=1, max_size=4)),
    st.builds(lambda f: Comparison(f, "exists"), paths | named(*(set(query._KINDS) - {"metadata"}))),
    one(named("name", "type", "description", "run"), ["=", "!=", "<", "contains"], texts),
    one(named("version", "size", "files"), ["=", "!=", ">="], numbers),
    one(named("alias", "tag"), ["=", "contains"], texts),
    one(named("digest"), ["=", "!="], st.binary(min_size=32, max_size=32).map(lambda raw: f"blake3:{raw.hex()}")),
    st.builds(Comparison, named("created", "updated"), st.sampled_from(["<", ">="]), instants),
)
conditions = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=4).map(lambda parts: Both(tuple(parts))),
        st.lists(inner, min_size=2, max_size=4).map(lambda parts: Either(tuple(parts))),
        inner.map(Not),
    ),
    max_leaves=12,
)


@given(conditions)
def test_what_is_written_is_read_again(condition):
    assert repr(parse_condition(written(condition))) == repr(condition)


@given(st.lists(texts, min_size=1, max_size=4), st.lists(texts, min_size=1, max_size=4))
def test_different_keys_are_written_differently(one, other):
    assert (query.join_keys(tuple(one)) == query.join_keys(tuple(other))) == (one == other)
