from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.content import local
from artifactfs.content.local import LocalStore
from artifactfs.errors import Access, InvalidInput, NoSpace, NotFound, Unavailable
from tests.conformance.store import StoreConformance, get, put


class TestConformance(StoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[LocalStore]:
        store = LocalStore(tmp_path / "store", create=True)
        yield store
        store.close()


def temporary_files(store: LocalStore) -> list[Path]:
    return list((store.root / "tmp").iterdir())


def test_a_missing_directory_is_not_found_and_made_only_on_request(tmp_path):
    with pytest.raises(NotFound):
        LocalStore(tmp_path / "store")
    assert not (tmp_path / "store").exists()
    LocalStore(tmp_path / "store", create=True)
    put(LocalStore(tmp_path / "store", create=True), "a", b"x")
    assert get(LocalStore(tmp_path / "store"), "a") == b"x"


def test_keys_below_tmp_are_refused(store):
    with pytest.raises(InvalidInput, match="tmp/"):
        store.size("tmp/x")
    put(store, "tmpx/y", b"x")
    assert list(store.list()) == [("tmpx/y", 1)]


def test_published_and_aborted_uploads_leave_no_temporary_file(store):
    put(store, "a", b"x")
    put(store, "a", b"x")
    store.upload().abort()
    assert temporary_files(store) == []


def test_what_a_killed_writer_left_goes_when_the_store_is_opened_next(store):
    code = (
        "import sys, time, pathlib\n"
        "from artifactfs.content.local import LocalStore\n"
        "upload = LocalStore(pathlib.Path(sys.argv[1])).upload()\n"
        "upload.write(b'x' * 1000)\n"
        "print('begun', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(store.root)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"begun\n"
            LocalStore(store.root)
            assert len(temporary_files(store)) == 1, "a living writer's file stays"
        finally:
            process.kill()
    LocalStore(store.root)
    assert temporary_files(store) == []


def test_an_upload_in_this_process_survives_another_opening(store):
    upload = store.upload()
    upload.write(b"x")
    LocalStore(store.root)
    upload.publish("a")
    assert get(store, "a") == b"x"


def test_a_temporary_file_taken_for_a_leftover_at_birth_is_made_anew(store, monkeypatch):
    real = fcntl.flock
    taken = []

    def flock(descriptor: int, operation: int) -> None:
        if not taken:
            taken.extend(temporary_files(store))
            taken[0].unlink()  # as another process does that finds it not locked yet
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    put(store, "a", b"x")
    assert taken
    assert get(store, "a") == b"x"


def test_an_object_is_flushed_before_it_is_visible_and_its_directory_after(store, monkeypatch):
    put(store, "packs/ab/first", b"x")  # makes the directories
    events = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink()
        events.append((name.relative_to(store.root).parts[0], (store.root / "packs/ab/second").exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    put(store, "packs/ab/second", b"x")
    assert events == [("tmp", False), ("packs", True)]


def test_a_new_directory_is_flushed_into_its_parent(store, monkeypatch):
    flushed = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    put(store, "packs/ab/x", b"x")
    assert {store.root, store.root / "packs", store.root / "packs/ab"} <= set(flushed)


def test_a_full_disk_is_no_space_and_leaves_nothing(small_disk):
    store = LocalStore(small_disk / "store", create=True)
    put(store, "before", b"x" * 1000)
    upload = store.upload()
    with pytest.raises(NoSpace):
        upload.write(b"x" * (9 << 20))
    upload.abort()
    assert temporary_files(store) == []
    assert list(store.list()) == [("before", 1000)]
    put(store, "after", b"x" * 1000)


def test_a_read_only_disk_is_read_and_refuses_uploads(small_disk):
    put(LocalStore(small_disk / "store", create=True), "a", b"x")
    (small_disk / "store/tmp/left").write_bytes(b"x")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    store = LocalStore(small_disk / "store")
    assert get(store, "a") == b"x"
    with pytest.raises(Access):
        store.upload()
    with pytest.raises(Access):
        store.delete("a")


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EACCES, Access),
        (errno.EPERM, Access),
        (errno.EDQUOT, NoSpace),
        (errno.ENOENT, NotFound),
        (errno.EIO, Unavailable),
        (errno.EMFILE, Unavailable),
    ],
)
def test_errors_of_the_system_are_translated_and_name_the_file(store, monkeypatch, number, kind):
    put(store, "a", b"x")

    def fail(*_: object) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(kind, match=str(store.root / "a")) as caught:
        store.read("a", 0, 1)
    assert isinstance(caught.value.__cause__, OSError)


def test_open_descriptors_are_bounded_and_closed(store, monkeypatch):
    monkeypatch.setattr(local, "OPEN_OBJECTS", 4)

    def descriptors() -> int:
        links = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
        return sum(store.root in link.parents for link in links)

    for number in range(20):
        put(store, f"packs/{number}", bytes([number]))
    for number in [*range(20), 0, 19]:
        assert store.read(f"packs/{number}", 0, 1) == bytes([number])
    assert descriptors() == 4
    store.close()
    assert descriptors() == 0
    assert store.read("packs/7", 0, 1) == bytes([7])


def test_strange_files_are_no_objects(store):
    put(store, "packs/a", b"x")
    (store.root / "packs/with space").write_bytes(b"x")
    (store.root / "packs/link").symlink_to("a")
    assert [key for key, _ in store.list("packs/")] == ["packs/a"]
