"""However many reads of a file are stalled, other files are read; the stalled ones end with an errno, and can be read later."""

from __future__ import annotations

import os
import threading
import time

import pytest

from tests.conftest import eventually
from tests.faults.proxy import silence, trickle_response
from tests.faults.remote.machines import (
    BACK_ENDS,
    ERRNOS,
    HANG_SECONDS,
    LARGE,
    in_time,
    read,
    read_again,
    read_all,
)

pytestmark = pytest.mark.parametrize("running", BACK_ENDS, indirect=True)

READERS = 200
STEP = 128 << 10


class Readers:
    """Threads that each read at a place of their own of one file, not in order."""

    def __init__(self, path, count=READERS):
        self.results = {}
        self._descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        self._threads = [threading.Thread(target=self._read, args=(number,), daemon=True) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def _read(self, number):
        try:
            self.results[number] = os.pread(self._descriptor, 4096, number * STEP)
        except OSError as error:
            self.results[number] = error.errno

    def join(self):
        for thread in self._threads:
            thread.join(HANG_SECONDS)
        assert not any(thread.is_alive() for thread in self._threads)
        os.close(self._descriptor)
        return [self.results[number] for number in range(len(self._threads))]


@pytest.fixture
def stalled(server, packs, tmp_path):
    """A file in a pack of its own: its bytes, the way of that, and the seconds that it took the machine to put it."""
    (tmp_path / "one").mkdir()
    data = os.urandom(READERS * STEP)
    (tmp_path / "one/file").write_bytes(data)
    before = server.packs()
    name = f"stalled-{len(before)}"
    began = time.monotonic()
    server.cli("put", name, tmp_path / "one")
    return name, data, packs.of(server.packs() - before), time.monotonic() - began


@pytest.mark.parametrize("act", [silence, trickle_response(1000)], ids=["silence", "trickle"])
def test_two_hundred_stalled_readers_delay_nobody(server, new_machine, stalled, act):
    name, data, way, took = stalled
    expected = read_all(server.source)
    # So long they are stalled. What is done meanwhile takes hardly longer than the put has, be the machine fast or slow.
    there = new_machine(seconds=min(max(6.0, 5 * took), 25.0))
    there.mount()
    assert os.path.getsize(there.root / name / "v0/file") == len(data)
    with way.fault(act) as happened:
        readers = Readers(there.root / name / "v0/file")
        eventually(lambda: happened.met >= 8)
        assert read(there.root / "data/v0" / LARGE) == expected[LARGE]
        assert read_all(there.root / "data/v0") == expected
        (there.staging("beside") / "new").write_bytes(b"new")
        assert there.commit("beside").startswith("beside:v")
        assert readers.results == {}, "they are to be stalled still"
        results = readers.join()
    assert set(results) <= ERRNOS
    assert read_again(there.root / name / "v0") == {"file": data}
    again = Readers(there.root / name / "v0/file")
    assert again.join() == [data[number * STEP : number * STEP + 4096] for number in range(READERS)]
    there.unmount()


def test_two_hundred_stalled_readers_of_one_place_ask_once(server, new_machine, stalled):
    name, data, way, _ = stalled
    there = new_machine(seconds=3)
    in_time(there.mount)
    assert in_time(lambda: os.path.getsize(there.root / name / "v0/file")) == len(data)
    with way.fault(silence) as happened:
        threads, results = [], []
        for _ in range(READERS):
            thread = threading.Thread(target=lambda: results.append(read_first(there.root / name / "v0/file")))
            threads.append(thread)
            thread.start()
        eventually(lambda: happened.met >= 1)
        other = in_time((there.root / "data/v0/other.bin").read_bytes)
        assert other == read(server.source / "other.bin")
        for thread in threads:
            thread.join(HANG_SECONDS)
        assert len(results) == READERS
    assert set(results) <= ERRNOS
    assert happened.met <= 20
    assert read_again(there.root / name / "v0") == {"file": data}
    there.unmount()


def read_first(path):
    try:
        with path.open("rb", buffering=0) as file:
            return file.read(4096)
    except OSError as error:
        return error.errno
