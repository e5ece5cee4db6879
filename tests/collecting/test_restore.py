"""A deleted version comes back as the next one: before, while and after what it held is collected, of every kind of repository."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec
import pytest

from artifactfs import restoring
from artifactfs.collect import collect
from artifactfs.content.cache import CacheSettings
from artifactfs.content.pack import pack_key
from artifactfs.credentials import NONE, Credentials
from artifactfs.draft import Draft
from artifactfs.errors import Conflict, Integrity, InvalidInput, NoSpace, NotFound
from artifactfs.model.lineage import NewRun
from artifactfs.model.names import parse_address
from artifactfs.model.retention import Permissions, Tombstone
from artifactfs.registry.opening import open_registry
from artifactfs.remote import wire
from artifactfs.repository import Repository
from artifactfs.restoring import find, foresee, restore
from artifactfs.sending import Sending, Survey
from tests.collecting.conftest import Place, noise
from tests.collecting.test_collect import contents, sound
from tests.server.conftest import serving

KEY = bytes(range(32))
LARGE = 9 << 20
FILES = {"a": noise(1, 50_000), "sub/b": noise(2, 3_000), "sub/text": b"compresses " * 500, "empty": b""}


@pytest.fixture(params=["directory", "encrypted", "postgresql", "server"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path, place: Place) -> Iterator[Place]:
    """A repository of each kind; all do the same."""
    with ExitStack() as stack:
        if request.param == "encrypted":
            place.repository.registry.encrypt(KEY)
            place.repository.close()
            place.repository = Repository.open(str(place.path), credentials=Credentials(key=KEY.hex()))
        elif request.param == "postgresql":
            place.repository.close()
            registry = open_registry(request.getfixturevalue("postgres_url"))
            place.repository = Repository.over(
                registry, beside=tmp_path / "packs", disk=tmp_path / "spool", credentials=NONE
            )
        elif request.param == "server":
            place.repository.close()
            (tmp_path / "served").mkdir()
            served = stack.enter_context(serving(tmp_path / "served"))
            # Its own cache keeps nothing, so that all that is read comes from the server.
            place.repository = Repository.open(served.url, cache=CacheSettings(tmp_path / "cache", limit=0, reserve=0))
        yield place
        place.repository.close()


def gone(place: Place, name: str = "data:v0"):
    return find(place.repository, parse_address(name))


def objects(place: Place) -> list[tuple[str, int]]:
    return sorted(place.repository.store.list())


def delete(place: Place, *numbers: int, name: str = "data") -> None:
    place.repository.registry.retention.delete(name, numbers or None, permissions=Permissions(aliases=True))


def condemned(place: Place) -> int:
    """Begin a session, and collect: what nobody needs is condemned and not deleted before that has ended."""
    session = place.repository.registry.open_session("put", seconds=600)
    assert collect(place.repository).condemned_packs
    return session


# -- where it can be had -------------------------------------------------------------------------------------------------


def test_it_comes_back_under_the_next_number_with_what_belongs_to_it(anywhere):
    registry = anywhere.repository.registry
    registry.start_run(NewRun(id="maker", name="maker"))
    anywhere.put("data", {"z": b"z"})
    (anywhere.top / "file").write_bytes(noise(1, 50_000))
    draft = Draft(anywhere.repository)
    draft.add(anywhere.top / "file")
    values = {"rows": 2, "parts": ["a", 1.5, None]}
    draft.commit(
        "data",
        aliases=("best",),
        tags=("good",),
        description="the second",
        metadata=values,
        type="dataset",
        run="maker",
    )
    anywhere.put("data", {"y": b"y"})
    delete(anywhere, 1)
    before = objects(anywhere)
    was = gone(anywhere, "data:v1")
    assert foresee(anywhere.repository, was) == restoring.Outlook(None, 0)
    restored = restore(anywhere.repository, was, aliases=("again",))
    version = restored.version
    assert (version.name, restored.created, restored.latest_before) == ("data:v3", True, 2)
    assert (version.aliases, version.tags, version.type) == (("again", "latest"), (), "dataset")
    assert (version.description, version.metadata, version.run) == ("the second", values, "maker")
    assert version.digest == was.digest
    assert contents(anywhere.repository, version) == {"file": noise(1, 50_000)}
    assert objects(anywhere) == before
    # The run made these contents, whatever number they have.
    assert {link.version for link in registry.links(runs=["maker"]).links} == {was.id, version.id}
    assert gone(anywhere, "data:v1") == was
    assert foresee(anywhere.repository, was).same == version


def test_what_was_condemned_is_read_and_stored_anew(anywhere):
    large = noise("large", LARGE)
    files = FILES | {"large": large}
    anywhere.put("data", files)
    delete(anywhere)
    session = condemned(anywhere)
    was = gone(anywhere)
    assert foresee(anywhere.repository, was).missing == sum(map(len, files.values()))
    version = restore(anywhere.repository, was).version
    assert version.name == "data:v1"
    anywhere.repository.registry.close_session(session)
    collect(anywhere.repository)
    assert contents(anywhere.repository, version) == files
    assert collect(anywhere.repository).freed == 0
    assert contents(anywhere.repository, version) == files


def test_of_what_other_versions_share_only_the_rest_is_stored_anew(anywhere):
    anywhere.put("data", FILES)
    anywhere.put("data", FILES | {"own": noise(3, 20_000)})
    delete(anywhere, 1)
    session = condemned(anywhere)
    assert foresee(anywhere.repository, gone(anywhere, "data:v1")).missing == 20_000
    version = restore(anywhere.repository, gone(anywhere, "data:v1")).version
    anywhere.repository.registry.close_session(session)
    collect(anywhere.repository)
    assert contents(anywhere.repository, version) == FILES | {"own": noise(3, 20_000)}


def test_what_other_versions_hold_is_had_after_a_collection(anywhere):
    """The same tree under another name; and what lies in packs that are mostly alive."""
    anywhere.put("data", FILES)
    anywhere.put("other", FILES)
    delete(anywhere)
    collect(anywhere.repository)
    version = restore(anywhere.repository, gone(anywhere)).version
    assert (version.name, contents(anywhere.repository, version)) == ("data:v1", FILES)


def test_what_was_collected_is_refused_and_nothing_is_changed(anywhere):
    anywhere.put("data", FILES)
    anywhere.put("data", {"y": noise("y", 1000)})
    delete(anywhere, 0)
    collect(anywhere.repository)
    before, revision = objects(anywhere), anywhere.repository.registry.revision()
    message = (
        f"data:v0 cannot be restored: what it held is gone, as garbage was collected since; put the same files again, or copy data:v0 "
        f"from a backup: artifactfs --repository BACKUP copy data:v0 --to {anywhere.repository.location}"
    )
    for what in (foresee, restore):
        with pytest.raises(NotFound) as caught:
            what(anywhere.repository, gone(anywhere))
        assert str(caught.value) == message
    registry = anywhere.repository.registry
    assert (objects(anywhere), registry.revision()) == (before, revision)
    assert [version.number for version in registry.versions("data")] == [1]
    assert collect(anywhere.repository).waiting_for == []
    assert anywhere.put("data", FILES).number == 2


def test_all_that_was_deleted_of_an_artifact_comes_back_and_by_its_former_name(anywhere):
    anywhere.put("data", FILES)
    anywhere.put("data", {"y": b"y"})
    anywhere.repository.registry.retention.rename("data", "days")
    delete(anywhere, name="days")
    assert anywhere.repository.registry.artifacts() == []
    with pytest.raises(NotFound, match="there never was a version days:v2; `artifactfs log days --deleted` lists"):
        gone(anywhere, "data:v2")
    version = restore(anywhere.repository, gone(anywhere, "data:v0")).version
    assert (version.name, version.aliases) == ("days:v2", ("latest",))
    assert contents(anywhere.repository, version) == FILES
    assert restore(anywhere.repository, gone(anywhere, "days:v1")).version.name == "days:v3"


def test_contents_that_live_again_are_not_made_another_version(anywhere):
    anywhere.put("data", FILES)
    anywhere.put("data", {"y": b"y"})
    delete(anywhere, 0)
    first = restore(anywhere.repository, gone(anywhere))
    anywhere.put("data", {"x": b"x"})
    second = restore(anywhere.repository, gone(anywhere), aliases=("best",))
    assert (second.version.number, second.created, second.latest_before) == (first.version.number, False, 3)
    assert second.version.aliases == ("best", "latest")


def test_addresses_that_name_no_deleted_version_are_refused_with_what_to_give(anywhere):
    anywhere.put("data", {"y": b"y"})
    before = anywhere.repository.registry.revision()
    for address, kind, message in (
        ("dat:v0", NotFound, "no artifact 'dat' in project 'default'; did you mean data?"),
        ("data:v0", Conflict, "data:v0 was not deleted, so there is nothing to restore"),
        (
            "data:v1",
            NotFound,
            "there never was a version data:v1; `artifactfs log data --deleted` lists those that were",
        ),
        ("data:v999999999", NotFound, "there never was a version data:v999999999; "),
        ("data", InvalidInput, "data names no number of a version; give data:vN"),
        ("data:latest", InvalidInput, "data:latest names no number of a version; give data:vN"),
        ("data:v0/y", InvalidInput, "data:v0/y names a path; whole versions are restored: give data:v0"),
    ):
        with pytest.raises(kind) as caught:
            gone(anywhere, address)
        assert str(caught.value).startswith(message)
    assert anywhere.repository.registry.revision() == before


# -- what is in the way --------------------------------------------------------------------------------------------------


def test_one_file_that_is_gone_is_named(place):
    """Its directories lie in a pack that is mostly alive, which a collection leaves as it is."""
    shared = {f"d{number}/f{each}": noise((number, each), 300) for number in range(8) for each in range(20)}
    own = {f"own{number}": noise(f"own{number}", 90_000) for number in range(5)}
    place.put("data", shared | own)
    place.put("data", shared)
    delete(place, 0)
    assert collect(place.repository).repacked_packs == 1
    before = objects(place)
    with pytest.raises(NotFound, match=r"data:v0 cannot be restored: own0, own1, own2 and 2 more are gone, as garbage"):
        restore(place.repository, gone(place))
    assert objects(place) == before


def test_damage_is_not_called_garbage(place):
    place.put("data", FILES)
    delete(place)
    location = place.repository.registry.locate([gone(place).digest])[gone(place).digest]
    path = place.path / "store/default" / pack_key(location.pack)
    path.write_bytes(bytes(path.stat().st_size))
    with Repository.open(str(place.path)) as anew:
        with pytest.raises(Integrity, match=r"data:v0/ cannot be restored: chunk blake3:\w+ is damaged in pack"):
            restore(anew, gone(place))
        assert anew.registry.versions("data") == []


def test_a_quota_and_a_protected_alias_keep_it_out(place):
    registry = place.repository.registry
    place.put("data", FILES)
    place.put("data", {"y": b"y"})
    delete(place, 0)
    registry.move_aliases("data", 1, ["production"])
    registry.retention.protect("production")
    with pytest.raises(Conflict, match="the alias production is protected"):
        restore(place.repository, gone(place), aliases=("production",))
    registry.retention.set_quota(stored=None, logical=10_000)
    with pytest.raises(NoSpace, match="is full"):
        restore(place.repository, gone(place))
    assert [version.number for version in registry.versions("data")] == [1]
    registry.retention.set_quota(stored=None, logical=None)
    assert restore(place.repository, gone(place)).version.number == 2


def test_metadata_that_a_server_does_not_tell_is_left_out(place):
    """One of an older release."""
    place.put("data", FILES)
    place.repository.registry.edit("data", 0, description="the first", metadata={"rows": 2})
    delete(place)
    told = msgspec.to_builtins(gone(place), builtin_types=(bytes,))
    assert told.pop("metadata") == {"rows": 2}
    version = restore(place.repository, wire.decode(msgspec.msgpack.encode(told), Tombstone)).version
    assert (version.description, version.metadata) == ("the first", {})


def test_a_servers_contents_come_back_from_the_cache_when_they_were_collected(tmp_path, place):
    """What this machine has read is here."""
    with serving(tmp_path) as served:
        settings = CacheSettings(tmp_path / "cache", reserve=0)
        place.repository.close()
        with Repository.open(served.url, cache=settings) as place.repository:
            files = FILES | {"large": noise("large", LARGE)}
            version = place.put("data", files)
            assert contents(place.repository, version) == files
            delete(place)
            assert collect(place.repository).freed > LARGE
            assert objects(place) == []
            again = restore(place.repository, gone(place)).version
        with Repository.open(served.url, cache=CacheSettings(tmp_path / "another", reserve=0)) as other:
            assert contents(other, again) == files


# -- beside collections --------------------------------------------------------------------------------------------------

COLLECT = """
import sys
from artifactfs.collect import collect
from artifactfs.repository import Repository
with Repository.open(sys.argv[1]) as repository:
    print(collect(repository).deleted_packs)
"""

COLLECT_ON = """
import sys
import threading
from artifactfs.collect import collect
from artifactfs.repository import Repository
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
with Repository.open(sys.argv[1]) as repository:
    print("ready", flush=True)
    rounds = 0
    while not ended.is_set():
        collect(repository)
        rounds += 1
    print(rounds)
"""


def collected_by_another_process(place: Place) -> int:
    """How many packs went."""
    words = [sys.executable, "-c", COLLECT, str(place.path)]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def test_what_the_project_said_that_it_holds_stays_while_it_is_restored(place, monkeypatch):
    """Nothing was condemned when it was asked; a collection runs before the version is made."""
    place.put("data", FILES)
    delete(place)
    went = []

    def send(self, *words):
        root = original(self, *words)
        went.append(collected_by_another_process(place))
        return root

    original = Sending.send
    monkeypatch.setattr(Sending, "send", send)
    version = restore(place.repository, gone(place)).version
    assert went == [0]
    collect(place.repository)
    assert contents(place.repository, version) == FILES
    sound(place)


@pytest.mark.parametrize("before", ["the look", "the reading", "the commit"])
def test_what_is_deleted_while_it_is_restored_is_refused_or_whole(place, monkeypatch, before):
    """It was condemned before the session began, which collections then need not wait for."""
    place.put("data", FILES)
    place.put("data", {"y": b"y"})
    delete(place, 0)
    session = condemned(place)
    went = []

    def goes(self, *words):
        if not went and before != "the commit":
            place.repository.registry.close_session(session)
            went.append(collected_by_another_process(place))
        found = original(self, *words)
        if not went:
            place.repository.registry.close_session(session)
            went.append(collected_by_another_process(place))
        return found

    method, name = (Survey, "look") if before == "the look" else (Sending, "send")
    original = getattr(method, name)
    monkeypatch.setattr(method, name, goes)
    with closing(Repository.open(str(place.path))) as fresh:
        if before == "the commit":
            version = restore(fresh, gone(place)).version
            assert version.number == 2
            assert contents(place.repository, version) == FILES
        else:
            with pytest.raises(NotFound, match=r"data:v0 cannot be restored: .* gone, as garbage was collected since"):
                restore(fresh, gone(place))
            assert went == [2]
            assert [each.number for each in place.repository.registry.versions("data")] == [1]
    collect(place.repository)
    assert collect(place.repository).freed == 0
    sound(place)


def test_one_restored_beside_collections_of_another_process_is_whole_or_refused(place):
    """Deleted and restored again and again, while the other process collects without a pause."""
    place.put("data", FILES)
    latest, done, refused = 0, 0, 0
    words = [sys.executable, "-c", COLLECT_ON, str(place.path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as collecting:
        assert collecting.stdout is not None
        assert collecting.stdout.readline() == "ready\n"
        for _ in range(25):
            delete(place, latest)
            with Repository.open(str(place.path)) as fresh:
                try:
                    version = restore(fresh, gone(place, f"data:v{latest}")).version
                    done += 1
                except NotFound:
                    version = place.put("data", FILES)
                    refused += 1
                assert version.number == latest + 1
                latest = version.number
                assert contents(fresh, version) == FILES
        rounds, _ = collecting.communicate("", timeout=60)
    assert collecting.returncode == 0
    assert int(rounds) > 0
    assert done + refused == 25
    collect(place.repository)
    sound(place)
