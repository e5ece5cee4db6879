"""What every Store must do, whatever its kind: a suite to inherit from.

A kind's tests subclass :class:`StoreConformance` and define the fixture ``store`` (an empty store).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from artifactfs.content.store import Store
from artifactfs.errors import Integrity, InvalidInput, NotFound

WRONG_KEYS = [
    "",
    "/",
    "/packs/a",
    "packs/",
    "packs//a",
    ".",
    "..",
    "packs/../a",
    "packs/./a",
    "a b",
    "a\0b",
    "a\nb",
    "a\n",
    "ä",
    "a\\b",
    "a:b",
]


def put(store: Store, key: str, *parts: bytes) -> None:
    upload = store.upload()
    for part in parts:
        upload.write(part)
    upload.publish(key)


def get(store: Store, key: str) -> bytes:
    return store.read(key, 0, store.size(key))


class StoreConformance:
    replaces_at_once = True  # who reads an object that is stored again finds it, the old one or the new

    @pytest.fixture
    def store(self) -> Iterator[Store]:
        raise NotImplementedError

    def test_what_was_published_is_read_back(self, store: Store):
        put(store, "packs/ab/one.pack", b"hello ", bytearray(b"wor"), memoryview(b"ld"))
        assert get(store, "packs/ab/one.pack") == b"hello world"
        assert store.size("packs/ab/one.pack") == 11

    def test_an_empty_object_is_an_object(self, store: Store):
        put(store, "empty")
        assert store.size("empty") == 0
        assert get(store, "empty") == b""
        assert list(store.list()) == [("empty", 0)]

    @pytest.mark.parametrize(("offset", "length"), [(0, 0), (0, 1), (3, 4), (0, 10), (9, 1), (10, 0)])
    def test_any_range_is_read_exactly(self, store: Store, offset, length):
        put(store, "a/b", b"0123456789")
        assert store.read("a/b", offset, length) == b"0123456789"[offset : offset + length]

    @pytest.mark.parametrize(("offset", "length"), [(0, 11), (9, 2), (10, 1), (1 << 40, 1)])
    def test_a_range_past_the_end_is_an_integrity_error(self, store: Store, offset, length):
        put(store, "a/b", b"0123456789")
        with pytest.raises(Integrity, match="a/b"):
            store.read("a/b", offset, length)

    @pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1)])
    def test_a_negative_range_is_refused(self, store: Store, offset, length):
        put(store, "a/b", b"0123456789")
        with pytest.raises(InvalidInput):
            store.read("a/b", offset, length)

    def test_a_missing_object_is_not_found(self, store: Store):
        put(store, "packs/there", b"x")
        for key in ("absent", "packs/absent", "packs/there/below"):
            with pytest.raises(NotFound, match=r"absent|there"):
                store.read(key, 0, 1)
            with pytest.raises(NotFound):
                store.size(key)

    @pytest.mark.parametrize("key", WRONG_KEYS)
    def test_a_wrong_key_is_refused_everywhere(self, store: Store, key):
        upload = store.upload()
        upload.write(b"x")
        for call in (
            lambda: upload.publish(key),
            lambda: store.read(key, 0, 1),
            lambda: store.size(key),
            lambda: store.delete(key),
        ):
            with pytest.raises(InvalidInput):
                call()
        upload.abort()
        assert list(store.list()) == []

    def test_nothing_is_visible_before_publish(self, store: Store):
        upload = store.upload()
        upload.write(b"x" * 100_000)
        assert list(store.list()) == []
        with pytest.raises(NotFound):
            store.size("a")
        upload.publish("a")
        assert list(store.list()) == [("a", 100_000)]

    def test_an_aborted_upload_leaves_nothing(self, store: Store):
        upload = store.upload()
        upload.write(b"x")
        upload.abort()
        upload.abort()
        assert list(store.list()) == []

    def test_abort_after_publish_does_nothing(self, store: Store):
        upload = store.upload()
        upload.write(b"x")
        upload.publish("a")
        upload.abort()
        assert get(store, "a") == b"x"

    def test_a_key_that_exists_stays_as_it_is(self, store: Store):
        put(store, "a", b"first")
        put(store, "a", b"again")
        assert get(store, "a") == b"first"
        assert list(store.list()) == [("a", 5)]

    def test_uploads_at_the_same_time_do_not_mix(self, store: Store):
        one, two = store.upload(), store.upload()
        for _ in range(100):
            one.write(b"1" * 1000)
            two.write(b"2" * 1000)
        two.publish("two")
        one.publish("one")
        assert get(store, "one") == b"1" * 100_000
        assert get(store, "two") == b"2" * 100_000

    def test_list_is_sorted_by_key_and_bounded_by_prefix(self, store: Store):
        keys = ["a-b/x", "a.b", "a/b/c", "a/b-c", "a/b.c", "a0", "packs/00/1", "packs/01/1", "packs/0", "z"]
        for number, key in enumerate(keys):
            put(store, key, b"x" * number)
        sizes = {key: number for number, key in enumerate(keys)}
        for prefix in ("", "a", "a/", "a/b", "a/b/", "packs/0", "packs/00/", "packs/00/1", "zz", "q/r"):
            expected = [(key, sizes[key]) for key in sorted(keys) if key.startswith(prefix)]
            assert list(store.list(prefix)) == expected, prefix

    def test_delete_removes_and_may_be_repeated(self, store: Store):
        put(store, "a/b", b"x")
        assert get(store, "a/b") == b"x"
        store.delete("a/b")
        store.delete("a/b")
        store.delete("a/b/c")
        store.delete("never/was")
        with pytest.raises(NotFound):
            store.read("a/b", 0, 1)
        assert list(store.list()) == []
        put(store, "a/b", b"new")
        assert get(store, "a/b") == b"new"

    def test_threads_read_and_write_side_by_side(self, store: Store):
        wrong: list[str] = []

        def work(number: int) -> None:
            for turn in range(20):
                # All threads publish the same keys with the same bytes, where these are there at any time meanwhile.
                key = f"packs/{turn}" if self.replaces_at_once else f"packs/{number}/{turn}"
                put(store, key, bytes([turn]) * 5000)
                if store.read(key, 1000, 100) != bytes([turn]) * 100:
                    wrong.append(f"{number} {key}")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert len(list(store.list("packs/"))) == (20 if self.replaces_at_once else 6 * 20)

    def test_close_may_be_repeated(self, store: Store):
        put(store, "a", b"x")
        assert get(store, "a") == b"x"
        store.close()
        store.close()
