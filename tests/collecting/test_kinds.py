"""Collections of encrypted projects, beside what a repair set aside, under a quota, and what verify says after them."""

from __future__ import annotations

import pytest

from artifactfs.checkup import check_versions, check_whole
from artifactfs.collect import collect
from artifactfs.content.pack import pack_key
from artifactfs.credentials import Credentials
from artifactfs.errors import InvalidInput, NoSpace
from artifactfs.health.mend import QUARANTINE, adopt
from artifactfs.health.pace import Pace
from artifactfs.model.digest import DATA, TREE
from artifactfs.registry.collection import PACK_CONDEMNED
from artifactfs.repository import Repository
from tests.collecting.conftest import Place, noise, stored
from tests.collecting.test_collect import contents, freed, sound

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))


@pytest.fixture
def sealed(place: Place) -> Place:
    place.repository.registry.encrypt(KEY)
    place.repository.close()
    place.repository = Repository.open(str(place.path), credentials=Credentials(key=KEY.hex()))
    return place


def whole(place: Place, key: bytes) -> None:
    """Quick and full, verify finds nothing."""
    with Repository.open(str(place.path), credentials=Credentials(key=key.hex())) as anew:
        for content in (False, True):
            assert check_whole(anew, content=content, pace=Pace()).sound


def test_what_is_alive_of_a_sealed_pack_moves_to_one_with_a_key_of_its_own(sealed):
    keep = {f"k{number}": noise(number, 10_000) for number in range(3)} | {"text": b"compresses " * 1000}
    sealed.put("data", keep | {"dead": noise("dead", 100_000)})
    version = sealed.put("data", keep)
    registry = sealed.repository.registry
    before = dict(registry.packs())
    keys = {registry.data_key(pack) for pack in before}
    registry.delete("data", 0)
    report = freed(sealed)
    assert report.repacked_packs == 1
    assert contents(sealed.repository, version) == keep
    (new,) = dict(registry.packs()).keys() - before.keys()
    assert registry.data_key(new)
    assert registry.data_key(new) not in keys
    for pack in before.keys() - dict(registry.packs()).keys():
        assert registry.data_key(pack) == b""  # it went with the pack
    assert freed(sealed).freed == 0
    whole(sealed, KEY)


def test_a_sealed_project_goes_on_beside_objects_without_a_key(sealed):
    """Of what a crash left, and of what was only said to come, no key is known; nor of what is gone."""
    sealed.put("gone", {"a": noise(1, 50_000)})
    version = sealed.put("data", {"b": noise(2, 50_000)})
    registry = sealed.repository.registry
    registry.delete("gone", 0)
    freed(sealed)
    upload = sealed.repository.store.upload()
    upload.write(b"left by a crash")
    upload.publish(pack_key("ab" * 32))
    session = registry.open_session("put", seconds=600)
    registry.expect_pack("cd" * 32, 1000)
    assert collect(sealed.repository).condemned_packs == 2
    assert registry.check_key()
    assert registry.rekey(OTHER) == 2
    registry.close_session(session)
    sealed.repository.close()
    sealed.repository = Repository.open(str(sealed.path), credentials=Credentials(key=OTHER.hex()))
    assert freed(sealed).freed == len(b"left by a crash")
    again = sealed.put("gone", {"a": noise(1, 50_000)})
    assert contents(sealed.repository, again) == {"a": noise(1, 50_000)}
    assert contents(sealed.repository, version) == {"b": noise(2, 50_000)}
    whole(sealed, OTHER)


def test_what_a_repair_set_aside_is_not_touched(place):
    place.put("data", {"a": noise(1, 50_000)})
    key = QUARANTINE + pack_key("ab" * 32)
    upload = place.repository.store.upload()
    upload.write(b"damaged")
    upload.publish(key)
    place.repository.registry.delete("data", 0)
    assert freed(place).freed > 50_000
    assert [each for each, _ in place.repository.store.list()] == [key]


def test_verify_finds_nothing_after_a_collection(place):
    place.put("data", {"keep": noise(1, 10_000), "dead": noise(2, 100_000)})
    version = place.put("data", {"keep": noise(1, 10_000)})
    place.put("gone", {"gone": noise(3, 70_000)})
    place.repository.registry.delete("data", 0)
    place.repository.registry.delete("gone", 0)
    assert freed(place).repacked_packs == 1
    with Repository.open(str(place.path)) as anew:
        for content in (False, True):
            assert check_whole(anew, content=content, pace=Pace()).sound
        assert check_versions(anew, [version], pace=Pace()).sound
    sound(place)


@pytest.mark.parametrize("content", [False, True])
def test_verify_takes_what_is_collected_meanwhile_for_no_damage(place, content, monkeypatch):
    place.put("data", {"keep": noise(1, 10_000), "dead": noise(2, 100_000)})
    place.put("data", {"keep": noise(1, 10_000)})
    place.put("gone", {"gone": noise(3, 70_000)})
    with Repository.open(str(place.path)) as other:
        packs = other.registry.packs()
        place.repository.registry.delete("data", 0)
        place.repository.registry.delete("gone", 0)
        assert freed(place).deleted_packs > 2
        # As it was listed before.
        monkeypatch.setattr(other.registry, "packs", lambda: packs)
        assert check_whole(other, content=content, pace=Pace()).sound


def test_the_space_of_a_quota_is_free_after_deletion_and_collection(place):
    retention = place.repository.registry.retention
    place.put("data", {"a": noise(1, 50_000)})
    retention.set_quota(stored=60_000, logical=None)
    with pytest.raises(NoSpace, match="is full"):
        place.put("other", {"b": noise(2, 50_000)})
    place.repository.registry.delete("data", 0)
    assert retention.usage().stored > 50_000
    collect(place.repository)
    assert retention.usage().stored == 0
    place.put("other", {"b": noise(2, 50_000)})
    assert retention.usage().stored > 50_000
    with pytest.raises(NoSpace, match="is full"):
        place.put("third", {"c": noise(3, 50_000)})
    # Not what is only said to come, but what comes, also of a pack that was there before.
    place.repository.registry.delete("other", 0)
    session = place.repository.registry.open_session("put", seconds=600)
    collect(place.repository)
    assert retention.usage().stored == 0
    place.put("other", {"b": noise(2, 50_000)})
    assert retention.usage().stored > 50_000
    place.repository.registry.close_session(session)


def test_a_condemned_pack_that_has_what_is_lost_is_taken_back_whole(place):
    """By a repair that finds a chunk in it which the index lacks."""
    version = place.put("data", {"a": noise(1, 50_000)})
    registry, store = place.repository.registry, place.repository.store
    ((_, entry),) = place.repository.trees.walk(version.digest)
    place_of = registry.locate([entry.digest])[entry.digest]
    session = registry.open_session("put", seconds=600)
    registry.delete("data", 0)
    collect(place.repository)
    registry.settle_packs([], lost=[entry.digest], without=[place_of.pack])
    upload = store.upload()
    upload.abort()
    assert adopt(store, registry, {entry.digest: DATA, version.digest: TREE}, Pace()) == {entry.digest, version.digest}
    states = {pack.digest: pack.state for pack in registry.collection.packs()}
    assert PACK_CONDEMNED not in states.values()
    registry.close_session(session)


def test_packs_of_another_registry_are_not_collected(place):
    place.put("data", {"a": noise(1, 50_000)})
    place.repository.registry.record_other_registry("the registry postgresql://db/artifactfs")
    place.repository.registry.delete("data", 0)
    before = stored(place.repository)
    for dry_run in (True, False):
        with pytest.raises(InvalidInput, match="are those of the registry postgresql://db/artifactfs"):
            collect(place.repository, dry_run=dry_run)
    assert stored(place.repository) == before
