"""Encrypted projects from Python, through fsspec, and between repositories; and what putting many small files asks a server."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

import artifactfs
from artifactfs import Api, Artifact, sealing
from artifactfs.errors import Access
from tests.conftest import Cli
from tests.encryption.conftest import KEY, NOISE, TEXT, found_below
from tests.mounted.served import Server, serving

ID = sealing.key_id(KEY)
FILES = 2000
REQUESTS = 60


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user who has no key and never configured anything."""
    home = tmp_path / "user"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    yield home
    artifactfs.finish()


@pytest.fixture
def server(tmp_path: Path, key_file: Path) -> Iterator[Server]:
    """Serves a repository whose project ``sealed`` is encrypted; it alone has the key."""
    with serving(tmp_path / "served") as server:
        server.stop()
        server.cli.env["ARTIFACTFS_KEY_FILE"] = str(key_file)
        server.cli("--project", "sealed", "init", "--encrypt")
        server.start()
        yield server


@pytest.fixture(params=["directory", "server"])
def location(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a repository with the project: at hand, where the key is in the environment, or a server's."""
    server: Server = request.getfixturevalue("server")
    if request.param == "server":
        return server.url
    server.stop()
    monkeypatch.setenv("ARTIFACTFS_KEY", KEY.hex())
    return str(server.repository)


def test_from_python(server, location, home):
    run = artifactfs.init(repository=location, project="sealed", job_type="train")
    artifact = Artifact("ward", type="dataset")
    with artifact.new_file("text.txt", "wb") as stream:
        stream.write(TEXT)
    with artifact.new_file("noise.bin", "wb") as stream:
        stream.write(NOISE)
    run.log_artifact(artifact)
    used = run.use_artifact("ward:latest")
    place = Path(used.download(home / "out"))
    assert (place / "text.txt").read_bytes() == TEXT
    artifactfs.finish()
    with Api(repository=location, project="sealed") as api:
        again = Path(api.artifact("ward:v0").download(home / "again"))
    assert (again / "noise.bin").read_bytes() == NOISE
    assert found_below(server.repository / "store") == []


def test_through_fsspec(server, location, files):
    server.cli("--project", "sealed", "put", "ward", files)
    options = {"repository": location, "project": "sealed"}
    with fsspec.open("artifactfs://ward:latest/noise.bin", **options) as file:
        file.seek(1000)
        assert file.read(500) == NOISE[1000:1500]
    system, path = fsspec.url_to_fs("artifactfs://ward:v0/ward", **options)
    (name,) = system.ls(path, detail=False)
    assert system.cat_file(name) == TEXT


def test_fsspec_without_the_key(server, files):
    server.cli("--project", "sealed", "put", "ward", files)
    server.stop()
    with (
        pytest.raises((Access, PermissionError), match=f"encrypted with the key {ID}, which is not here"),
        fsspec.open("artifactfs://ward:latest/noise.bin", repository=str(server.repository), project="sealed") as file,
    ):
        file.read()


def test_what_was_announced_is_fetched_ahead_and_opened(server, files, tmp_path):
    server.cli("--project", "sealed", "put", "ward", files)
    options = {"repository": server.url, "project": "sealed", "cache_dir": str(tmp_path / "cache")}
    url = "artifactfs://ward:v0/noise.bin"
    artifactfs.prefetch([url], **options)
    try:
        with fsspec.open(url, **options) as file:
            assert file.read() == NOISE
    finally:
        artifactfs.prefetch([])


def test_copies_to_and_from_a_server_are_sealed_where_the_project_is(server, files, home, tmp_path):
    user = Cli(home)
    user.env["ARTIFACTFS_REPOSITORY"] = str(home / "own")
    user("put", "ward", files)
    user("copy", "ward", "--to", server.url, "--to-project", "sealed")
    assert found_below(server.repository / "store/sealed") == []
    there = {"ARTIFACTFS_REPOSITORY": server.url, "ARTIFACTFS_PROJECT": "sealed"}
    assert f"encryption   key {ID}" in user("show", "ward", env=there).stdout
    user("copy", "ward", "--to", home / "back", "--to-project", "default", env=there)
    user("--repository", home / "back", "get", "ward", "out")
    assert (home / "out/noise.bin").read_bytes() == NOISE
    # Into an encrypted project of this user's, from an encrypted one of the server's: another key.
    user("--repository", home / "third", "init", "--encrypt")
    user("copy", "ward", "--to", home / "third", "--to-project", "default", env=there)
    assert found_below(home / "third/store") == []
    user("--repository", home / "third", "get", "ward", "again")
    assert (home / "again/noise.bin").read_bytes() == NOISE
    assert "everything is sound" in user("--repository", home / "third", "verify").stderr
    user("cache", "warm", "ward", env={**there, "ARTIFACTFS_CACHE_DIR": str(home / "warmed")})
    server.stop()
    user("get", "ward:v0", "offline", env={**there, "ARTIFACTFS_CACHE_DIR": str(home / "warmed")})
    assert (home / "offline/noise.bin").read_bytes() == NOISE


def asked(server: Server, project: str, action: Callable[[], object]) -> Counter[str]:
    """The requests of an action, without what differs between projects."""
    server.wait_for_log()
    before = len(server._log.read_text().splitlines())
    server.requests_of(action)  # waits for the log
    lines = [json.loads(line) for line in server._log.read_text().splitlines()[before:]]
    paths = [f"{line['method']} {line['path']}" for line in lines if line.get("path", "/healthz") != "/healthz"]
    return Counter(
        re.sub(r"[0-9a-f]{2}/[0-9a-f]{64}|\b\d+\b", "…", path.replace(f"projects/{project}/", "")) for path in paths
    )


def test_many_small_files_are_put_by_as_few_requests_as_without_encryption(server, home):
    source = home / "many"
    source.mkdir()
    for number in range(FILES):
        (source / f"{number:05}.txt").write_text(f"file {number} of a ward\n" * 10)
    user = Cli(home)
    user.env["ARTIFACTFS_REPOSITORY"] = server.url
    counts = {}
    for project in ("default", "sealed"):
        cache = {"ARTIFACTFS_CACHE_DIR": str(home / f"cache-{project}")}
        counts[project] = asked(
            server,
            project,
            lambda cache=cache, project=project: user("--project", project, "put", "many", source, env=cache),
        )
    assert counts["sealed"] == counts["default"]
    assert 0 < counts["sealed"].total() <= REQUESTS
