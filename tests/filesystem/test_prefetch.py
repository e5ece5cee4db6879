"""``artifactfs.prefetch``: what a program says it will read is there before it reads it, through a mount and by URL."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
from collections import Counter
from collections.abc import Iterator

import pytest

import artifactfs
from artifactfs.config import load
from artifactfs.errors import InvalidInput, NotFound
from artifactfs.filesystem.opened import opened_of
from artifactfs.mount.reach import around
from tests.conftest import eventually
from tests.mounted.living import Mounted, living

FILES = 300
SIZE = 20_000


@pytest.fixture
def samples(served, tmp_path) -> dict[str, bytes]:
    """A data set of small files, logged: their contents by path."""
    noise = random.Random(1)
    contents = {f"{number % 10}/{number:04d}.bin": noise.randbytes(SIZE) for number in range(FILES)}
    for path, content in contents.items():
        (tmp_path / "set" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / path).write_bytes(content)
    served(tmp_path / "set")
    return contents


@pytest.fixture
def mount(served, samples, tmp_path) -> Iterator[Mounted]:
    with living(tmp_path / "client", "kernel") as made:
        made.cli.env["ARTIFACTFS_REPOSITORY"] = served.options["repository"]
        made.mount()
        yield made


def epoch(paths, seed: int) -> list[str]:
    order = sorted(paths)
    random.Random(seed).shuffle(order)
    return order


def downloads(asked: Counter[str]) -> int:
    """Requests for contents."""
    contents = (request for request in asked if request.startswith("GET objects/") and not request.endswith(".idx"))
    return sum(asked[request] for request in contents)


def plan_of(mount: Mounted) -> dict[str, object]:
    """What the mount's process says of the order that it has."""
    live = around(mount.root)
    assert live is not None
    return live[0].status["prefetch"] or {}


# -- through a mount ---------------------------------------------------------------------------------------------------


def test_files_of_a_mount_are_there_before_they_are_read(served, samples, mount):
    order = epoch(samples, 1)
    paths = [mount.root / "data/latest" / path for path in order]

    def announce():
        artifactfs.prefetch(paths)
        eventually(lambda: not plan_of(mount)["working"])

    assert downloads(served.server.requests_of(announce)) > 0
    assert plan_of(mount)["fetched"] == FILES

    def read():
        assert [path.read_bytes() for path in paths] == [samples[path] for path in order]

    assert downloads(served.server.requests_of(read)) == 0
    assert plan_of(mount)["opened"] == FILES


def test_a_path_may_lead_into_the_mount_by_symlinks_and_be_relative(served, samples, mount, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    (tmp_path / "work/set").symlink_to(mount.root / "data/latest")
    monkeypatch.chdir(tmp_path / "work/set/3")
    artifactfs.prefetch(["0003.bin", "../4/0004.bin", str(tmp_path / "work/set/5"), tmp_path / "work/set/./6/0006.bin"])
    eventually(lambda: not plan_of(mount)["working"])
    assert plan_of(mount)["fetched"] == 1 + 1 + FILES // 10 + 1
    assert plan_of(mount)["failed"] == 0


def test_the_next_order_ends_the_one_before(served, samples, mount):
    artifactfs.prefetch([mount.root / "data/v0/1/0001.bin"])
    first = plan_of(mount)["plan"]
    artifactfs.prefetch([mount.root / "data/v0/2/0002.bin"])
    second = plan_of(mount)["plan"]
    assert first != second
    artifactfs.prefetch([])
    assert plan_of(mount) == {}
    artifactfs.prefetch([])


def announced(paths, queue, done):
    artifactfs.prefetch(paths)
    queue.put(os.getpid())
    done.wait(60)


def test_programs_have_an_order_each(served, samples, mount):
    """As the processes of one training on several GPUs: what one tells does not end what another one told."""
    order = epoch(samples, 1)
    context = multiprocessing.get_context("spawn")
    queue, done = context.Queue(), context.Event()
    parts = [[str(mount.root / "data/v0" / path) for path in order[number::3]] for number in range(3)]
    programs = [context.Process(target=announced, args=(part, queue, done), daemon=True) for part in parts]
    for program in programs:
        program.start()
    assert len({queue.get(timeout=60) for _ in programs}) == 3
    # What one tells last would be a third of the files.
    eventually(lambda: json.loads(mount("cache", "status", "--json").stdout)["chunks"] >= FILES)
    done.set()
    for program in programs:
        program.join(60)


def work(root, orders, queue):
    for order in orders:
        queue.put([(path, (root / path).read_bytes()) for path in order])


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_as_a_data_loader_uses_it(served, samples, mount):
    """Four workers take batches in turn; before each epoch the order of all is told."""
    root = mount.root / "data/latest"
    context = multiprocessing.get_context("fork")
    for seed in (1, 2):
        order = epoch(samples, seed)
        artifactfs.prefetch(root / path for path in order)
        batches = [order[start : start + 16] for start in range(0, FILES, 16)]
        queue = context.Queue()
        workers = [
            context.Process(target=work, args=(root, batches[number::4], queue), daemon=True) for number in range(4)
        ]
        for worker in workers:
            worker.start()
        read = dict(pair for _ in batches for pair in queue.get(timeout=60))
        for worker in workers:
            worker.join(60)
        assert read == samples
    eventually(lambda: not plan_of(mount)["working"])
    assert plan_of(mount)["failed"] == 0


# -- by URL --------------------------------------------------------------------------------------------------------------


def state(served):
    return opened_of(load(**served.options))._prefetcher.status() or {}


def test_urls_are_there_before_they_are_read(served, samples):
    order = epoch(samples, 1)
    urls = [f"artifactfs://data:latest/{path}" for path in order]

    def announce():
        artifactfs.prefetch(urls, **served.options)
        eventually(lambda: not state(served)["working"])

    assert downloads(served.server.requests_of(announce)) > 0
    fs = served.fs()

    def read():
        assert [fs.cat_file(url) for url in urls] == [samples[path] for path in order]

    asked = served.server.requests_of(read)
    assert downloads(asked) == 0
    # For the first files, and until the server is followed; not for each of the files.
    assert asked["GET artifacts/data/aliases/latest"] < FILES // 2
    assert (state(served)["fetched"], state(served)["opened"]) == (FILES, FILES)
    artifactfs.prefetch([])
    assert state(served) == {}


def test_what_is_ahead_stays_within_the_cache(served, samples):
    """A cache of 16 MiB lets 4 MiB be ahead: 200 of 300 files, until some are read."""
    options = {**served.options, "cache_dir": served.options["cache_dir"] + "-small", "cache_size": "16MiB"}
    order = epoch(samples, 1)
    artifactfs.prefetch((f"artifactfs://data:v0/{path}" for path in order), **options)
    settings = load(**options)
    status = opened_of(settings)._prefetcher.status
    eventually(lambda: status()["fetched"] > 0)
    fs = artifactfs.filesystem.adapter.ArtifactFileSystem(**options)
    for path in order:
        assert fs.cat_file(f"data:v0/{path}") == samples[path]
        assert status()["ahead_bytes"] <= status()["share"] == 4 << 20
    eventually(lambda: not status()["working"])


def test_a_repository_in_a_directory_needs_nothing(logged, guide):
    logged(guide)
    artifactfs.prefetch(["artifactfs://data:latest/images", "artifactfs://data/model.h5"], **logged.options)
    eventually(lambda: not state(logged)["working"])
    assert state(logged)["fetched"] == 0


# -- what is wrong -------------------------------------------------------------------------------------------------------


def test_wrong_paths(logged, guide, tmp_path, mounted):
    logged(guide)
    for wrong in (str(tmp_path / "file"), "relative/file", os.fsencode(tmp_path)):
        with pytest.raises(InvalidInput, match=r"must be a list of paths, not one path: give \['"):
            artifactfs.prefetch(wrong)
    with pytest.raises(InvalidInput, match="paths must be a list of paths; this is a int"):
        artifactfs.prefetch(5)
    for wrong in (5, b"/mnt"):
        with pytest.raises(InvalidInput, match=f"paths has {wrong!r} in it, a {type(wrong).__name__}; give texts"):
            artifactfs.prefetch([wrong])
    with pytest.raises(
        InvalidInput, match=r"file is not below a mount of artifacts; give such a path, or artifactfs://NAME"
    ):
        artifactfs.prefetch([tmp_path / "file"])
    with pytest.raises(NotFound, match="did you mean data"):
        artifactfs.prefetch(["artifactfs://date:latest/x"], **logged.options)
    with pytest.raises(InvalidInput, match="not an address"):
        artifactfs.prefetch(["artifactfs://data:latest/../x"], **logged.options)
    with pytest.raises(InvalidInput, match="is the root of a mount; name files or directories"):
        artifactfs.prefetch([mounted()])
