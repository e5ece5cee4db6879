"""Who may do what, operation by operation, as the OpenAPI document of a running server lists them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest

from artifactfs.model.access import ROLES
from artifactfs.remote import wire
from artifactfs.server.app import _MODULES
from artifactfs.server.document import OPEN, PROJECT, Operations
from tests.access.conftest import Guarded, document_of

FILLED = {
    "project": "default", "name": "data", "number": "0", "alias": "latest", "digest": "0" * 64, "session": "1",
    "run": "one", "key": "packs/00/none", "token": "absent12",
}  # fmt: skip
OPEN_PATHS = {"/v1", "/healthz", "/readyz"}
# What changes anything asks for more than read, and what cannot be undone, or is about who may come in, for admin.
ADMINS = {
    ("delete", "/artifacts/{name}/versions/{number}"),
    ("delete", "/objects/{key}"),
    ("get", "/check"),
    ("get", "/collection"),
    ("post", "/collection"),
    ("get", "/tokens"),
    ("post", "/tokens"),
    ("delete", "/tokens/{token}"),
    ("post", "/artifacts/{name}/delete"),
    ("put", "/artifacts/{name}/name"),
    ("post", "/protections"),
    ("post", "/protections/remove"),
    ("post", "/retention"),
    ("post", "/retention/remove"),
    ("put", "/quota"),
}
QUESTIONS = {"/objects/sign", "/find", "/chunks/missing", "/chunks/locate", "/nodes", "/path", "/links", "/urls"}


@dataclass(frozen=True)
class Asked:
    """An operation with what fills its path."""

    method: str
    template: str
    role: str
    takes: bool

    def path(self, project: str = "default") -> str:
        filled = re.sub(r"{(\w+)}", lambda found: {**FILLED, "project": project}[found[1]], self.template)
        return filled + ("?draft=none" if self.template.endswith("/parts") and self.method == "get" else "")

    def ask(self, guarded: Guarded, token: str = "", *, project: str = "default") -> Any:
        # A body that says nothing: who may not is told so before it is looked at, who may gets 400 for it.
        message = {} if self.takes else None
        headers = {"Content-Length": "0"} if self.method == "put" and not self.takes else None
        return guarded.ask(self.method.upper(), self.path(project), token=token, message=message, headers=headers)


def operations(document: dict[str, Any]) -> list[Asked]:
    found = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            role = operation["security"][0]["token"][0] if operation["security"] else OPEN
            takes = wire.JSON in operation.get("requestBody", {}).get("content", {})
            found.append(Asked(method, path, role, takes))
    return found


@pytest.fixture(scope="module")
def guarded_operations(shared: Guarded) -> list[Asked]:
    return [operation for operation in operations(document_of(shared)) if operation.role != OPEN]


def test_every_operation_declares_what_it_takes_and_the_table_is_as_decided(shared):
    found = operations(document_of(shared))
    declared = {(o.method.lower(), o.path.replace(":path", "")): o.role for module in _MODULES for o in module}
    assert {(each.method, each.template): each.role for each in found} == declared
    assert {each.template for each in found if each.role == OPEN} == OPEN_PATHS
    for each in found:
        below = each.template.removeprefix(PROJECT)
        if each.template in OPEN_PATHS:
            continue
        if (each.method, below) in ADMINS:
            expected = "admin"
        elif each.method in {"get", "head"} or below in QUESTIONS:
            expected = "read"
        else:
            expected = "write"
        assert each.role == expected, each


def test_an_operation_without_a_role_cannot_be_declared():
    with pytest.raises(TypeError, match="role"):
        Operations("Subject")("GET", "/path")  # type: ignore[call-arg]


def test_the_document_tells_of_tokens(shared):
    document = document_of(shared)
    scheme = document["components"]["securitySchemes"]["token"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    for methods in document["paths"].values():
        for operation in methods.values():
            assert ("401" in operation["responses"]) == bool(operation["security"])


def test_what_is_open_is_answered_to_everybody(shared):
    for path in (*OPEN_PATHS, "/openapi.json"):
        assert shared.ask("GET", path).status == 200, path


def refused(answer: Any) -> tuple[int, str, bytes]:
    return answer.status, answer.headers.get("www-authenticate", ""), answer.body


def test_strangers_get_nothing_from_any_operation(shared, guarded_operations):
    role = shared.token("admin", "")
    expired = shared.token("admin", "", seconds=0.001)
    revoked = shared.token("admin", "")
    shared.revoke(revoked)
    others = {
        "none": "",
        "no token": "secret",
        "unknown": "afs_00000000_" + "A" * 43,
        "wrong secret": role[:-1] + ("A" if role[-1] != "A" else "B"),
        "expired": expired,
        "revoked": revoked,
    }
    for kind, token in others.items():
        answers = {refused(each.ask(shared, token)) for each in guarded_operations if each.method != "head"}
        heads = {refused(each.ask(shared, token))[:2] for each in guarded_operations if each.method == "head"}
        assert len(answers) == 1, kind
        status, challenge, body = answers.pop()
        assert status == 401
        assert challenge.startswith('Bearer realm="artifactfs"')
        assert heads == {(401, challenge)}
        assert b'"code":"access"' in body
        assert token == "" or token.encode() not in body
        assert not token.startswith("afs_") or token[13:].encode() not in body


def test_each_role_may_what_it_may_and_no_more(shared, guarded_operations):
    of_all = {role: shared.token(role, "") for role in ROLES}
    seen = set()
    for each in guarded_operations:
        for role, token in of_all.items():
            answer = each.ask(shared, token)
            allowed = ROLES.index(role) >= ROLES.index(each.role)
            assert (answer.status not in {401, 403}) == allowed, (each, role, answer)
            if not allowed:
                assert answer.status == 403
                assert each.method == "head" or f"needs the role {each.role}" in answer.json["message"]
            seen.add((each.role, role, allowed))
    assert len(seen) == 9


def test_another_project_is_as_one_that_is_not_there(shared, guarded_operations):
    mine = shared.token("admin", "mine")
    # One of both is there, and has something in it.
    start = shared.ask(
        "POST", "/v1/projects/theirs/runs", token=shared.token("write", "theirs"), message={"id": "one", "name": "one"}
    )
    assert start.status == 200
    for each in guarded_operations:
        if "{project}" not in each.template:
            assert each.ask(shared, mine).status == 403
            continue
        answers = []
        for project in ("theirs", "absent"):
            answer = each.ask(shared, mine, project=project)
            kept = {name: value for name, value in answer.headers.items() if name not in {"date", "x-request-id"}}
            kept.pop("content-length")
            answers.append((answer.status, kept, answer.body.replace(project.encode(), b"PROJECT")))
        assert answers[0] == answers[1], each
        assert answers[0][0] == 404
        assert wire.REVISION_HEADER.lower() not in answers[0][1]


def test_a_read_token_leaves_a_repository_as_it_is(shared, guarded_operations):
    writer, reader = shared.token("admin"), shared.token("read")
    before = shared.ask("GET", "/v1/projects/default/revision", token=writer).json
    for each in guarded_operations:
        each.ask(shared, reader)
    assert shared.ask("GET", "/v1/projects/default/revision", token=writer).json == before
    assert shared.ask("GET", "/v1/projects/default/objects", token=writer).json["objects"] == []


def test_an_admin_of_a_project_makes_tokens_of_this_one_alone(shared):
    admin = shared.token("admin", "mine")
    path = "/v1/projects/mine/tokens"
    made = shared.ask("POST", path, token=admin, message={"role": "read", "name": "alice", "seconds": 60})
    assert made.status == 200
    assert shared.ask("GET", "/v1/projects/mine/artifacts", token=made.json["token"]).status == 200
    assert shared.ask("POST", path, token=admin, message={"role": "read", "all_projects": True}).status == 403
    seen = {record["project"] for record in shared.ask("GET", path, token=admin).json["tokens"]}
    assert seen == {"mine"}
    other = shared.token("read", "other")
    for identity in (other[4:12], "absent12"):
        answer = shared.ask("DELETE", f"{path}/{identity}", token=admin)
        assert (answer.status, answer.code) == (404, "not-found")
    identity = made.json["record"]["id"]
    assert shared.ask("DELETE", f"{path}/{identity}", token=admin).status == 200
    assert shared.ask("GET", "/v1/projects/mine/artifacts", token=made.json["token"]).status == 401


def test_nothing_of_a_token_is_logged(shared, guarded_operations):
    token = shared.token("admin", "")
    wrong = token[:-1] + ("A" if token[-1] != "A" else "B")
    for each in guarded_operations[:5]:
        each.ask(shared, token)
        each.ask(shared, wrong)
    log = shared.logged()
    assert token[13:50] not in log
    assert "Bearer" not in log
    assert "/v1/projects/default" in log
