from __future__ import annotations

import enum
import http
import math
import re

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.errors import InvalidInput
from artifactfs.model import names
from artifactfs.model.names import Address, parse_address


@pytest.mark.parametrize("name", ["bike-dataset", "a", "A_b.c-9", "x" * 128, "...", "v1", "staging"])
def test_allowed_names_are_returned(name):
    assert names.check_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", ".artifactfs", "x" * 129, "a b", "a/b", "a:b", "ä", "a\n", "a\0"])
def test_wrong_names_are_refused(name):
    with pytest.raises(InvalidInput):
        names.check_name(name)


def test_a_wrong_name_comes_with_the_allowed_characters_and_one_that_would_do():
    with pytest.raises(InvalidInput) as caught:
        names.check_name("reference model")
    assert "letters, digits" in str(caught.value)
    assert "'reference-model' would do" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("my bikes/data:latest", "not a project name: 'my bikes'; .* 'my-bikes' would do"),
        ("bikes/my data:latest", "not an artifact name: 'my data'"),
        ("data:", "not an alias: ''; an alias is a word"),
    ],
)
def test_a_wrong_address_says_which_part_is_wrong(text, said):
    with pytest.raises(InvalidInput, match=said):
        parse_address(text)


@given(st.text())
def test_a_suggested_name_is_allowed(text):
    better = names.suggest_name(text)
    assert better == "" or names.check_name(better) == better


@given(st.text(max_size=200))
def test_whatever_is_accepted_as_an_alias_is_one_file_name(alias):
    try:
        names.check_alias(alias)
    except InvalidInput:
        return
    assert "/" not in alias
    assert ":" not in alias
    assert alias not in {"", ".", "..", "staging"}
    assert 0 < len(alias.encode()) <= 255
    assert names.parse_version(alias) is None


@pytest.mark.parametrize(
    "alias", ["v0", "v12", "v007", "staging", ".", "..", "", "a/b", "a:b", "a\nb", "a\0", "x" * 129, "\udc80"]
)
def test_wrong_aliases_are_refused(alias):
    with pytest.raises(InvalidInput):
        names.check_alias(alias)


@pytest.mark.parametrize("tag", ["tried", "two words", "a-b_c", "größe", "2024", "-", "x" * 128])
def test_tags(tag):
    assert names.check_tag(tag) == tag


@pytest.mark.parametrize("tag", ["", " ", " a", "a ", "a/b", "a,b", "a\n", "a\tb", "a\0", "x" * 129, "\udc80"])
def test_wrong_tags_are_refused(tag):
    with pytest.raises(InvalidInput):
        names.check_tag(tag)


@given(st.text())
def test_a_refused_tag_comes_with_one_that_would_do(text):
    try:
        names.check_tag(text)
    except InvalidInput as error:
        if (better := re.search("; (?P<quoted>'.*') would do$", str(error))) is not None:
            assert names.check_tag(better["quoted"][1:-1])


@pytest.mark.parametrize(("text", "is_one"), [("a", True), ("A_b-9", True), ("x" * 64, True), ("x" * 65, False)])
def test_ids_of_runs(text, is_one):
    assert names.is_run(text) == is_one


@pytest.mark.parametrize("text", ["", "a b", "a/b", "a.b", "ä", "a\n", "x" * 65])
def test_wrong_ids_of_runs_are_refused(text):
    with pytest.raises(InvalidInput, match="1 to 64 letters, digits, '_' and '-'"):
        names.check_run(text)


def test_a_configuration_is_json_with_any_number_of_keys():
    config = {str(number): number for number in range(500)}
    assert names.check_config(config | {"x": {"y": math.nan}}) == config | {"x": {"y": None}}
    with pytest.raises(InvalidInput, match=r"config\.x\.y is a set"):
        names.check_config({"x": {"y": {1}}})


@pytest.mark.parametrize("value", ["dataset", "model", "my result", "x" * 128])
def test_types(value):
    assert names.check_type(value) == value


@pytest.mark.parametrize("value", ["", "a/b", "a:b", "x" * 129, "a\nb"])
def test_wrong_types_are_refused(value):
    with pytest.raises(InvalidInput):
        names.check_type(value)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/a",
        "a//b",
        "a/",
        "./a",
        "a/./b",
        "../a",
        "a/../b",
        "a\0b",
        "x" * 256,
        "é" * 128,
        "\udc80",
        "a/" * 2048 + "a",
    ],
)
def test_paths_that_leave_or_break_the_tree_are_refused(path):
    with pytest.raises(InvalidInput):
        names.check_entry_path(path)


@pytest.mark.parametrize("path", ["a", "images/cat.png", "a b/ü", "x" * 255, "..a/b..", "a:b"])
def test_paths(path):
    assert names.check_entry_path(path) == path


@pytest.mark.parametrize(
    ("text", "number"), [("v0", 0), ("v12", 12), ("v01", None), ("v", None), ("V1", None), ("v1 ", None), ("v-1", None)]
)
def test_version_numbers(text, number):
    assert names.parse_version(text) == number


HEX = "ab" * 32


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("data", Address(None, "data")),
        ("data:v3", Address(None, "data", "v3")),
        ("data:latest/images/cat.png", Address(None, "data", "latest", path="images/cat.png")),
        ("bikes/data:best", Address("bikes", "data", "best")),
        ("bikes/data:best/a/b", Address("bikes", "data", "best", path="a/b")),
        ("data/images/cat.png", Address(None, "data", path="images/cat.png")),
        ("data:v1/", Address(None, "data", "v1")),
        ("data:v1/a:b@c", Address(None, "data", "v1", path="a:b@c")),
        (f"data@blake3:{HEX}", Address(None, "data", digest=bytes.fromhex(HEX))),
        (f"bikes/data@blake3:{HEX}/a", Address("bikes", "data", digest=bytes.fromhex(HEX), path="a")),
    ],
)
def test_addresses(text, address):
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":v1",
        "a b:v1",
        "/data:v1",
        "data:",
        "data:v1/../x",
        "data@blake3:12",
        "a/b/c:v1",
        "data:v1//x",
        "data@v1",
        "data:staging",
    ],
)
def test_wrong_addresses_are_refused(text):
    with pytest.raises(InvalidInput):
        parse_address(text)


def test_metadata_is_json_with_nan_as_null():
    assert names.check_metadata({"a": math.nan, "b": [1, (2, {"c": None})], "d": True}) == {
        "a": None,
        "b": [1, [2, {"c": None}]],
        "d": True,
    }


class Colour(str, enum.Enum):  # noqa: UP042 - as much code has it; str() of it is another text
    RED = "red"


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.float32("nan"), None),
        (np.int64(3), 3),
        (np.uint8(255), 255),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.array(2.5), 2.5),
        ([np.int32(1)], [1]),
        (http.HTTPStatus.OK, 200),
        (Colour.RED, "red"),
        (Text("a"), "a"),
    ],
)
def test_numbers_and_texts_of_libraries_are_stored_as_plain_ones(value, plain):
    found = names.check_metadata({"a": value})["a"]
    assert found == plain
    assert type(found) is type(plain)
    assert msgspec.json.decode(msgspec.json.encode(found)) == plain
    assert names.check_config({"a": value}) == {"a": plain}


@pytest.mark.parametrize(
    ("metadata", "where"),
    [
        ({"a": np.array([1, 2])}, "metadata.a is a ndarray"),
        ({"a": np.float32("inf")}, "metadata.a is infinite"),
        ({"a": np.complex64(1)}, "metadata.a is a complex64"),
        ({"a": np.datetime64("2026-01-01", "ns")}, "metadata.a is a datetime64"),
        ({"a": np.timedelta64(5, "ns")}, "metadata.a is a timedelta64"),
        ({"a": {"b": math.inf}}, "metadata.a.b"),
        ({"a": [object()]}, "metadata.a[0]"),
        ({"a": {1: 2}}, "metadata.a"),
        ({"a": 2**64}, "metadata.a"),
    ],
)
def test_metadata_that_is_no_json_is_refused_by_its_place(metadata, where):
    with pytest.raises(InvalidInput) as caught:
        names.check_metadata(metadata)
    assert where in str(caught.value)


def test_metadata_has_at_most_100_keys_at_the_top():
    assert len(names.check_metadata({str(n): n for n in range(100)})) == 100
    with pytest.raises(InvalidInput):
        names.check_metadata({str(n): n for n in range(101)})
