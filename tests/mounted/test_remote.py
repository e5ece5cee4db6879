"""A repository on a server, mounted: the same tree, what others make, and life without the server."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.draft import Draft
from artifactfs.repository import Repository
from tests.conftest import Cli, daemons_below, eventually
from tests.mounted.living import Mounted, followed, living, succeeds
from tests.mounted.served import Server, online, serving
from tests.mounted.trees import content, sample

TIMEOUT = "10"  # a file that is not here is waited for as long when the server has gone
MANY = 100


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "server") as running:
        yield running


@pytest.fixture
def client(tmp_path: Path, binding: str, server: Server) -> Iterator[Mounted]:
    """Not mounted yet; its repository is the server's."""
    with living(tmp_path / "client", binding) as made:
        made.cli.env |= {"ARTIFACTFS_REPOSITORY": server.url, "ARTIFACTFS_TIMEOUT": TIMEOUT}
        yield made


def put(cli: Cli | Mounted, directory: Path, name: str, text: str, *options: str) -> str:
    """A version with one file, ``file``."""
    directory.mkdir(exist_ok=True)
    (directory / "file").write_text(text)
    return cli("put", name, directory, *options).stdout.strip()


def uncached(path: Path) -> bytes:
    """A file's bytes from the mount's process, not from the pages that the kernel keeps."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        size = os.fstat(descriptor).st_size
        return os.pread(descriptor, size, 0)
    finally:
        os.close(descriptor)


def fails(path: Path) -> int:
    with pytest.raises(OSError) as caught:
        path.read_bytes()
    assert caught.value.errno is not None
    return caught.value.errno


def test_the_tree_is_the_same_as_of_the_repository_itself(server, client, tmp_path):
    source = sample(tmp_path / "source")
    server.cli("put", "data", source, "--alias", "best", "--description", "text", "--metadata", "rows=3")
    client.mount()
    version = client.root / "data/v0"
    succeeds(f"diff -r --no-dereference '{source}' .", version)
    assert content(version) == content(source)
    assert sorted(os.listdir(client.root / "data")) == ["best", "latest", "staging", "v0"]
    assert os.readlink(client.root / "data/best") == "v0"
    assert json.loads(os.getxattr(version, "user.artifactfs.metadata")) == {"rows": 3}
    assert os.getxattr(version / "words.txt", "user.artifactfs.cached") == b"1"
    assert json.loads((client.root / ".artifactfs/info/data/v0.json").read_bytes())["description"] == "text"
    with pytest.raises(OSError) as caught:
        (version / "new").touch()
    assert caught.value.errno == errno.EROFS
    status = client.status()
    assert (status["online"], status["repository"]) == (True, server.url)
    assert status["counts"]["bytes_fetched"] > 0
    assert "offline" not in client("status").stdout


def test_what_others_make_appears(server, client, tmp_path):
    put(server.cli, tmp_path / "one", "data", "one\n")
    client.mount()
    assert (client.root / "data/latest/file").read_text() == "one\n"
    assert not (client.root / "new").exists()
    other = Cli(tmp_path / "other")
    other.home.mkdir()
    other.env["ARTIFACTFS_REPOSITORY"] = server.url
    put(other, tmp_path / "two", "data", "two\n", "--alias", "best")
    eventually(lambda: os.readlink(client.root / "data/latest") == "v1")
    assert (client.root / "data/latest/file").read_text() == "two\n"
    assert (client.root / "data/best/file").read_text() == "two\n"
    assert (client.root / "data/v0/file").read_text() == "one\n"
    eventually(lambda: followed(client.root / "data/staging/file", "two\n"))
    server.cli("alias", "add", "data:v0", "best")
    eventually(lambda: os.readlink(client.root / "data/best") == "v0")
    put(other, tmp_path / "two", "new", "new\n")
    eventually((client.root / "new/v0/file").exists)


def test_a_second_look_asks_nothing(server, client, tmp_path):
    (tmp_path / "source").mkdir()
    with Repository.open(str(server.repository)) as repository:
        for number in range(MANY):
            (tmp_path / "source/file").write_text(f"{number}\n")
            draft = Draft(repository)
            draft.add(tmp_path / "source")
            draft.commit(f"data{number}")
    client.mount()

    def open_all() -> None:
        assert len(os.listdir(client.root)) >= MANY
        for number in range(MANY):
            artifact = client.root / f"data{number}"
            assert sorted(os.listdir(artifact)) == ["latest", "staging", "v0"]
            assert uncached(artifact / "latest/file") == uncached(artifact / "v0/file") == b"%d\n" % number

    assert server.requests_of(open_all)["GET artifacts/data0/versions"] == 1
    fetched = client.status()["counts"]["bytes_fetched"]
    assert server.requests_of(open_all) == {}
    assert client.status()["counts"]["bytes_fetched"] == fetched
    # What others change in one artifact costs nothing where nobody looks, and little where somebody does.
    put(server.cli, tmp_path / "source", "data0", "changed\n")
    eventually(lambda: followed(client.root / "data0/staging/file", "changed\n"))

    def look() -> None:
        for number in range(1, MANY):
            assert uncached(client.root / f"data{number}/latest/file") == b"%d\n" % number

    assert server.requests_of(look) == {}


def test_the_server_goes_and_comes_back(server, client, tmp_path):
    source = sample(tmp_path / "source")
    server.cli("put", "data", source)
    client.mount()
    words = client.root / "data/v0/words.txt"
    assert uncached(words) == (source / "words.txt").read_bytes()
    os.listdir(client.root / "data/v0/images")
    assert client.status()["online"]
    server.stop()

    status = online(client.status, is_it=False)
    eventually(lambda: f"cannot reach {server.url}: " in client.status()["offline_reason"])
    assert status["offline_since"] >= status["since"]
    (line,) = [line for line in client("status").stdout.splitlines() if "offline" in line]
    assert "cannot reach" in line
    assert "stays readable" in line
    assert b"artifactfs_online 0\n" in (client.root / ".artifactfs/metrics").read_bytes()
    assert uncached(words) == (source / "words.txt").read_bytes()
    assert "data" in os.listdir(client.root)
    assert fails(client.root / "data/latest/large.bin") in {errno.EIO, errno.ETIMEDOUT}
    (client.root / "data/staging/note").write_text("written without the server\n")
    message = client.refuses("commit", "data")
    assert server.url in message
    assert client.run("doctor").status == 1

    server.start()
    online(client.status)
    assert (client.root / "data/latest/large.bin").read_bytes() == (source / "large.bin").read_bytes()
    assert client.commit("data") == "data:v1"
    assert (client.root / "data/v1/note").read_text() == "written without the server\n"
    assert len(daemons_below(client.cli.home)) == 1
    assert f"{server.url} (project default: 1 artifact), answers within" in client.run("doctor").stdout


def test_a_new_mount_without_the_server_shows_what_was_seen(server, client, tmp_path):
    source = sample(tmp_path / "source")
    server.cli("put", "data", source, "--alias", "best")
    server.cli("put", "unseen", source / "images/deep")
    client.mount()
    listing = "find data/v0 data/best/ -printf '%p %s %l\\n' | sort"
    seen = succeeds(listing, client.root)
    words = (client.root / "data/best/words.txt").read_bytes()
    client.unmount()
    server.stop()

    client.mount()
    assert online(client.status, is_it=False)["offline_reason"]
    assert succeeds(listing, client.root) == seen
    assert (client.root / "data/v0/words.txt").read_bytes() == words
    assert fails(client.root / "data/v0/large.bin") in {errno.EIO, errno.ETIMEDOUT}
    assert sorted(name for name in os.listdir(client.root) if name != ".artifactfs") == ["data", "unseen"]
    (client.root / "data/staging/new").write_text("new\n")
    client.unmount()
    client.mount()
    assert (client.root / "data/staging/new").read_text() == "new\n"

    server.start()
    online(client.status)
    assert (client.root / "unseen/v0/er/x").read_text() == "deep\n"


def test_a_server_that_was_never_seen_is_refused_at_once(server, client):
    server.stop()
    client.complaints = 1
    message = client.refuses("mount", client.root, "--binding", client.binding)
    assert message.startswith(f"cannot reach {server.url}: ")
    assert daemons_below(client.cli.home) == []
    assert not client.root.exists()


def test_commits_go_to_the_server(server, client, tmp_path):
    source = sample(tmp_path / "source")
    server.cli("put", "data", source)
    client.mount()
    staging = client.staging("data")
    with (staging / "large.bin").open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"changed")
    (staging / "images").rename(staging / "pictures")
    expected = content(staging)
    assert client.commit("data", "--alias", "best") == "data:v1"
    assert content(client.root / "data/v1") == expected
    assert os.readlink(client.root / "data/latest") == "v1"
    assert server.cli("get", "data:best", tmp_path / "got").status == 0
    assert content(tmp_path / "got") == expected
    assert client.commit("data") == "data:v1"
    (client.staging("fresh") / "file").write_text("x")
    assert client.commit("fresh", "--type", "model") == "fresh:v0"
    assert "fresh" in server.cli("ls").stdout


def test_a_server_has_one_spelling(server, client):
    client.mount()
    again = client(
        "--repository", f"{server.url.replace('http', 'HTTP')}/", "mount", client.root, "--binding", client.binding
    )
    assert again.stderr == "mounted already\n"
