"""The OpenAPI document: every route, and what each truly takes and gives."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute

from artifactfs.model.lineage import NewRun
from artifactfs.model.query import Query
from artifactfs.model.retention import Permissions, Protection, RetentionRule
from artifactfs.remote import wire
from tests.conformance.packs import chunk, packed
from tests.conformance.registry import NAME, digest, request
from tests.server.conftest import PROJECT, Served

MESSAGES = {wire.JSON, wire.MSGPACK}


@pytest.fixture
def document(served: Served) -> dict[str, Any]:
    answer = served.ask("GET", "/openapi.json")
    assert answer.status == 200
    return answer.json


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def follow(document: dict[str, Any], reference: str) -> Any:
    assert reference.startswith("#/")
    found: Any = document
    for part in reference[2:].split("/"):
        found = found[part]
    return found


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def conforms(document: dict[str, Any], schema: dict[str, Any], value: Any, where: str = "") -> None:
    """Whether a value is as its schema says: the part of JSON Schema that the document uses, and nothing that it does not name."""
    if "$ref" in schema:
        conforms(document, follow(document, schema["$ref"]), value, where)
        return
    if "anyOf" in schema:
        kinds = {"null": value is None, "integer": type(value) is int, "string": type(value) is str}
        assert any(kinds.get(choice.get("type"), True) for choice in schema["anyOf"]), where
        return
    kind = schema["type"]
    python = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}
    assert isinstance(value, python[kind]), f"{where}: {value!r} is no {kind}"
    if kind == "object" and "properties" in schema:
        assert value.keys() <= schema["properties"].keys(), where
        assert set(schema.get("required", ())) <= value.keys(), where
        for name, below in value.items():
            conforms(document, schema["properties"][name], below, f"{where}.{name}")
    elif kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        for name, below in value.items():
            conforms(document, schema["additionalProperties"], below, f"{where}.{name}")
    elif kind == "array":
        fixed = schema.get("prefixItems", [])
        assert schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)), where
        for index, item in enumerate(value):
            below = fixed[index] if index < len(fixed) else schema["items"]
            conforms(document, below, item, f"{where}[{index}]")
    elif schema.get("contentEncoding") == "base64":
        base64.b64decode(value, validate=True)


def test_every_route_is_listed_and_nothing_else(served, document):
    assert document["openapi"].startswith("3.1")
    routes = {
        (route.path_format, method.lower())
        for route in served.app.routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }
    assert {(path, method) for path, method, _ in operations(document)} == routes
    assert (f"{'/v1/projects/{project}'}/objects/{{key}}", "put") in routes
    assert len(routes) == 65


def test_every_reference_leads_somewhere(document):
    found = set(references(document))
    assert len(found) > 20
    for reference in found:
        assert follow(document, reference), reference
    named = {reference.rpartition("/")[2] for reference in found}
    assert set(document["components"]["schemas"]) <= named | {"HTTPValidationError"}
    assert "HTTPValidationError" not in json.dumps(document["paths"])


def test_every_operation_says_what_it_takes_and_gives(document):
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)
    for path, method, operation in operations(document):
        where = f"{method} {path}"
        assert operation["summary"], where
        assert operation["description"], where
        in_path = {entry["name"] for entry in operation["parameters"] if entry.get("in") == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path)), where
        responses = operation["responses"]
        assert {"500", "default"} <= responses.keys(), where
        assert (responses.keys() >= {"400", "503"}) == path.startswith("/v1/projects/"), where
        assert ("426" in responses) == path.startswith("/v1"), where
        for status, response in responses.items():
            assert response["description"], f"{where} {status}"
            if status == "default" or int(status) >= 400:
                assert response["content"].keys() == MESSAGES
                for content in response["content"].values():
                    assert content["schema"] == {"$ref": "#/components/schemas/Failure"}
            elif status == "204":
                assert "content" not in response, where
        if path.startswith("/v1/projects/"):
            assert wire.REVISION_HEADER in responses[min(responses)]["headers"], where
        if method in {"post", "patch"}:
            assert operation["requestBody"]["content"].keys() == MESSAGES, where
            assert {"408", "413", "415"} <= responses.keys(), where


def test_objects_are_bytes_and_ranges_are_told_of(document):
    at = document["paths"]["/v1/projects/{project}/objects/{key}"]
    binary = {wire.BYTES: {"schema": {"type": "string", "format": "binary"}}}
    assert at["get"]["responses"]["200"]["content"] == binary
    assert at["get"]["responses"]["206"]["content"] == binary
    assert "416" in at["get"]["responses"]
    assert "Range" in [entry.get("name") for entry in at["get"]["parameters"]]
    assert at["put"]["requestBody"]["content"] == binary
    assert {"411", "413", "422", "507"} <= at["put"]["responses"].keys()
    assert "content" not in at["head"]["responses"]["200"]


def test_answers_are_as_the_document_says(served, document):
    pack, data = packed("a", "b")
    served.put(f"packs/{pack.digest[:2]}/{pack.digest}.pack", data)
    session = served.ask("POST", "sessions", wire.NewSession("put", 60)).json["session"]
    questions: list[tuple[str, str, str, object]] = [
        ("get", "/v1", "/v1", None),
        ("get", "/healthz", "/healthz", None),
        ("get", "/readyz", "/readyz", None),
        ("post", "/commits", "/commits", request("a", aliases=("best",), metadata={"x": [1, None]})),
        ("get", "/revision", "/revision", None),
        ("get", "/artifacts", "/artifacts", None),
        ("get", "/artifacts/{name}", f"/artifacts/{NAME}", None),
        ("get", "/artifacts/{name}/versions", f"/artifacts/{NAME}/versions", None),
        ("get", "/artifacts/{name}/versions/{number}", f"/artifacts/{NAME}/versions/0", None),
        (
            "patch",
            "/artifacts/{name}/versions/{number}",
            f"/artifacts/{NAME}/versions/0",
            wire.Edit("words", tags=["good"]),
        ),
        ("post", "/find", "/find", Query(type="dataset", tag="good", sort=("-created",), limit=10)),
        (
            "post",
            "/artifacts/{name}/versions/{number}/aliases",
            f"/artifacts/{NAME}/versions/0/aliases",
            wire.AliasNames(["good"]),
        ),
        ("get", "/artifacts/{name}/aliases", f"/artifacts/{NAME}/aliases", None),
        ("get", "/artifacts/{name}/aliases/{alias}", f"/artifacts/{NAME}/aliases/best", None),
        ("get", "/artifacts/{name}/digests/{digest}", f"/artifacts/{NAME}/digests/{digest('a').hex()}", None),
        ("post", "/artifacts/{name}/aliases/remove", f"/artifacts/{NAME}/aliases/remove", wire.AliasNames(["good"])),
        ("post", "/packs", "/packs", wire.NewPacks([pack], session)),
        ("get", "/packs", "/packs", None),
        ("get", "/key", "/key", None),
        ("post", "/chunks/missing", "/chunks/missing", wire.Digests([chunk("a"), chunk("c")])),
        ("post", "/chunks/locate", "/chunks/locate", wire.Digests([chunk("a"), chunk("c")])),
        ("post", "/runs", "/runs", NewRun(id="one", name="the one", config={"lr": 0.1}, command=("a", "b"))),
        ("get", "/runs/{run}", "/runs/one", None),
        ("patch", "/runs/{run}", "/runs/one", wire.RunChange({"lr": [1, None]}, "failed", -9)),
        ("put", "/runs/{run}/life", "/runs/one/life", wire.RunLife(60)),
        ("post", "/runs/{run}/inputs", "/runs/one/inputs", wire.Inputs([1])),
        ("post", "/links", "/links", wire.LinksWanted([1], ["one"])),
        ("get", "/runs", "/runs?state=failed&limit=10", None),
        ("get", "/runs/{run}", "/runs/absent", None),
        ("post", "/artifacts/{name}/parts", f"/artifacts/{NAME}/parts", wire.Part("a/b", digest("part"), session)),
        ("get", "/artifacts/{name}/parts", f"/artifacts/{NAME}/parts?draft=a/b", None),
        ("delete", "/artifacts/{name}/versions/{number}", f"/artifacts/{NAME}/versions/0", None),
        (
            "delete",
            "/artifacts/{name}/versions/{number}",
            f"/artifacts/{NAME}/versions/0?delete_aliases=true",
            None,
        ),
        (
            "post",
            "/artifacts/{name}/delete",
            f"/artifacts/{NAME}/delete",
            wire.Deletion([9], Permissions(aliases=True)),
        ),
        ("get", "/deleted", f"/deleted?artifact={NAME}", None),
        ("get", "/artifacts/{name}/deleted/{number}", f"/artifacts/{NAME}/deleted/0", None),
        ("post", "/protections", "/protections", Protection("production")),
        ("get", "/protections", "/protections", None),
        ("post", "/protections/remove", "/protections/remove", Protection("production")),
        ("post", "/retention", "/retention", RetentionRule(keep_last=3, where="size > 0")),
        ("get", "/retention", "/retention", None),
        ("post", "/retention/remove", "/retention/remove", wire.RuleOf()),
        ("put", "/sessions/{session}/held", f"/sessions/{session}/held", wire.Held([(1, "pinned")])),
        ("get", "/held", "/held", None),
        ("put", "/quota", "/quota", wire.QuotaWanted(1 << 40, None)),
        ("get", "/usage", "/usage", None),
        ("put", "/artifacts/{name}/name", "/artifacts/absent/name", wire.NewName("present")),
        ("get", "/former-names", "/former-names", None),
        ("post", "/nodes", "/nodes", wire.NodesWanted([chunk("a")], 100)),
        ("post", "/path", "/path", wire.PathWanted(digest("a"), "x/y")),
        ("put", "/sessions/{session}", f"/sessions/{session}", wire.SessionLife(60)),
        ("post", "/collection", "/collection", wire.CollectionWanted(dry_run=True)),
        ("get", "/collection", "/collection", None),
        ("delete", "/sessions/{session}", f"/sessions/{session}", None),
        ("get", "/check", "/check", None),
        ("get", "/tokens", "/tokens", None),
        ("get", "/tokens/own", "/tokens/own", None),
        ("delete", "/tokens/{token}", "/tokens/absent12", None),
        ("get", "/objects", "/objects", None),
        ("post", "/objects/sign", "/objects/sign", wire.Keys([f"packs/{pack.digest[:2]}/{pack.digest}.pack"])),
        ("get", "/artifacts/{name}", "/artifacts/absent", None),
    ]
    asked = set()
    for method, template, path, message in questions:
        below = "" if path in {"/v1", "/healthz", "/readyz"} else PROJECT
        answer = served.ask(method.upper(), below + path, message)
        operation = document["paths"][("/v1/projects/{project}" if below else "") + template][method]
        asked.add(operation["operationId"])
        response = operation["responses"][str(answer.status)]
        assert (answer.status == 204) == (not answer.body), path
        if answer.body:
            conforms(document, response["content"][wire.JSON]["schema"], answer.json, path)
        if message is not None:
            sent = operation["requestBody"]["content"][wire.JSON]["schema"]
            conforms(document, sent, json.loads(wire.encode(message, wire.JSON)), path)
    rest = {operation["operationId"] for _, _, operation in operations(document)} - asked
    assert rest == {
        "get_metrics",
        "get_get",
        "head_size",
        "put_put",
        "delete_delete",
        "post_open_session",
        "post_create_token",
    }


def test_what_a_path_allows_is_told(served, document):
    filled = {"number": "0", "digest": "0" * 64, "session": "1"}
    for path, methods in document["paths"].items():
        at = re.sub(r"{(\w+)}", lambda found: filled.get(found[1], found[1]), path)
        answer = served.ask("OPTIONS", at)
        assert (answer.status, answer.code) == (405, "invalid-input")
        allowed = set(answer.headers["allow"].lower().split(", "))
        assert allowed >= methods.keys(), path
        # Some paths are also those of others: of an alias that is called remove, of a token that is called own.
        patterns = {
            other: re.sub(r"{(\w+)}", lambda found: ".+" if found[1] == "key" else "[^/]+", other)
            for other in document["paths"]
        }
        fitting = [other for other, pattern in patterns.items() if re.fullmatch(pattern, at)]
        assert allowed == {method for other in fitting for method in document["paths"][other]}, path


def test_no_page_loads_scripts_from_other_hosts(served):
    for path in ("/docs", "/redoc"):
        answer = served.ask("GET", path)
        assert (answer.status, answer.code) == (404, "not-found")
