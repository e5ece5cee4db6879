"""Projects of one server: no question about objects or chunks of one tells what another holds."""

from __future__ import annotations

import pytest

from artifactfs.content.pack import encode_index, index_key, pack_key
from artifactfs.model.access import ADMIN, READ, WRITE
from artifactfs.model.records import PackRow
from artifactfs.remote import wire
from tests.conformance.packs import chunk, packed
from tests.server.conftest import Answer, Served

MINE, THEIRS = "/v1/projects/mine", "/v1/projects/theirs"


class Holder:
    """Whoever has a token of a project and a role."""

    def __init__(self, served: Served, project: str, role: str) -> None:
        self._served = served
        new = served.registry.tokens.create(project=project, role=role, name="", seconds=None)
        self._headers = {"Authorization": f"Bearer {new.token}"}

    def ask(self, method: str, path: str, message: object = None, **options: object) -> Answer:
        return self._served.ask(method, path, message, headers=self._headers, **options)

    def upload(self, project: str, pack: PackRow, data: bytes) -> None:
        for key, body in ((pack_key(pack.digest), data), (index_key(pack.digest), encode_index(pack))):
            assert self.ask("PUT", f"{project}/objects/{key}", body=body).status == 204
        assert self.ask("POST", f"{project}/packs", wire.NewPacks([pack])).status == 204


@pytest.fixture
def theirs(served: Served) -> tuple[PackRow, bytes]:
    """A pack that the other project holds."""
    pack, data = packed("secret", "shared")
    Holder(served, "theirs", WRITE).upload(THEIRS, pack, data)
    return pack, data


def same(one: Answer, other: Answer, named: str, instead: str) -> None:
    """Both say the same, but for what was asked for."""
    assert one.status == other.status
    said = [
        body.replace(name.encode(), b"X").replace(f"/{name[:2]}/".encode(), b"/")
        for body, name in ((one.body, named), (other.body, instead))
    ]
    assert said[0] == said[1]


def test_objects_of_another_project_are_as_if_there_were_none(served, theirs):
    pack, data = theirs
    none, _ = packed("none")
    mine = Holder(served, "mine", ADMIN)
    key, absent = pack_key(pack.digest), pack_key(none.digest)
    for method in ("GET", "HEAD"):
        same(
            mine.ask(method, f"{MINE}/objects/{key}"),
            mine.ask(method, f"{MINE}/objects/{absent}"),
            pack.digest,
            none.digest,
        )
        assert mine.ask(method, f"{MINE}/objects/{key}").status == 404
        assert mine.ask(method, f"{THEIRS}/objects/{key}").status == 404
    assert mine.ask("GET", f"{MINE}/objects").message(wire.Objects).objects == []
    assert mine.ask("DELETE", f"{MINE}/objects/{key}").status == 204
    reader = Holder(served, "theirs", READ)
    assert reader.ask("GET", f"{THEIRS}/objects/{key}").body == data


def test_a_pack_of_another_project_cannot_be_recorded(served, theirs):
    pack, _ = theirs
    none, _ = packed("none")
    mine = Holder(served, "mine", WRITE)
    answer = mine.ask("POST", f"{MINE}/packs", wire.NewPacks([pack]))
    same(answer, mine.ask("POST", f"{MINE}/packs", wire.NewPacks([none])), pack.digest, none.digest)
    assert answer.status == 400
    assert mine.ask("GET", f"{MINE}/packs").message(wire.Packs).packs == []


def test_chunks_of_another_project_are_missing_and_sent_again(served, theirs):
    pack, data = theirs
    mine = Holder(served, "mine", WRITE)
    wanted = wire.Digests([chunk("secret"), chunk("shared")])
    assert set(mine.ask("POST", f"{MINE}/chunks/missing", wanted).message(wire.Digests).digests) == set(wanted.digests)
    assert wire.from_places(mine.ask("POST", f"{MINE}/chunks/locate", wanted).message(wire.Places)) == {}
    assert mine.ask("POST", f"{MINE}/nodes", wire.NodesWanted(wanted.digests, 0)).message(wire.Nodes).nodes == []
    # An upload is a whole one, though the same bytes lie there already.
    mine.upload(MINE, pack, data)
    assert served.stores.of_project("mine").size(pack_key(pack.digest)) == len(data)
    Holder(served, "theirs", ADMIN).ask("DELETE", f"{THEIRS}/objects/{pack_key(pack.digest)}")
    assert mine.ask("GET", f"{MINE}/objects/{pack_key(pack.digest)}").body == data
