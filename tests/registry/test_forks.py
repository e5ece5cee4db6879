"""A process that forks while it has a registry open: both halves go on, and lose nothing."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from artifactfs.registry.sql import SQLRegistry

PROGRAM = """
import os, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, which is what this is about
from contextlib import closing
from artifactfs.registry.sql import SQLRegistry
from tests.conformance.registry import NAME, commit, digest

path, = sys.argv[1:]
registry = SQLRegistry(path, create=True, seconds=60.0)
commit(registry, digest(0))
before = registry.revision()

def forked(work):
    '''A child that does this on a word; the pipe to give it by, and its end.'''
    ready, tell = os.pipe()
    wait, go = os.pipe()
    child = os.fork()
    if not child:
        try:
            work(lambda: (os.write(tell, b"x"), os.read(wait, 1)))
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    os.close(tell)
    assert os.read(ready, 1) == b"x"
    return lambda: (os.write(go, b"x"), os.waitpid(child, 0)[1])[1]
"""

A_PARENT_THAT_CLOSES = """
def work(ready):
    with closing(SQLRegistry(path, seconds=60.0)) as own:
        assert own.versions(NAME) and own.revision() == before
        ready()
        commit(own, digest(1))

finish = forked(work)
registry.close()
assert finish() == 0
"""

A_PARENT_THAT_WRITES = """
inside, leave = threading.Event(), threading.Event()

def write():
    with registry._database.writing(durable=True) as connection:
        connection.exec_driver_sql("UPDATE project SET revision = revision + 10")
        inside.set()
        assert leave.wait(30.0)

writer = threading.Thread(target=write)
writer.start()
assert inside.wait(30.0)
threading.Timer(0.5, leave.set).start()  # the fork waits for that

def work(ready):
    with closing(SQLRegistry(path, seconds=60.0)) as own:
        assert own.revision() == before + 10
        ready()
        commit(own, digest(1))

assert forked(work)() == 0
writer.join()
assert registry.revision() > before + 10
commit(registry, digest(2), commit_id="of the parent")
registry.close()
"""

A_CHILD_THAT_GOES_ON_WITH_ITS_PARENTS = """
def work(ready):
    ready()
    commit(registry, digest(1))

assert forked(work)() == 0
commit(registry, digest(2), commit_id="of the parent")
registry.close()
"""


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        pytest.param(A_PARENT_THAT_CLOSES, [0, 1], id="closes"),
        pytest.param(A_PARENT_THAT_WRITES, [0, 1, 2], id="writes"),
        pytest.param(A_CHILD_THAT_GOES_ON_WITH_ITS_PARENTS, [0, 1, 2], id="shares"),
    ],
)
def test_what_parent_and_child_commit_is_there(tmp_path: Path, text: str, numbers: list[int]):
    path = tmp_path / "registry.db"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + text, str(path)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with closing(SQLRegistry(path)) as registry:
        (artifact,) = registry.artifacts()
        assert [version.number for version in registry.versions(artifact.name)] == numbers
        assert registry.check() == []
