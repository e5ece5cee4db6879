"""Reading of a server's repository: what it is asked, what the cache keeps, what is left when it has gone."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from artifactfs.content.chunks import Cutter
from artifactfs.filesystem.adapter import ArtifactFileSystem
from artifactfs.filesystem.files import BUFFER
from artifactfs.filesystem.opened import repository_of
from tests.conftest import TESTS

LARGE = 12 << 20  # several chunks


@pytest.fixture
def large(served, tmp_path):
    content = os.urandom(LARGE)
    (tmp_path / "root").mkdir()
    (tmp_path / "root/large").write_bytes(content)
    (tmp_path / "root/small").write_bytes(b"small")
    served(tmp_path / "root")
    return content


def elsewhere(served, code: str) -> str:
    """What a program says that another process runs, with ``fs`` over the same cache."""
    head = (
        f"from artifactfs.filesystem.adapter import ArtifactFileSystem\nfs = ArtifactFileSystem(**{served.options!r})\n"
    )
    env = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    done = subprocess.run(
        [sys.executable, "-c", head + code], capture_output=True, text=True, check=False, env=env, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_one_process_has_fetched_the_next_one_has(served, large):
    assert served.fs().cat_file("data:latest/large") == large
    again = served.server.requests_of(
        lambda: elsewhere(served, "import hashlib; hashlib.sha256(fs.cat_file('data:latest/large'))")
    )
    assert [path for path in again if "content" in path or "object" in path or "pack" in path] == []


def test_random_reads_fetch_what_is_near_alone(served, large):
    fs = served.fs()
    with fs.open("data:latest/large") as file:
        file.seek(LARGE // 2)
        assert file.read(10) == large[LARGE // 2 :][:10]
    # What the file's buffer covers lies in one chunk, or in two where one ends in it; and the list of the chunks was fetched.
    near = sum(
        end - begin
        for begin, end in Cutter().cut(large, final=True)
        if begin < LARGE // 2 + BUFFER and end > LARGE // 2
    )
    assert near < LARGE
    assert repository_of(fs._settings).reader.bytes_fetched <= near + (64 << 10)


def test_without_the_server(served, large):
    fs = served.fs(timeout="10")
    assert fs.cat_file("data:latest/small") == b"small"
    served.server.stop()
    # What was read can be read again, by new processes too; all else fails with a reason.
    assert elsewhere(served, "print(fs.cat_file('data:latest/small'))") == "b'small'\n"
    with pytest.raises(OSError, match="data:latest/large: ") as gone:
        ArtifactFileSystem(**{**served.options, "timeout": "1"}).cat_file("data:latest/large")
    assert gone.value.errno == errno.EIO
    with pytest.raises(OSError, match="cannot reach"):
        fs.exists("other:latest/file")
