"""A process that forks while its threads use a cache: both halves find and keep what they want."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Threads of the parent are in SQLite nearly all the time; a child that has its locks from them never comes out of its first call.
PROGRAM = """
import faulthandler, itertools, os, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, which is what this is about
from pathlib import Path
from artifactfs.content import caretaker, catalog, vault
from artifactfs.content.cache import Cache, CacheSettings
from artifactfs.model.digest import DATA, digest
from artifactfs.model.records import ChunkRow

# Its turn comes, however often SQLite lets the parent's threads pass a child that waits.
catalog.BUSY_SECONDS = vault.BUSY_SECONDS = caretaker.WAIT_SECONDS = 50.0

settings = CacheSettings(Path(sys.argv[1]), limit=1 << 30, reserve=0)
body = bytes(5000)

def row(number):
    return ChunkRow(digest(DATA, number.to_bytes(8)), 0, len(body), len(body), 0)

def kept(cache, number):
    return cache.keep([row(number)], [body]) and cache.find([row(number).digest], DATA)

cache = Cache(settings)
done = threading.Event()
failed = []

def use(first):
    for number in itertools.count(first, 2):
        if done.is_set():
            return
        if not kept(cache, number):
            failed.append(number)

threads = [threading.Thread(target=use, args=(first,)) for first in (0, 1)]
for thread in threads:
    thread.start()
for number in range(40):
    child = os.fork()
    if not child:
        faulthandler.dump_traceback_later(60, exit=True)
        own = Cache(settings)
        fine = kept(own, (1 << 40) + number)
        own.close()
        os._exit(0 if fine else 3)
    assert os.waitpid(child, 0)[1] == 0
done.set()
for thread in threads:
    thread.join(30)
assert not failed, failed
assert all(cache.find([row((1 << 40) + number).digest], DATA) for number in range(40))
assert cache.status().trouble == ""
cache.close()
"""


def test_parent_and_children_share_the_cache(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
