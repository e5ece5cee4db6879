"""Every operation of the OpenAPI document, asked by everybody who may not: what each is told, and that nothing is changed by it.

The messages are such as would be carried out: whoever may is let through with the same ones.
"""

from __future__ import annotations

import base64
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple

import msgspec
import pytest

from artifactfs.model.access import ROLES
from artifactfs.remote import wire
from artifactfs.server.document import OPEN, PROJECT
from tests.access.conftest import Guarded, document_of, guarding
from tests.access.test_routes import Asked, operations
from tests.conformance.registry import digest, request
from tests.server.conftest import Answer

THEIRS, ABSENT = "theirs", "absent"
RUN = "one"
NUMBERS = {"get /artifacts/{name}/deleted/{number}": "2"}  # of a version that was deleted
QUERIES = {
    "get /artifacts/{name}/parts": "?draft=none",
    "delete /artifacts/{name}/versions/{number}": "?delete_aliases=true",
}


class Filled(NamedTuple):
    """A server whose project THEIRS has one of everything, and what names it in paths and messages."""

    guarded: Guarded
    words: dict[str, str]
    messages: dict[str, Any]
    operations: list[Asked]

    def ask(self, each: Asked, token: str, project: str = THEIRS) -> Answer:
        asked = f"{each.method} {each.template.removeprefix(PROJECT)}"
        words = {**self.words, "project": project}
        words["number"] = NUMBERS.get(asked, words["number"])
        path = re.sub(r"{(\w+)}", lambda found: words.get(found[1], found[1]), each.template)
        path += QUERIES.get(asked, "")
        message = self.messages.get(asked, {}) if each.takes else None
        headers = {"Content-Length": "0"} if each.method == "put" and not each.takes else None
        return self.guarded.ask(each.method.upper(), path, token=token, message=message, headers=headers)

    def state(self) -> tuple[list[str], list[tuple[str, int]]]:
        """All that the repository holds: every row, every file."""
        root = self.guarded.repository
        with closing(sqlite3.connect(f"file:{root / 'registry.db'}?mode=ro", uri=True)) as file:
            rows = list(file.iterdump())
        return rows, sorted((str(path), path.stat().st_size) for path in (root / "store").rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    with guarding(tmp_path_factory.mktemp("matrix") / "guarded") as guarded:
        token = guarded.token("admin", THEIRS)
        # A scrub notes in the registry, a minute after the start, how far it is.
        guarded.start("--no-access-log", "--scrub-days", 0, tls=False)

        def make(method: str, below: str, message: object = None, headers: dict[str, str] | None = None) -> Any:
            answer = guarded.ask(method, f"/v1/projects/{THEIRS}{below}", token=token, message=message, headers=headers)
            assert answer.status in {200, 204}, answer
            return answer.json if answer.body else None

        version = make("POST", "/commits", msgspec.to_builtins(request("a", aliases=("old",))))["version"]
        other = make("POST", "/commits", msgspec.to_builtins(request("b")))["version"]
        make("POST", "/commits", msgspec.to_builtins(request("gone")))
        make("DELETE", f"/artifacts/{version['artifact']}/versions/2")
        make("POST", "/collection", {"dry_run": True})
        make("POST", "/runs", {"id": RUN, "name": RUN})
        session = make("POST", "/sessions", {"kind": "put", "seconds": 3600})["session"]
        make("PUT", "/objects/packs/00/some", headers={"Content-Length": "0"})
        text = base64.b64encode(digest("a")).decode()
        yield Filled(
            guarded,
            {
                "name": version["artifact"],
                "number": str(version["number"]),
                "alias": "old",
                "digest": digest("a").hex(),
                "session": str(session),
                "run": RUN,
                "key": "packs/00/some",
                "token": guarded.token("read", THEIRS)[4:12],
            },
            {
                "patch /artifacts/{name}/versions/{number}": {"description": "changed"},
                "post /artifacts/{name}/versions/{number}/aliases": {"aliases": ["best"]},
                "post /artifacts/{name}/aliases/remove": {"aliases": ["best"]},
                "post /commits": msgspec.to_builtins(request("d")),
                "post /artifacts/{name}/parts": {"draft": "none", "digest": text, "session": session},
                "post /sessions": {"kind": "put", "seconds": 60},
                "put /sessions/{session}": {"seconds": 7200},
                "post /runs": {"id": "two", "name": "two"},
                "patch /runs/{run}": {"config": {"a": 1}},
                "put /runs/{run}/life": {"seconds": 7200},
                "post /runs/{run}/inputs": {"versions": [other["id"]]},
                "post /links": {"versions": [version["id"]], "runs": [RUN]},
                "post /chunks/missing": {"digests": [text]},
                "post /chunks/locate": {"digests": [text]},
                "post /nodes": {"digests": [text], "ahead": 1000},
                "post /path": {"digest": text, "path": "a/b"},
                "post /packs": {"packs": []},
                "put /sessions/{session}/held": {"versions": [[version["id"], "staging"]]},
                "post /tokens": {"role": "admin"},
            },
            [each for each in operations(document_of(guarded)) if each.role != OPEN],
        )


def shown(answer: Answer, project: str) -> tuple[int, dict[str, str], bytes]:
    """All of an answer but what differs from one to the next, and the project's name."""
    headers = {name: value for name, value in answer.headers.items() if name not in {"date", "x-request-id"}}
    return answer.status, headers, answer.body.replace(project.encode(), b"PROJECT")


def test_whoever_may_not_learns_and_changes_nothing(filled: Filled):
    guarded = filled.guarded
    good, revoked = guarded.token("admin", ""), guarded.token("admin", THEIRS)
    guarded.revoke(revoked)
    askers = {
        "nobody": ("", 401),
        "garbage": ("garbage", 401),
        "unknown": ("afs_00000000_" + "A" * 43, 401),
        "wrong secret": (good[:-1] + ("A" if good[-1] != "A" else "B"), 401),
        "expired": (guarded.token("admin", THEIRS, seconds=0.001), 401),
        "revoked": (revoked, 401),
        "of another project": (guarded.token("admin", "mine"), 404),
        "read": (guarded.token("read", THEIRS), 403),
        "write": (guarded.token("write", THEIRS), 403),
    }
    before = filled.state()
    refused = 0
    for each in filled.operations:
        of_all = "{project}" not in each.template
        for asker, (token, status) in askers.items():
            if asker in ROLES and ROLES.index(asker) >= ROLES.index(each.role) and not of_all:
                continue
            answer = filled.ask(each, token)
            assert answer.status == (403 if of_all and status == 404 else status), (each, asker, answer)
            assert wire.REVISION_HEADER.lower() not in answer.headers
            assert each.method == "head" or answer.code == "access"
            refused += 1
            if status in {401, 404} and not of_all:
                # As if the project were not there, to the last byte.
                assert shown(answer, THEIRS) == shown(filled.ask(each, token, ABSENT), ABSENT), (each, asker)
        assert filled.state() == before, each
    assert refused > 7 * len(filled.operations)


def test_what_is_wrong_with_a_request_tells_nothing_about_a_project(filled: Filled):
    """Who may not is told so before anything of the request is looked at, or else in the same words for any project."""
    guarded = filled.guarded
    much = str(wire.MESSAGE_LIMIT + 1)
    requests: list[tuple[str, str, dict[str, str]]] = [
        ("GET", "", {}),
        ("GET", "/", {}),
        ("GET", "/nothing", {}),
        ("OPTIONS", "/artifacts", {}),
        ("TRACE", "/commits", {}),
        ("PUT", "/artifacts", {"Content-Length": "0"}),
        ("POST", "/objects/packs/00/some", {"Content-Length": "0"}),
        ("GET", "/artifacts/data/versions/one", {}),
        ("GET", "/artifacts/data/digests/short", {}),
        ("GET", "/revision?seconds=-1", {}),
        ("GET", "/revision?after=none", {}),
        ("GET", "/revision?after=0&seconds=50", {}),
        ("GET", "/artifacts/data/parts", {}),
        ("POST", "/commits", {"Content-Type": "text/plain", "Content-Length": "0"}),
        ("POST", "/commits", {"Content-Type": wire.JSON, "Content-Length": "0"}),
        ("POST", "/commits", {"Content-Type": wire.JSON, "Content-Length": much}),
        ("PUT", "/objects/packs/00/some", {"Content-Length": str(wire.OBJECT_LIMIT + 1)}),
        ("PUT", "/objects/packs/00/some", {"Transfer-Encoding": "chunked"}),
        ("PUT", "/objects/..%2f..%2fregistry.db", {"Content-Length": "0"}),
        ("GET", "/objects/packs/00/some", {"Range": "bytes=5-1"}),
        ("GET", "/artifacts", {wire.PROTOCOL_HEADER: "0"}),
        ("GET", "/artifacts", {wire.PROTOCOL_HEADER: "x"}),
        ("GET", "/artifacts", {"If-None-Match": "*", "If-Modified-Since": "Sun, 06 Nov 1994 08:49:37 GMT"}),
    ]
    before = filled.state()
    for token in ("", guarded.token("admin", "mine")):
        if token:
            before = filled.state()
        for method, below, headers in requests:
            answers = [
                shown(guarded.ask(method, f"/v1/projects/{project}{below}", token=token, headers=headers), project)
                for project in (THEIRS, ABSENT)
            ]
            assert answers[0] == answers[1], (method, below)
            assert answers[0][0] in {401, 404, 405, 426}, (method, below, answers[0])
    assert filled.state() == before


def test_reading_makes_no_project(filled: Filled):
    guarded = filled.guarded
    token = guarded.token("read", "")
    before = filled.state()
    for each in filled.operations:
        if each.role == "read":
            assert filled.ask(each, token, "new").status in {200, 204, 400, 404}, each
    assert filled.state() == before


def test_whoever_may_is_let_through_with_the_same_requests(filled: Filled):
    """Last, as it changes what is there."""
    guarded = filled.guarded
    tokens = {role: guarded.token(role, THEIRS) for role in ROLES} | {"": guarded.token("admin", "")}

    def last(each: Asked) -> tuple[int, bool]:
        return ROLES.index(each.role), each.method == "delete"

    for each in sorted(filled.operations, key=last):
        before = filled.state()
        answer = filled.ask(each, tokens[each.role if "{project}" in each.template else ""])
        assert answer.status not in {401, 403}, each
        known = not each.takes or f"{each.method} {each.template.removeprefix(PROJECT)}" in filled.messages
        if known and "{project}" in each.template:
            assert answer.status in {200, 204}, (each, answer)
        if each.role == "read":
            assert filled.state() == before, each
