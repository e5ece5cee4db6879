"""Several servers over one PostgreSQL and one store: whoever asks whichever sees the same."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from artifactfs.content.cache import CacheSettings
from artifactfs.draft import Draft
from artifactfs.export import export
from artifactfs.repository import Repository
from tests import s3
from tests.conftest import Cli
from tests.postgres import Server

CLIENTS = 50
NAME = "shared"
SECONDS = 60.0


class Replica:
    """A process that serves, and its address."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        first = process.stdout.readline()
        found = re.fullmatch(r"serving the registry postgresql://\S+ at (http://\S+)\n", first)
        if found is None:
            process.kill()
            raise AssertionError((first, process.communicate()))
        process.stdout.readline()
        self.url = found[1]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, errors
        assert "Traceback" not in errors


@pytest.fixture(scope="module")
def bucket() -> Iterator[s3.Server]:
    with s3.moto() as server:
        yield server


@pytest.fixture(params=["directory", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[list[str], list[str], dict[str, str]]:
    """Options before and behind ``serve`` by which replicas have one store, and what they need around them."""
    if request.param == "directory":
        return ["--repository", str(tmp_path / "store")], [], {}
    server = request.getfixturevalue("bucket")
    return [], ["--store", f"s3://{s3.BUCKET}/{tmp_path.name}"], {**server.environ, "AWS_ALLOW_HTTP": "true"}


@pytest.fixture
def replicas(cli: Cli, postgres_url: str, store, tmp_path: Path) -> Iterator[Callable[[int], list[Replica]]]:
    """Servers on call, each with a home of its own as on a machine of its own, and the registry in the environment."""
    before, behind, environ = store
    started: list[subprocess.Popen[str]] = []

    def start(count: int) -> list[Replica]:
        for number in range(count):
            home = tmp_path / f"machine-{number}"
            home.mkdir()
            env = {**environ, "HOME": str(home), "ARTIFACTFS_REGISTRY": postgres_url}
            started.append(cli.start(*before, "serve", "--port", 0, "--no-access-log", *behind, env=env))
        return [Replica(process) for process in started[-count:]]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def client(url: str, place: Path) -> Repository:
    return Repository.open(url, cache=CacheSettings(place, reserve=0), seconds=SECONDS)


def follow(url: str, place: Path, done: threading.Event) -> list[tuple[int, list[int]]]:
    """Each revision that a follower is told, with the numbers of the versions that it finds then."""
    seen: list[tuple[int, list[int]]] = []
    with client(url, place) as repository:
        revision = 0
        while True:
            ending = done.is_set()
            present = repository.registry.changed(revision, seconds=1)
            if present != revision:
                assert present > revision
                seen.append((present, [record.number for record in repository.registry.versions(NAME)]))
                revision = present
            elif ending:
                return seen


def test_50_clients_log_to_one_artifact_at_once_through_two_servers(replicas, tmp_path):
    urls = [replica.url for replica in replicas(2)]
    begin, done = threading.Barrier(CLIENTS, timeout=120), threading.Event()

    def log(number: int) -> tuple[int, int]:
        source = tmp_path / f"source-{number}"
        source.mkdir()
        (source / "number").write_text(f"client {number}\n")
        with client(urls[number % 2], tmp_path / f"cache-{number}") as repository:
            begin.wait()
            draft = Draft(repository)
            draft.add(source)
            return number, draft.commit(NAME).version.number

    with ThreadPoolExecutor(CLIENTS + 2) as threads:
        followers = [
            threads.submit(follow, url, tmp_path / f"follower-{number}", done) for number, url in enumerate(urls)
        ]
        try:
            made = dict(threads.map(log, range(CLIENTS)))
        finally:
            done.set()
        followed = [follower.result() for follower in followers]

    assert sorted(made.values()) == list(range(CLIENTS))
    for url, seen in zip(urls, followed, strict=True):
        numbers = [found for _, found in seen]
        assert numbers[-1] == list(range(CLIENTS))
        # In the order of commits, each of which a number follows: what was seen is a beginning of what came to be.
        assert all(found == list(range(len(found))) for found in numbers)
        with client(url, tmp_path / f"reader-{urls.index(url)}") as repository:
            assert repository.registry.resolve(NAME, "latest").number == CLIENTS - 1
            assert repository.registry.revision() == seen[-1][0]
            for number, version in made.items():
                out = tmp_path / f"out-{urls.index(url)}-{number}"
                assert export(repository, repository.registry.version(NAME, version), "", out).failures == []
                assert (out / "number").read_text() == f"client {number}\n"


def test_a_replica_that_is_killed_costs_nothing_that_was_answered(replicas, tmp_path):
    first, second = replicas(2)
    (tmp_path / "file").write_text("one")
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(client(replica.url, tmp_path / f"cache-{number}"))
            for number, replica in enumerate((first, second))
        )
        draft = Draft(one)
        draft.add(tmp_path / "file")
        assert draft.commit(NAME).version.number == 0
        first.process.kill()
        assert two.registry.resolve(NAME, "latest").number == 0
        (tmp_path / "file").write_text("two")
        draft = Draft(two)
        draft.add(tmp_path / "file")
        assert draft.commit(NAME).version.number == 1
    second.stop()


def test_a_server_outlives_its_database(postgres: Server, postgres_registry: str, replicas, tmp_path):
    (replica,) = replicas(1)
    with client(replica.url, tmp_path / "cache") as repository:
        assert repository.registry.artifacts() == []
        postgres.end_connections(postgres_registry)
        assert repository.registry.artifacts() == []
    replica.stop()


def test_garbage_is_collected_by_one_of_several_servers(cli: Cli, replicas, store, tmp_path):
    """What one server's client deleted another one's collects; what lives is whole through both."""
    urls = [replica.url for replica in replicas(2)]
    keep = random.Random(1).randbytes(100_000)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "keep").write_bytes(keep)
    (tmp_path / "source" / "dead").write_bytes(random.Random(2).randbytes(500_000))
    with client(urls[0], tmp_path / "cache-0") as one, client(urls[1], tmp_path / "cache-1") as two:
        for _ in range(2):
            draft = Draft(one)
            draft.add(tmp_path / "source")
            kept = draft.commit(NAME).version
            (tmp_path / "source" / "dead").unlink(missing_ok=True)
        two.registry.retention.delete(NAME, [0])
        words = ("--repository", urls[1], "gc", "--json")
        said = json.loads(cli(*words, "--dry-run").stdout)
        done = json.loads(cli(*words).stdout)
        assert said["freed"] == done["freed"] > 490_000
        assert (done["repacked_packs"], done["condemned_packs"]) == (1, 0)
        assert json.loads(cli("--repository", urls[0], "gc", "--json").stdout)["deleted_packs"] == 0
        for number, repository in enumerate((one, two)):
            out = tmp_path / f"out-{number}"
            assert export(repository, kept, "", out).failures == []
            assert (out / "keep").read_bytes() == keep
            assert repository.registry.check() == []
        # Stored again, it is there again.
        (tmp_path / "source" / "dead").write_bytes(random.Random(2).randbytes(500_000))
        draft = Draft(two)
        draft.add(tmp_path / "source")
        again = draft.commit(NAME).version
        assert again.number == 2
        assert export(one, again, "", tmp_path / "again").failures == []
    before, _, _ = store
    if before:
        # The directory's own registry names none of these packs.
        refused = cli.refuses(*before, "gc", status=2)
        assert "are those of the registry postgresql://" in refused


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_registry_needs_a_store_that_all_its_servers_share(cli: Cli, postgres_url: str):
    cli("init")
    words = cli.refuses("serve", "--port", 0, "--registry", postgres_url, status=2)
    assert "give --store s3://bucket/prefix" in words


def test_a_directory_with_versions_of_its_own_is_no_store_of_another_registry(
    cli: Cli, postgres_url: str, tmp_path: Path
):
    (tmp_path / "file").write_text("one")
    own = tmp_path / "own"
    cli("--repository", own, "put", NAME, tmp_path / "file")
    words = cli.refuses("--repository", own, "serve", "--port", 0, "--registry", postgres_url, status=2)
    assert "artifactfs copy" in words


def test_a_password_in_the_url_is_refused_before_it_is_seen(cli: Cli, tmp_path: Path):
    url = "postgresql://me:very-secret-word@127.0.0.1:1/a"
    for words in (("serve", "--port", 0), ("token", "list"), ("token", "create", "--role", "admin")):
        told = cli.refuses("--repository", tmp_path / "store", *words, status=2, env={"ARTIFACTFS_REGISTRY": url})
        assert "PGPASSFILE" in told
        assert "very-secret-word" not in told
    assert "postgresql://USER@HOST" in cli.refuses("token", "list", "--registry", "https://db.example.com", status=2)


def test_the_first_token_is_made_in_the_database(cli: Cli, postgres: Server, empty_database: str, tmp_path: Path):
    url = postgres.url(empty_database)
    store = tmp_path / "store"
    cli("init", store)
    words = cli.refuses(
        "--repository", store, "serve", "--host", "::", "--allow-plain-http", "--port", 0, "--registry", url
    )
    assert "artifactfs token create --registry URL --role admin --all-projects" in words
    token = cli("token", "create", "--registry", url, "--role", "admin", "--all-projects").stdout.strip()
    listed = cli("token", "list", "--registry", url).stdout
    assert "(all)" in listed
    process = cli.start(
        "--repository", store, "serve", "--require-tokens", "--port", 0, "--registry", url, "--no-access-log"
    )
    try:
        replica = Replica(process)
        assert cli.run("--repository", replica.url, "ls").status == 1
        assert cli("--repository", replica.url, "ls", env={"ARTIFACTFS_TOKEN": token}).status == 0
        identity = listed.splitlines()[1].split()[0]
        assert identity in cli("token", "revoke", "--registry", url, identity).stdout
        replica.stop()
    finally:
        process.kill()
        process.communicate()
