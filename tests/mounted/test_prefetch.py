"""Prefetching through the mount's process: what a program says it will read is in the cache before it reads it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from artifactfs.errors import InvalidInput
from artifactfs.mount import control
from tests.conftest import eventually
from tests.mounted.living import Mounted, living
from tests.mounted.served import Server, serving
from tests.web import web_server

FILES = 300
SIZE = 64 << 10


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("server")
    with serving(directory) as running:
        source = directory / "source"
        source.mkdir()
        rng = random.Random(1)
        for number in range(FILES):
            (source / f"f{number:03d}").write_bytes(rng.randbytes(SIZE))
        running.cli("put", "data", source)
        yield running


@pytest.fixture
def client(tmp_path: Path, binding: str, server: Server) -> Iterator[Mounted]:
    with living(tmp_path / "client", binding) as made:
        made.cli.env["ARTIFACTFS_REPOSITORY"] = server.url
        yield made


def workspace(client: Mounted) -> Path:
    return Path(client.status()["workspace"])


def ask(client: Mounted, **fields: Any) -> dict[str, Any]:
    return control.request(workspace(client), "prefetch", fields)


def progress(client: Mounted) -> dict[str, Any]:
    found = control.request(workspace(client), "status")["prefetch"]
    assert found is None or isinstance(found, dict)
    return found or {}


def shuffled(seed: int = 7) -> list[str]:
    order = [f"data/latest/f{number:03d}" for number in range(FILES)]
    random.Random(seed).shuffle(order)
    return order


def done(client: Mounted, files: int) -> bool:
    now = progress(client)
    return bool(now["fetched"] + now["failed"] >= files)


def test_what_was_announced_is_read_without_the_server(client: Mounted, server: Server):
    client.mount()
    order = shuffled()
    for begin in range(0, FILES, 100):
        answer = ask(client, plan="epoch 1", paths=order[begin : begin + 100])
        assert (answer["plan"], answer["local"]) == ("epoch 1", False)
    eventually(lambda: done(client, FILES))
    assert progress(client)["failed"] == 0
    held = progress(client)["ahead_bytes"]
    assert held == FILES * SIZE
    asked = server.requests_of(lambda: [(client.root / path).read_bytes() for path in order])
    # Three files that are next to each other by chance have the pack's table looked at.
    assert not [request for request in asked if not request.endswith(".idx")], asked
    eventually(lambda: progress(client)["opened"] == FILES)
    assert progress(client)["ahead_bytes"] == 0


def test_no_more_is_ahead_than_the_share_of_the_cache(client: Mounted, server: Server):
    client.cli.env["ARTIFACTFS_CACHE_SIZE"] = str(16 << 20)  # a fourth of it are 64 of the 300 files
    client.mount()
    order = shuffled()
    ask(client, plan="epoch", paths=order)
    eventually(lambda: progress(client)["fetched"] > 0)
    seen = []
    for place, path in enumerate(order):
        eventually(lambda: progress(client)["fetched"] > place or not progress(client)["working"])  # noqa: B023
        now = progress(client)
        seen.append(now["ahead_bytes"])
        (client.root / path).read_bytes()
    assert max(seen) <= now["share"] == 4 << 20
    assert done(client, FILES)


def test_the_next_plan_ends_the_one_before(client: Mounted):
    client.cli.env["ARTIFACTFS_CACHE_SIZE"] = str(16 << 20)
    client.mount()
    ask(client, plan="first", paths=shuffled())
    eventually(lambda: progress(client)["fetched"] > 0)
    ask(client, plan="second", paths=["data/v0/f000", "data/v0/f001"])
    eventually(lambda: done(client, 2))
    now = progress(client)
    assert (now["plan"], now["fetched"], now["ahead_bytes"]) == ("second", 2, 2 * SIZE)
    ask(client, plan="second", stop=True)
    assert progress(client) == {}


def test_a_reader_who_leaves_out_the_most_is_followed(client: Mounted):
    client.cli.env["ARTIFACTFS_CACHE_SIZE"] = str(16 << 20)
    client.mount()
    order = shuffled()
    ask(client, plan="epoch", paths=order)
    eventually(lambda: progress(client)["fetched"] > 0)
    for path in order[::5]:
        (client.root / path).read_bytes()
    eventually(lambda: not progress(client)["working"])
    now = progress(client)
    assert now["failed"] == 0
    assert now["ahead_bytes"] <= now["share"]


def test_directories_and_what_is_not_there(client: Mounted, server: Server):
    client.mount()
    ask(
        client,
        plan="all",
        paths=["data/v0/nothing", "nobody/latest/x", "data/v9/f000", "../../etc/passwd", "data/latest"],
    )
    eventually(lambda: done(client, FILES + 4))
    now = progress(client)
    assert (now["fetched"], now["failed"]) == (FILES, 4)
    assert not server.requests_of((client.root / "data/v0/f123").read_bytes)


def test_requests_that_make_no_sense_are_refused(client: Mounted):
    client.mount()
    for fields in (
        {},
        {"plan": ""},
        {"plan": "x", "paths": "data"},
        {"plan": "x", "paths": [1]},
        {"plan": "x", "paths": ["\0"]},
    ):
        with pytest.raises(InvalidInput, match="a prefetch needs"):
            ask(client, **fields)
    assert json.dumps(progress(client)) == "{}"


def test_a_repository_in_a_directory_has_its_files_and_fetches_references(tmp_path: Path, binding: str):
    with web_server() as web, living(tmp_path / "m", binding) as made:
        (tmp_path / "file").write_bytes(b"here")
        words: list[object] = ["put", "data", tmp_path / "file"]
        for number in range(20):
            words += ["--reference", f"{web.put(f'r{number}', b'%d' % number * 1000)}=refs/r{number}"]
        made(*words, "--reference", "odd://host/x=refs/odd")
        made.mount()
        answer = ask(made, plan="epoch", paths=["data/latest/file", "data/latest/refs"])
        assert answer["local"]
        eventually(lambda: done(made, 20))
        assert progress(made)["failed"] == 0
        web.asked.clear()
        for number in range(20):
            assert (made.root / f"data/v0/refs/r{number}").read_bytes() == b"%d" % number * 1000
        assert web.asked.total() == 0
