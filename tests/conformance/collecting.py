"""What every kind of Registry does so that collecting garbage is safe: keeping versions, expecting packs.

Used as ``registry.py`` is.
"""

from __future__ import annotations

import pytest

from artifactfs.errors import Conflict, InvalidInput
from artifactfs.model.records import VersionRecord
from artifactfs.model.retention import Permissions
from artifactfs.registry.contract import Registry
from tests.conformance.packs import chunk
from tests.conformance.registry import NAME, Fixtures, commit


def hold(registry: Registry, session: int, *versions: int) -> list[int]:
    return registry.retention.hold(session, dict.fromkeys(versions, "staging"))


def delete(registry: Registry, version: VersionRecord) -> None:
    registry.retention.delete(version.artifact, [version.number], permissions=Permissions(in_use=True))


class CollectingConformance(Fixtures):
    def test_a_session_keeps_versions_that_live(self, registry):
        version = commit(registry, "a").version
        session = registry.open_session("mount", seconds=60)
        assert hold(registry, session, version.id, 10**6) == [10**6]
        assert hold(registry, session) == []

    def test_a_deleted_version_is_kept_on_by_who_kept_it_and_by_who_joins_them(self, registry, open_registry):
        version = commit(registry, "a").version
        first = registry.open_session("mount", seconds=60)
        second = registry.open_session("put", seconds=60)
        assert hold(registry, first, version.id) == []
        delete(registry, version)
        other = open_registry()
        assert hold(other, second, version.id) == []
        registry.close_session(first)
        assert hold(other, second, version.id) == []
        # Let go by all it is not had back.
        assert hold(other, second) == []
        assert hold(other, second, version.id) == [version.id]
        assert other.retention.held() == []

    def test_a_session_that_expired_keeps_nothing(self, registry, clock):
        version = commit(registry, "a").version
        first = registry.open_session("mount", seconds=60)
        assert hold(registry, first, version.id) == []
        delete(registry, version)
        clock.now += 61
        with pytest.raises(Conflict, match="has expired"):
            hold(registry, first, version.id)
        second = registry.open_session("mount", seconds=60)
        assert hold(registry, second, version.id) == [version.id]

    def test_projects_keep_their_own_versions(self, registry, open_registry):
        version = commit(registry, "a").version
        other = open_registry(project="cars")
        session = other.open_session("mount", seconds=60)
        assert hold(other, session, version.id) == [version.id]
        with pytest.raises(Conflict):
            hold(registry, session, version.id)

    @pytest.mark.parametrize("kind", ["mount", "gc"])
    def test_nothing_is_stored_under_a_session_that_collections_do_not_wait_for(self, registry, make_pack, kind):
        session = registry.open_session(kind, seconds=60)
        with pytest.raises(InvalidInput, match="nothing can be stored"):
            commit(registry, "a", session=session)
        with pytest.raises(InvalidInput, match="nothing can be stored"):
            registry.add_packs([make_pack(1)], session=session)
        assert registry.packs() == []

    def test_an_expected_pack_is_not_there_until_it_is_recorded(self, registry, make_pack):
        pack = make_pack(1)
        for _ in range(2):
            registry.expect_pack(pack.digest, pack.size)
        assert registry.packs() == []
        assert registry.missing([chunk(1)]) == {chunk(1)}
        registry.add_packs([pack])
        registry.expect_pack(pack.digest, pack.size)
        assert registry.packs() == [(pack.digest, pack.size)]
        assert registry.missing([chunk(1)]) == set()

    def test_a_draft_is_not_finished_once_the_session_of_a_part_has_ended(self, registry, clock):
        part = registry.open_session("part", seconds=60)
        registry.add_part(NAME, "draft", b"t" * 32, session=part)
        writer = registry.open_session("put", seconds=600)
        assert registry.parts(NAME, "draft") == [b"t" * 32]
        clock.now += 61
        with pytest.raises(Conflict, match="added too long ago"):
            commit(registry, "a", session=writer, draft="draft")
        assert registry.versions(NAME) == []
