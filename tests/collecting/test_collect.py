"""Collections of a repository in a directory: what goes, what stays, and that both are what was said."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from artifactfs import collector as collecting
from artifactfs.collect import collect
from artifactfs.collector import collect_project
from artifactfs.content import digests
from artifactfs.content import pack as packs
from artifactfs.content.digests import DigestSorter
from artifactfs.content.local import LocalStore
from artifactfs.content.pack import index_key, pack_key
from artifactfs.draft import Draft
from artifactfs.errors import Conflict, Integrity, NoSpace, NotFound
from artifactfs.model.retention import Permissions
from artifactfs.model.tree import FileEntry, build_tree
from artifactfs.registry.collection import Lease
from artifactfs.repository import Repository
from artifactfs.upkeep import verify
from tests.collecting.conftest import Place, noise, stored


def contents(repository: Repository, version) -> dict[str, bytes]:
    return {
        path: bytes(repository.open_file(entry).read(0, entry.size))
        for path, entry in repository.trees.walk(version.digest)
        if isinstance(entry, FileEntry)
    }


def sound(place: Place) -> None:
    """Everything that lives is whole, and every object is of a pack that is recorded."""
    with Repository.open(str(place.path)) as anew:
        versions = [each for a in anew.registry.artifacts() for each in anew.registry.versions(a.name)]
        assert verify(anew, versions).damages == []
        recorded = [digest for digest, _ in anew.registry.packs()]
        assert [key for key, _ in anew.store.list()] == sorted(
            key for digest in recorded for key in (pack_key(digest), index_key(digest))
        )


def freed(place: Place, **options):
    """Collect; what the disk has less is what was said, before and after."""
    said = collect(place.repository, dry_run=True)
    before = stored(place.repository)
    report = collect(place.repository, **options)
    assert before - stored(place.repository) == report.freed
    assert (said.deleted_packs, said.freed) == (report.deleted_packs, report.freed)
    return report


# -- what goes and what stays --------------------------------------------------------------------------------------------


def test_a_repository_without_garbage_stays_as_it_is(place):
    place.put("data", {"a": noise(1, 50_000)})
    before = stored(place.repository)
    report = freed(place)
    assert (report.versions, report.chunks, report.packs) == (1, 2, 2)
    assert (report.deleted_packs, report.freed, report.condemned_packs) == (0, 0, 0)
    assert stored(place.repository) == before


def test_an_empty_repository_is_collected(place):
    report = freed(place)
    assert (report.versions, report.packs, report.freed) == (0, 0, 0)


def test_what_a_deleted_version_alone_had_is_free_at_once_where_nobody_writes(place):
    shared, own = noise(1, 50_000), noise(2, 900_000)
    place.put("data", {"shared": shared})
    place.put("data", {"shared": shared, "own": own})
    place.repository.registry.delete("data", 1)
    report = freed(place)
    assert report.freed > 900_000
    assert report.condemned_packs == 0
    (version,) = place.repository.registry.versions("data")
    assert contents(place.repository, version) == {"shared": shared}
    sound(place)
    assert freed(place).freed == 0


def test_a_dry_run_changes_nothing(place):
    place.put("data", {"a": noise(1, 50_000)})
    place.repository.registry.delete("data", 0)
    before = stored(place.repository)
    report = collect(place.repository, dry_run=True)
    assert report.dry_run
    assert report.freed == before
    assert stored(place.repository) == before
    assert len(place.repository.registry.packs()) == 2


def test_large_files_with_chunk_lists_and_references_to_them_keep_what_they_need(place):
    large = noise("large", 9 << 20)
    place.put("data", {"large": large, "small": b"small"})
    place.put("data", {"small": b"small"})
    report = freed(place)
    assert report.freed == 0
    version = place.repository.registry.version("data", 0)
    assert contents(place.repository, version) == {"large": large, "small": b"small"}
    place.repository.registry.delete("data", 0)
    assert freed(place).freed > 9 << 20
    sound(place)


def test_contents_that_are_stored_again_after_a_collection_are_whole(place):
    place.put("data", {"a": noise(1, 50_000)})
    place.put("other", {"b": b"b"})
    place.repository.registry.delete("data", 0)
    freed(place)
    version = place.put("data", {"a": noise(1, 50_000)})
    assert version.number == 1
    sound(place)
    assert freed(place).freed == 0
    sound(place)


def test_parts_of_a_draft_are_alive_until_their_time_is_over(place):
    (place.top / "part").write_bytes(noise(1, 50_000))
    draft = Draft(place.repository)
    draft.add_file(place.top / "part")
    draft.store_part("data", "many", place.repository)
    assert freed(place).freed == 0
    later = place.later()
    before = stored(place.repository)
    assert collect_project(later, place.repository.store).freed == before
    later.close()
    assert stored(place.repository) == 0


def test_projects_do_not_touch_each_other(place):
    """Also not packs of the same bytes."""
    same = {"a": noise(1, 50_000)}
    place.put("data", same)
    with Repository.open(str(place.path), project="cars") as cars:
        mine, place.repository = place.repository, cars
        theirs = place.put("data", same)
        place.repository = mine
        before = stored(mine)
        mine.registry.delete("data", 0)
        assert freed(place).freed == before / 2
        assert mine.registry.packs() == []
        assert contents(cars, theirs) == same
        assert verify(cars, cars.registry.versions("data")).damages == []
        # Stored again here, and deleted there, it is whole here.
        version = place.put("data", same)
        cars.registry.delete("data", 0)
        assert collect(cars).freed == before / 2
        assert contents(mine, version) == same


# -- who is waited for ---------------------------------------------------------------------------------------------------


def test_a_writer_that_began_before_is_waited_for_and_told(place):
    place.put("data", {"a": noise(1, 50_000)})
    session = place.repository.registry.open_session("put", seconds=600)
    place.repository.registry.delete("data", 0)
    before = stored(place.repository)
    said = collect(place.repository, dry_run=True)
    report = collect(place.repository)
    assert (report.freed, report.condemned_packs, report.condemned) == (0, 2, before)
    assert (said.freed, said.condemned_packs, said.condemned) == (0, 2, before)
    assert [(each.session, each.kind) for each in report.waiting_for] == [(session, "put")]
    place.repository.registry.close_session(session)
    assert freed(place).freed == before


def test_a_collection_waits_as_long_as_it_is_told_to(place):
    place.put("data", {"a": noise(1, 50_000)})
    session = place.repository.registry.open_session("put", seconds=600)
    place.repository.registry.delete("data", 0)
    threading.Timer(0.7, place.repository.registry.close_session, [session]).start()
    report = collect(place.repository, wait=30)
    assert report.freed > 50_000
    assert stored(place.repository) == 0


def test_who_was_told_that_a_chunk_is_there_commits_it_and_it_is_acquitted(place):
    content = noise(1, 50_000)
    place.put("data", {"a": content})
    with place.repository.writing("put") as writing:
        # Told that it is there, as it still is.
        file = writing.writer.add_bytes(content)
        writing.writer.flush()
        assert writing.writer.chunks_known == 1
        place.repository.registry.delete("data", 0)
        assert collect(place.repository).condemned_packs == 2
        root = _tree_of(writing.writer, file)
        writing.commit("new", root)
    report = freed(place)
    assert report.condemned_packs == 0
    sound(place)


def test_who_begins_after_the_condemnation_stores_it_anew(place):
    content = noise(1, 50_000)
    place.put("data", {"a": content})
    session = place.repository.registry.open_session("put", seconds=600)
    place.repository.registry.delete("data", 0)
    collect(place.repository)
    version = place.put("new", {"a": content})
    place.repository.registry.close_session(session)
    freed(place)
    assert contents(place.repository, version) == {"a": content}
    sound(place)


def test_a_version_committed_between_the_markings_is_marked(place, monkeypatch):
    """A writer was told that a chunk is there, and ends between the marking and the condemnation."""
    content = noise(1, 50_000)
    place.put("data", {"a": content})
    writing = place.repository.writing("put")
    opened = writing.__enter__()
    file = opened.writer.add_bytes(content)
    opened.writer.flush()
    place.repository.registry.delete("data", 0)
    marks = []

    def mark(*words, **options):
        marks.append(1)
        marked = original(*words, **options)
        if len(marks) == 1:
            opened.commit("new", _tree_of(opened.writer, file))
            writing.__exit__(None, None, None)
        return marked

    original = collecting.mark
    monkeypatch.setattr(collecting, "mark", mark)
    collect(place.repository)
    assert len(marks) == 2
    sound(place)


def test_a_version_that_a_mount_builds_on_stays_when_it_is_deleted(place):
    version = place.put("data", {"a": noise(1, 50_000)})
    place.put("data", {"b": b"b"})
    registry = place.repository.registry
    session = registry.open_session("mount", seconds=600)
    assert registry.retention.hold(session, {version.id: "staging"}) == []
    registry.retention.delete("data", [0], permissions=Permissions(in_use=True))
    assert freed(place).freed == 0
    assert contents(place.repository, version) == {"a": noise(1, 50_000)}
    registry.close_session(session)
    assert freed(place).freed > 50_000


def test_a_draft_on_a_version_that_was_deleted_is_refused(place):
    version = place.put("data", {"a": noise(1, 50_000)})
    draft = Draft(place.repository, base=version.digest, versions=[("data", 0)])
    (place.top / "new").write_bytes(b"new")
    draft.add_file(place.top / "new")
    place.repository.registry.delete("data", 0)
    collect(place.repository)
    with pytest.raises(Conflict, match="data:v0 was deleted"):
        draft.commit("data")


def test_what_was_deleted_and_not_collected_can_be_logged_again(place):
    version = place.put("data", {"a": noise(1, 50_000)})
    place.repository.registry.delete("data", 0)
    again = Draft(place.repository, base=version.digest, versions=[("data", 0)]).commit("data").version
    assert again.number == 1
    assert freed(place).freed == 0
    assert contents(place.repository, again) == {"a": noise(1, 50_000)}


def _tree_of(writer, file):
    return build_tree([FileEntry("a", file.size, file.digest, executable=False)], writer.add_node)


# -- readers -------------------------------------------------------------------------------------------------------------


def test_what_is_condemned_can_be_read_and_then_says_that_it_is_gone(place):
    version = place.put("data", {"a": noise(1, 50_000), "b": noise(2, 50_000)})
    found = dict(place.repository.trees.walk(version.digest))
    session = place.repository.registry.open_session("put", seconds=600)
    place.repository.registry.delete("data", 0)
    collect(place.repository)
    assert bytes(place.repository.open_file(found["a"]).read(0, 50_000)) == noise(1, 50_000)
    place.repository.registry.close_session(session)
    freed(place)
    with Repository.open(str(place.path)) as other, pytest.raises(Integrity, match="is in no pack"):
        other.open_file(found["b"]).read(0, 50_000)


def test_a_reader_finds_chunks_that_were_moved_while_it_read(place, monkeypatch):
    monkeypatch.setattr(packs, "PACK_SIZE", 200_000)
    place.put("data", {"a": noise(1, 30_000)} | {f"b{number}": noise(number, 40_000) for number in range(3)})
    version = place.put("data", {"a": noise(1, 30_000)})
    with Repository.open(str(place.path)) as reader:
        (entry,) = [entry for _, entry in reader.trees.walk(version.digest)]
        reader.registry.locate([entry.digest])
        reader.reader._source.places.find(entry.digest)
        place.repository.registry.delete("data", 0)
        report = freed(place)
        assert report.repacked_packs == 1
        assert bytes(reader.open_file(entry).read(0, entry.size)) == noise(1, 30_000)


# -- repacking -----------------------------------------------------------------------------------------------------------


def test_mostly_dead_packs_are_repacked_and_the_others_stay(place):
    keep = {f"k{number}": noise(number, 10_000) for number in range(4)}
    place.put("data", keep | {"dead": noise("dead", 100_000)})
    version = place.put("data", keep)
    half = {"h": noise("h", 60_000)}
    place.put("half", half | {"dead": noise("half", 40_000)})
    half_version = place.put("half", half)
    place.repository.registry.delete("data", 0)
    place.repository.registry.delete("half", 0)
    report = freed(place)
    assert report.repacked_packs == 1
    assert 100_000 < report.freed < 110_000
    assert contents(place.repository, version) == keep
    assert contents(place.repository, half_version) == half
    sound(place)
    assert freed(place).freed == 0


def test_a_full_disk_stops_repacking_and_nothing_else(place, monkeypatch):
    place.put("data", {"keep": noise(1, 10_000), "dead": noise(2, 100_000)})
    version = place.put("data", {"keep": noise(1, 10_000)})
    place.put("gone", {"gone": noise(3, 70_000)})
    place.repository.registry.delete("data", 0)
    place.repository.registry.delete("gone", 0)

    def full(*_):
        raise NoSpace("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(packs.PackUpload, "publish", full)
        report = collect(place.repository)
    assert report.freed > 70_000
    assert any("the disk is full" in note for note in report.notes)
    assert contents(place.repository, version) == {"keep": noise(1, 10_000)}
    sound(place)
    assert freed(place).repacked_packs == 1
    sound(place)


def test_a_damaged_chunk_is_not_moved_and_its_pack_stays(place):
    place.put("data", {"keep": noise(1, 10_000), "dead": noise(2, 100_000)})
    place.put("data", {"keep": noise(1, 10_000)})
    place.repository.registry.delete("data", 0)
    for path in (place.path / "store").rglob("*.pack"):
        data = path.read_bytes()
        at = data.find(noise(1, 10_000)[:100])
        if at >= 0:
            damaged = bytearray(data)
            damaged[at] ^= 1
            path.write_bytes(damaged)
            name = path.stem
    report = collect(place.repository)
    assert [note for note in report.notes if name in note and "damaged" in note]
    assert name in dict(place.repository.registry.packs())


# -- what is never done --------------------------------------------------------------------------------------------------


def test_a_node_that_cannot_be_read_stops_it_and_names_the_version(place):
    place.put("data", {"a": noise(1, 50_000)})
    place.put("other", {"b": noise(2, 50_000)})
    place.put("gone", {"c": noise(3, 50_000)})
    place.repository.registry.delete("gone", 0)
    (version,) = place.repository.registry.versions("data")
    location = place.repository.registry.locate([version.digest])[version.digest]
    path = place.path / "store/default" / pack_key(location.pack)
    path.write_bytes(bytes(len(path.read_bytes())))
    before = stored(place.repository)
    with (
        Repository.open(str(place.path)) as anew,
        pytest.raises(Integrity, match="data:v0 cannot be read, so nothing is"),
    ):
        collect(anew)
    assert stored(place.repository) == before


def test_chunks_that_lie_nowhere_stop_it_since_they_may_be_in_what_would_go(place):
    version = place.put("data", {"a": noise(1, 50_000)})
    ((_, entry),) = place.repository.trees.walk(version.digest)
    with place.repository.registry._database.writing(durable=True) as connection:
        connection.exec_driver_sql("DELETE FROM chunk WHERE digest = ?", (entry.digest,))
    before = stored(place.repository)
    with pytest.raises(Integrity, match="1 chunks of living versions are in no pack"):
        collect(place.repository)
    assert stored(place.repository) == before


def test_objects_that_no_row_names_go_but_not_under_who_is_about_to_record_them(place):
    place.put("data", {"a": noise(1, 50_000)})
    orphan = "ab" * 32
    for key in (pack_key(orphan), index_key("cd" * 32)):
        upload = place.repository.store.upload()
        upload.write(b"left by a crash")
        upload.publish(key)
    session = place.repository.registry.open_session("put", seconds=600)
    report = collect(place.repository)
    assert (report.freed, report.condemned_packs, report.condemned) == (0, 2, 30)
    place.repository.registry.close_session(session)
    assert freed(place).freed == 30
    sound(place)


def test_what_is_no_pack_is_not_touched(place):
    upload = place.repository.store.upload()
    upload.write(b"somebody else's")
    upload.publish("packs/readme.txt")
    collect(place.repository)
    assert place.repository.store.size("packs/readme.txt")


def test_a_store_that_lists_late_makes_no_difference(place):
    """New objects are not listed yet, deleted ones still are."""

    class Late(LocalStore):
        listed: list[tuple[str, int]] = []

        def list(self, prefix=""):
            return iter([each for each in self.listed if each[0].startswith(prefix)])

    place.put("gone", {"a": noise(1, 50_000)})
    late = Late(place.path / "store/default")
    late.listed = list(place.repository.store.list())
    version = place.put("data", {"b": noise(2, 50_000)})
    place.repository.registry.delete("gone", 0)
    registry = place.repository.registry
    for _ in range(3):
        collect_project(registry, late)
        assert contents(place.repository, version) == {"b": noise(2, 50_000)}
    sound(place)
    assert version == registry.version("data", 0)


# -- who collects --------------------------------------------------------------------------------------------------------


def test_a_second_collection_is_refused_with_who_holds_it(place):
    table = place.repository.registry.collection
    with collecting._Holding(place.repository.registry, 60.0):
        assert table.lease().holder == f"process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(Conflict, match=f"collected already, by process {os.getpid()} on "):
            collect(place.repository)
    assert collect(place.repository).versions == 0


def test_the_lease_of_a_process_that_is_no_more_is_taken_over_at_once(place):
    code = (
        "import sys; from artifactfs.collector import _token; from artifactfs.registry.sql import SQLRegistry\n"
        "from artifactfs.registry.collection import Lease\n"
        "assert SQLRegistry(sys.argv[1]).collection.take(_token(), 'the dead', after=Lease())"
    )
    place.put("data", {"a": b"a"})
    subprocess.run([sys.executable, "-c", code, str(place.path / "registry.db")], check=True)
    assert place.repository.registry.collection.lease().holder == "the dead"
    assert collect(place.repository).versions == 1


def test_a_silent_holder_elsewhere_loses_the_lease_whatever_the_clocks_say(place):
    table = place.repository.registry.collection
    assert table.take("elsewhere-1-2-3", "process 1 on elsewhere", after=Lease())
    started = time.monotonic()
    assert collect(place.repository, lease_seconds=1.2).versions == 0
    assert time.monotonic() - started >= 1.2
    with pytest.raises(Conflict):
        table.beat("elsewhere-1-2-3")


def test_a_collection_that_was_stopped_for_long_deletes_nothing_once_another_has_taken_over(place, monkeypatch):
    place.put("data", {"a": noise(1, 50_000)})
    place.repository.registry.delete("data", 0)
    before = stored(place.repository)
    table = place.repository.registry.collection
    deletes = collecting._Collector._delete_objects

    def stopped(self, given):
        # As after a long sleep: another one collects by now.
        assert table.take("other", "process 2 on elsewhere", after=table.lease())
        self._holding._beaten -= 1000
        deletes(self, given)

    monkeypatch.setattr(collecting._Collector, "_delete_objects", stopped)
    monkeypatch.setattr(collecting, "BEAT_SECONDS", 1000.0)

    with pytest.raises(Conflict, match="taken over by"):
        collect(place.repository)
    assert stored(place.repository) == before


@pytest.mark.parametrize("dry_run", [False, True])
def test_what_another_has_collected_meanwhile_is_no_damage(place, monkeypatch, dry_run):
    place.put("data", {"a": noise(1, 50_000)})
    table = place.repository.registry.collection
    marking = collecting._Collector._mark

    def stopped(self, roots, packs):
        # Between looking what is alive and reading it: deleted, and collected by another.
        monkeypatch.setattr(collecting._Collector, "_mark", marking)
        place.repository.registry.delete("data", 0)
        if not dry_run:
            table.release(self._holding.token)
            place.repository.registry.close_session(self._holding._sessions[-1])
        with Repository.open(str(place.path)) as other:
            assert collect(other).deleted_packs == 2
        return marking(self, roots, packs)

    monkeypatch.setattr(collecting._Collector, "_mark", stopped)
    monkeypatch.setattr(collecting, "BEAT_SECONDS", 1000.0)
    with pytest.raises(Conflict, match="repeat this" if dry_run else "taken over|collects no more|lease"):
        collect(place.repository, dry_run=dry_run)
    sound(place)


# -- memory --------------------------------------------------------------------------------------------------------------


def test_digests_are_sorted_once_each_in_runs_of_bounded_size(tmp_path, monkeypatch):
    names = [noise(number % 500, 32) for number in range(2000)]
    sorter = DigestSorter(tmp_path, held=64)
    for name in names:
        sorter.add(name)
        assert len(sorter._held) < 64
    found = sorter.sorted()
    assert list(found) == sorted(set(names))
    assert len(found) == 500
    assert all(name in found for name in names)
    assert noise("other", 32) not in found
    assert list(tmp_path.iterdir()) == []
    found.close()


def test_no_digests_are_none(tmp_path):
    found = DigestSorter(tmp_path).sorted()
    assert (list(found), len(found), b"x" * 32 in found) == ([], 0, False)
    found.close()


def test_a_full_temporary_directory_is_said_and_nothing_is_deleted(place, monkeypatch):
    place.put("data", {"a": noise(1, 50_000)})
    place.repository.registry.delete("data", 0)

    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(digests.tempfile, "TemporaryFile", full)
    with pytest.raises(NoSpace, match="set TMPDIR to a larger disk"):
        collect(place.repository)
    assert len(place.repository.registry.packs()) == 2


def test_it_ends_when_the_store_is_gone(place):
    place.put("data", {"a": noise(1, 50_000)})
    for path in (place.path / "store").rglob("*.pack"):
        path.unlink()
    with Repository.open(str(place.path)) as anew, pytest.raises((Integrity, NotFound), match="data:v0 cannot be read"):
        collect(anew)
