"""Encrypted projects behind a server: clients have no project's key, and everything works; what is wrongly sealed is refused."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import msgspec
import pytest
from blake3 import blake3

from artifactfs import keys, sealing
from artifactfs.content.cache import CacheSettings
from artifactfs.content.local import LocalStore
from artifactfs.content.pack import PackUpload, bare, encode_index, index_key, pack_key, seal, unseal
from artifactfs.errors import Access, Integrity, InvalidInput
from artifactfs.model.digest import DATA, digest
from artifactfs.model.records import FLAG_ENCRYPTED, ChunkRow, PackRow
from artifactfs.registry.sql import SQLRegistry
from artifactfs.remote import wire
from artifactfs.remote.client import Connection
from artifactfs.remote.registry import RemoteRegistry
from artifactfs.repository import Repository
from artifactfs.upkeep import verify
from tests.conformance.store import put as put_object
from tests.conftest import STOPPED_SECONDS, Cli
from tests.encryption.conftest import KEY, LARGE, NAME, NOISE, TEXT, credentials, found_below
from tests.transfer.sides import contents, put

ID = sealing.key_id(KEY)


class Server:
    """A process that serves an encrypted repository."""

    def __init__(self, place: Path) -> None:
        self.place = place / "repository"
        home = place / "home"
        home.mkdir(parents=True)
        self.key_file = home / "project.key"
        keys.write_key(self.key_file, KEY)
        self.cli = Cli(home)
        self.cli.env |= {"ARTIFACTFS_REPOSITORY": str(self.place), "ARTIFACTFS_KEY_FILE": str(self.key_file)}
        self.cli("init", "--encrypt")
        self.log = place / "serve.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.cli.program, "serve", "--port", "0"], env=self.cli.env, cwd=home, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert self.process.stdout is not None
        found = re.search(r"http://[0-9.:]+", self.process.stdout.readline())
        assert found is not None, self.log.read_text()
        self.url = found[0]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOPPED_SECONDS)
        finally:
            self.process.kill()
            assert self.process.stdout is not None
            self.process.stdout.close()

    def client(self, cache: Path) -> Repository:
        return Repository.open(self.url, cache=CacheSettings(cache))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "server")
    try:
        yield made
    finally:
        made.stop()


def test_a_client_without_the_key_writes_and_reads(server, files, tmp_path):
    cache = tmp_path / "cache"
    with server.client(cache) as client:
        assert client.registry.key_id() == ID
        version = put(client, files)
    assert found_below(server.place / "store") == []
    for attempt in ("fetched", "from the cache"):
        with server.client(cache) as client:
            assert contents(client, version, tmp_path / attempt)["large.bin"][0] == LARGE
            assert verify(client, [version]).damages == []
            if attempt == "from the cache":
                assert client.reader.bytes_fetched == 0
    # What the cache keeps is its user's own, and plain: it can be read without asking for a key.
    assert any("noise in" in line for line in found_below(cache))
    with Repository.open(str(server.place), credentials=credentials()) as there:
        assert verify(there, [version]).damages == []
        assert contents(there, version, tmp_path / "there")["noise.bin"][0] == NOISE
    for key in (KEY.hex(), keys.base64.b64encode(KEY).decode()):
        assert key not in server.log.read_text()


def test_small_files_are_fetched_by_the_sealed_table_of_contents(server, tmp_path):
    source = tmp_path / "many"
    source.mkdir()
    for number in range(400):
        (source / f"{number:04}.bin").write_bytes(blake3(b"%d" % number).digest(length=30_000))
    with server.client(tmp_path / "writing") as client:
        version = put(client, source)
    with server.client(tmp_path / "reading") as client:
        for number in range(400):
            entry = client.entry(version, f"{number:04}.bin")
            assert bytes(client.open_file(entry).read(0, 30_000)) == blake3(b"%d" % number).digest(length=30_000)
        assert client.reader._source._tables  # white box: reading in order led to the table


def test_what_a_client_spools_is_sealed(server, tmp_path):
    """Spools have no name: they are looked at through the descriptors of this process."""
    cache = tmp_path / "cache"
    with server.client(cache) as client, client.writing("put") as writing:
        writing.writer.add_bytes(TEXT)
        writing.writer.add_bytes(NOISE)
        writing.writer.add_bytes(LARGE)
        writing.writer.add_bytes(os.urandom(40 << 20))
        data = b""
        for path in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                target = os.readlink(path)
                if str(cache) in target and "(deleted)" in target:
                    data += path.read_bytes()
        assert len(data) > 9 << 20
        assert NOISE[1000:1032] not in data
        assert LARGE[-40:-8] not in data
        assert b"marked-plaintext" not in data


def test_putting_asks_nothing_more_than_without_encryption(server, files, tmp_path):
    with server.client(tmp_path / "cache") as client:
        put(client, files)
    server.stop()  # its log is complete then
    lines = [msgspec.json.decode(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    asked = [str(line.get("path", line)) for line in lines]
    assert asked
    assert not [path for path in asked if path.endswith("/key")]


@pytest.fixture
def remote(server) -> Iterator[RemoteRegistry]:
    connection = Connection(server.url)
    registry = RemoteRegistry(connection, project="default", memory=None)
    yield registry
    registry.close()


def sealed_pack(store: LocalStore, *chunks: bytes) -> tuple[PackRow, bytes]:
    upload = PackUpload(store, sealed=True)
    for plain in chunks:
        stored, flags = seal(plain)
        upload.append(digest(DATA, plain), len(plain), stored, flags)
    pack = upload.publish()
    return pack, store.read(pack_key(pack.digest), 0, pack.size)


def test_the_server_refuses_what_is_wrongly_sealed(server, remote, tmp_path):
    with (
        closing(LocalStore(tmp_path / "aside", create=True)) as aside,
        closing(LocalStore(server.place / "store/default", create=True)) as store,
    ):
        pack, data = sealed_pack(aside, TEXT, NOISE)
        put_object(store, pack_key(pack.digest), data)
        for wrong in (
            msgspec.structs.replace(pack, key=sealing.new_key()),
            msgspec.structs.replace(
                pack, chunks=(pack.chunks[0], msgspec.structs.replace(pack.chunks[1], digest=bytes(32)))
            ),
            msgspec.structs.replace(pack, chunks=(msgspec.structs.replace(pack.chunks[0], flags=2), pack.chunks[1])),
        ):
            with pytest.raises((Integrity, InvalidInput), match=r"are not the chunk blake3:"):
                remote.add_packs([wrong])
        for unkeyed in (msgspec.structs.replace(pack, key=b""), msgspec.structs.replace(pack, key=pack.key[:31])):
            with pytest.raises(InvalidInput):
                remote.add_packs([unkeyed])
        # A pack of plain chunks is refused, and one whose table of contents tells its digests.
        plain = ChunkRow(digest(DATA, NOISE), 0, len(NOISE), len(NOISE), 0)
        bare_pack = PackRow(blake3(NOISE).hexdigest(), len(NOISE), (plain,))
        put_object(store, pack_key(bare_pack.digest), NOISE)
        with pytest.raises(InvalidInput, match="project 'default' is encrypted, and pack"):
            remote.add_packs([bare_pack])
        put_object(store, index_key(pack.digest), encode_index(msgspec.structs.replace(pack, key=b"")))
        with pytest.raises(Integrity, match=r"\.idx is not the table of contents"):
            remote.add_packs([pack])
        store.delete(index_key(pack.digest))
        assert remote.packs() == []
        remote.add_packs([pack])
        place = remote.locate([digest(DATA, NOISE)])[digest(DATA, NOISE)]
        assert place.key == pack.key
        assert unseal(*bare(data[place.offset : place.offset + place.length], place, digest(DATA, NOISE))) == NOISE


def test_nodes_come_without_their_seals(server, files, tmp_path):
    with server.client(tmp_path / "cache") as client:
        version = put(client, files)
    with closing(Connection(server.url)) as connection:
        answer = connection.call(
            wire.Nodes, "POST", "/v1/projects/default/nodes", wire.NodesWanted([version.digest], 1 << 20)
        )
    assert len(answer.nodes) == 2
    assert not any(node.flags & FLAG_ENCRYPTED for node in answer.nodes)
    assert any(
        NAME.encode() in unseal(node.data, ChunkRow(node.digest, 0, 0, node.size, node.flags)) for node in answer.nodes
    )


def test_a_server_takes_up_a_new_key_from_the_same_file(server, files, tmp_path):
    with server.client(tmp_path / "one") as client:
        version = put(client, files)
    new = server.key_file.with_name("new.key")
    server.cli("rekey", "--new-key-file", new)
    # It knows the data keys that it has given out; others it cannot have before it is given the new key.
    expected = f"but {re.escape(str(server.key_file))} has the key {ID}"
    with server.client(tmp_path / "two") as client, pytest.raises(Access, match=expected):
        put(client, server.key_file.parent, "other")
    new.replace(server.key_file)
    deadline = time.monotonic() + 60
    while True:
        with server.client(tmp_path / "three") as client:
            try:
                put(client, files.parent / "files", "another")
                (files / "more.txt").write_text("more")
                put(client, files, "third")
                break
            except Access:
                assert time.monotonic() < deadline
                time.sleep(0.2)
    with server.client(tmp_path / "four") as client:
        assert contents(client, version, tmp_path / "out")["noise.bin"][0] == NOISE
    with closing(SQLRegistry(server.place / "registry.db")) as registry:
        assert registry.key_id() == sealing.key_id(keys.read_key(server.key_file)) != ID


def test_doctor_and_show_tell_which_key(server, files, tmp_path):
    server.cli("put", "ward", files)
    home = tmp_path / "client"
    home.mkdir()
    client = Cli(home)
    client.env["ARTIFACTFS_REPOSITORY"] = server.url
    assert f"encrypted with the key {ID}, which the server has" in client.run("doctor").stdout
    assert f"encryption   key {ID}" in client("show", "ward").stdout
    assert f"encrypted with the key {ID}, which is here and opens it" in server.cli.run("doctor").stdout
    assert client("get", "ward", "out").status == 0
    assert (home / "out/noise.bin").read_bytes() == NOISE
    message = client.refuses("rekey", status=2)
    assert message.startswith(f"keys are made and exchanged where the repository is, not through {server.url}")
