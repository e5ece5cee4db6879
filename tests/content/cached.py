"""What the tests of the cache share: chunks with their rows, a cache at hand, bytes on the disk.

Run as a program, a process that uses a cache until it is told to end, or is killed::

    python -m tests.content.cached keep DIRECTORY LIMIT FIRST COUNT SIZE    keeps chunks noise(FIRST…), says how many were kept
    python -m tests.content.cached hammer DIRECTORY LIMIT SEED SECONDS      keeps, finds, reads, drops; ends with 3 on wrong bytes
    python -m tests.content.cached claim DIRECTORY NUMBER                   claims a chunk, says so, waits for its stdin to end
    python -m tests.content.cached half DIRECTORY SIZE                      is killed by itself while it writes an extent
    python -m tests.content.cached fetch DIRECTORY COUNT LOG [DIE]          has chunks noise(0…), logging what it had to fetch
    python -m tests.content.cached count DIRECTORY HITS MISSES              counts, and ends politely
    python -m tests.content.cached hold DIRECTORY NUMBER                    opens a chunk; reads it again at each line of stdin
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from artifactfs.content import cachedir, caretaker, catalog, vault
from artifactfs.content.cache import Cache, CacheSettings
from artifactfs.model.digest import DATA, digest
from artifactfs.model.records import KIND_SHIFT, ChunkRow
from tests.content.stores import noise

ROOT = Path(__file__).parents[2]
PLENTY = 1 << 30


def row_of(data: bytes, kind: int = DATA) -> ChunkRow:
    return ChunkRow(digest(kind, data), 77, len(data), len(data), kind << KIND_SHIFT)


def keep(cache: Cache, *chunks: bytes, kind: int = DATA, pin: bool = False) -> list[bytes]:
    """Keep chunks as one extent; their digests. They must fit."""
    rows = [row_of(data, kind) for data in chunks]
    assert cache.keep(rows, chunks, pin=pin)
    return [row.digest for row in rows]


def offer(cache: Cache, *chunks: bytes, kind: int = DATA, pin: bool = False) -> bool:
    return cache.keep([row_of(data, kind) for data in chunks], chunks, pin=pin)


def get(cache: Cache, name: bytes, kind: int = DATA) -> bytes | None:
    held = cache.find([name], kind).get(name)
    return None if held is None else cache.read(held)


def present(cache: Cache, names: Sequence[bytes], kind: int = DATA) -> list[bool]:
    found = cache.find(names, kind)
    return [name in found for name in names]


def on_disk(directory: Path) -> int:
    """Bytes that everything below takes, in whole blocks."""
    total = 0
    for top, directories, files in os.walk(directory):
        for name in (*directories, *files):
            try:
                total += os.lstat(os.path.join(top, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


def extents(directory: Path, part: str = "chunks") -> list[Path]:
    """Files of extents."""
    return sorted(path for path in (directory / part).iterdir() if len(path.name) == 16)


class Process(subprocess.Popen):
    """This program as a process of its own."""

    def __init__(self, *words: object) -> None:
        super().__init__(
            [sys.executable, "-W", "error", "-m", "tests.content.cached", *map(str, words)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        """The next line that it says."""
        found = self.stdout.readline().strip()
        assert found, self.communicate(timeout=60)
        return found

    def ended(self) -> str:
        """What it said until its end, which is in order."""
        out, err = self.communicate(timeout=120)
        assert (self.returncode, err) == (0, "")
        return out.strip()


@contextmanager
def processes() -> Iterator:
    """Starts processes; none outlives the block."""
    with ExitStack() as stack:

        def start(*words: object) -> Process:
            process = stack.enter_context(Process(*words))
            stack.callback(process.kill)
            return process

        yield start


@contextmanager
def small_disk(point: Path, size: int) -> Iterator[Path]:
    """A file system of so many bytes; needs root, as CI has."""
    point.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "small", point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "--lazy", point], check=True)


# -- the program -------------------------------------------------------------------------------------------------------


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def _open(directory: str, limit: int = PLENTY) -> Cache:
    return Cache(CacheSettings(Path(directory), limit=limit, reserve=0))


def _be_patient() -> None:
    """Wait for other processes as long as it takes: SQLite lets others pass one that waits, and on a slow machine that is no fault."""
    for module in (catalog, vault):
        module.BUSY_SECONDS = 60.0
    cachedir.LOCK_SECONDS = caretaker.WAIT_SECONDS = 60.0


def _keep(directory: str, limit: str, first: str, count: str, size: str) -> None:
    _be_patient()
    cache = _open(directory, int(limit))
    say("ready")
    sys.stdin.readline()
    kept = sum(offer(cache, noise(number, int(size))) for number in range(int(first), int(first) + int(count)))
    cache.close()
    say(kept)


def _hammer(directory: str, limit: str, seed: str, seconds: str) -> None:
    """Chunks of a small world that all processes share, so that they meet."""
    cache = _open(directory, int(limit))
    reads = [0]
    world = {number: noise(number, 5_000 + 37_000 * (number % 7)) for number in range(200)}
    names = {number: digest(DATA, data) for number, data in world.items()}
    deadline = time.monotonic() + float(seconds)

    def work(choice: random.Random) -> None:
        while time.monotonic() < deadline or not reads[0]:
            some = choice.sample(range(200), choice.randint(1, 20))
            found = cache.find([names[number] for number in some], DATA)
            missing = [number for number in some if names[number] not in found]
            for number in some:
                held = found.get(names[number])
                data = None if held is None else cache.read(held)
                if data is not None:
                    reads[0] += 1
                    if data != world[number]:
                        os._exit(3)  # at once, as whoever started this kills it soon
            if missing and cache.claim_within(names[missing[0]], 0.05):
                offer(cache, *(world[number] for number in missing))
                cache.release([names[missing[0]]])
            if choice.random() < 0.05:
                cache.drop([names[some[0]]])
            cache.count(hits=len(found), misses=len(missing))

    threads = [threading.Thread(target=work, args=(random.Random(f"{seed} {each}"),)) for each in range(3)]
    for thread in threads:
        thread.start()
    say("started")
    for thread in threads:
        thread.join()
    cache.close()
    say(reads[0] > 0)


def _claim(directory: str, number: str) -> None:
    cache = _open(directory)
    say(cache.claim(digest(DATA, noise(int(number), 100))))
    sys.stdin.read()


def _fetch(directory: str, count: str, log: str, die: str = "") -> None:
    """As a reader does: what is not there is claimed, looked for again, fetched, kept. DIE: killed with that claim in hand."""
    _be_patient()
    cache = _open(directory)
    say("ready")
    sys.stdin.readline()
    order = list(range(int(count)))
    random.Random(os.getpid()).shuffle(order)
    fetched = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number in order:
        data = noise(number, 3000)
        name = digest(DATA, data)
        if name not in cache.find([name], DATA):
            assert cache.claim_within(name, 60)
            if name not in cache.find([name], DATA):
                if die == str(number):
                    os.kill(os.getpid(), signal.SIGKILL)
                os.write(fetched, f"{number}\n".encode())
                assert offer(cache, data)
            cache.release([name])
    cache.close()


def _half(directory: str, size: str) -> None:
    """Dies when half of the file is written: after the reservation, before the rows."""
    gathered, written = os.writev, os.write

    def stop_gathered(descriptor: int, parts: list[memoryview]) -> int:
        gathered(descriptor, [parts[0][: len(parts[0]) // 2]])
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    def stop(descriptor: int, data: memoryview) -> int:
        written(descriptor, data[: len(data) // 2 // 4096 * 4096])  # whole blocks, past the page cache
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    os.writev, os.write = stop_gathered, stop
    offer(_open(directory), noise(1, int(size)))


def _count(directory: str, hits: str, misses: str) -> None:
    _be_patient()
    cache = _open(directory)
    cache.count(hits=int(hits), misses=int(misses), fetched=10 * int(misses), saved=10 * int(hits))
    cache.close()


def _hold(directory: str, number: str) -> None:
    cache = _open(directory)
    data = noise(int(number), 100_000)
    name = digest(DATA, data)
    held = cache.find([name], DATA)[name]
    say(cache.read(held) == data)
    for _ in sys.stdin:
        say(cache.read(held) == data, name in cache.find([name], DATA))


if __name__ == "__main__":
    {
        "keep": _keep,
        "hammer": _hammer,
        "claim": _claim,
        "fetch": _fetch,
        "half": _half,
        "count": _count,
        "hold": _hold,
    }[sys.argv[1]](*sys.argv[2:])
