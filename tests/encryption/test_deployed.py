"""An encrypted project of servers on PostgreSQL and a bucket, by commands: made, used, searched for what is plain, rekeyed."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from artifactfs import keys, sealing
from artifactfs.registry.opening import open_registry
from tests import s3
from tests.conftest import Cli, serving_commands
from tests.encryption.conftest import KEY, LARGE, NAME, NOISE, TEXT, traces
from tests.faults.proxy import Proxy
from tests.postgres import Server

ID = sealing.key_id(KEY)
PACK = r"/packs/.*\.pack"
SIGNED = "X-Amz-Signature="


@pytest.fixture
def bucket(moto: s3.Server) -> Iterator[Proxy]:
    """Before the object store."""
    proxy = Proxy(moto.port)
    yield proxy
    proxy.close()


@pytest.fixture
def host(tmp_path: Path, bucket: Proxy, key_file: Path, postgres_url: str) -> Cli:
    """The machine of a server: the bucket's keys, the project's key, and the database."""
    home = tmp_path / "host"
    home.mkdir()
    made = Cli(home)
    made.env |= s3.environ_of(bucket.url)
    made.env |= {"ARTIFACTFS_KEY_FILE": str(key_file), "ARTIFACTFS_REGISTRY": postgres_url, "AWS_ALLOW_HTTP": "true"}
    return made


@pytest.fixture
def serve(host: Cli, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Begins a server on the host; its address."""
    with serving_commands(host, tmp_path / "serve.log") as begin:
        yield partial(begin, "--store", f"s3://{s3.BUCKET}/{tmp_path.name}")


def dumped(postgres: Server, url: str) -> str:
    """All that the database holds, as text; bytes are hexadecimal digits."""
    program = postgres.programs / "pg_dump"
    return subprocess.run([program, "--dbname", url], capture_output=True, check=True, text=True, timeout=60).stdout


def test_a_team_works_on_an_encrypted_project_without_its_key(
    cli: Cli, host: Cli, serve, bucket, moto, postgres: Server, postgres_url, files, tmp_path, mounted
):
    made = host("init", "--encrypt")
    assert re.fullmatch(r"the registry postgresql://\S+", made.stdout.strip())
    assert f"project default is encrypted with the key {ID} from {tmp_path / 'project.key'}" in made.stderr
    url = serve()
    near = Proxy(int(url.rpartition(":")[2]))
    try:
        cli.env |= {"ARTIFACTFS_REPOSITORY": near.url, "ARTIFACTFS_CACHE_DIR": str(cli.home / "one")}
        cli("put", "ward", files, "--metadata", "ward=seven")
        assert f"encryption   key {ID}" in cli("show", "ward").stdout
        cli.env["ARTIFACTFS_CACHE_DIR"] = str(cli.home / "two")
        cli("get", "ward", "out")
        assert (cli.home / "out/large.bin").read_bytes() == LARGE
        assert (cli.home / f"out/ward/{NAME}.txt").read_bytes() == TEXT
        # Straight from the bucket, sealed, and opened with the keys that came with the places.
        assert bucket.requests(SIGNED)
        assert near.received(PACK) == 0
        cli.env["ARTIFACTFS_CACHE_DIR"] = str(cli.home / "three")
        root = mounted()
        assert (root / "ward/v0/noise.bin").read_bytes() == NOISE
        (root / "ward/staging/new.txt").write_bytes(TEXT + NAME.encode())
        cli("commit", "ward")
        assert (root / "ward/latest/new.txt").read_bytes() == TEXT + NAME.encode()
        assert near.received(PACK) == 0
        cli.env["ARTIFACTFS_CACHE_DIR"] = str(cli.home / "four")
        cli("cache", "warm", "ward:v1")
        assert "everything is sound" in cli("verify").stderr
        cli.env["ARTIFACTFS_CACHE_DIR"] = str(cli.home / "five")
        cli("--no-direct", "get", "ward:v0", "through")
        assert (cli.home / "through/large.bin").read_bytes() == LARGE
        # To another repository, and back to another artifact's place.
        cli("copy", "ward", "--all-versions", "--to", cli.home / "copied")
        cli("--repository", cli.home / "copied", "copy", "ward:v0", "--to", near.url, "--to-project", "other")
    finally:
        near.close()
    objects = [
        moto.client.get_object(Bucket=s3.BUCKET, Key=key)["Body"].read()
        for key in moto.keys(f"{tmp_path.name}/default/")
    ]
    assert len(objects) >= 4
    assert [what for what, trace in traces().items() if any(trace in data for data in objects)] == []
    dump = dumped(postgres, postgres_url)
    plain = {what for what, trace in traces().items() if trace.hex() in dump or trace.decode("latin-1") in dump}
    assert plain == {"the digest of a chunk"}  # as the page says: who has a file can tell whether it is there
    assert "seven" in dump  # names and metadata are not encrypted
    with closing(open_registry(postgres_url)) as registry:
        assert registry.key_id() == ID


def test_rekey_in_the_database(cli: Cli, host: Cli, serve, files, key_file, postgres_url, tmp_path):
    host("init", "--encrypt")
    url = serve()
    cli.env |= {"ARTIFACTFS_REPOSITORY": url}
    cli("put", "ward", files)
    done = host("rekey", "--new-key-file", tmp_path / "new.key")
    assert done.lines == ["2 packs of project default rekeyed"]
    new = sealing.key_id(keys.read_key(tmp_path / "new.key"))
    message = host.refuses("rekey")
    assert f"is encrypted with the key {new}, but {key_file} has the key {ID}; give the right one" in message
    assert not list((host.home / ".config/artifactfs/keys").glob("*"))  # the one that was made in vain is gone
    (tmp_path / "new.key").replace(key_file)
    later = serve()
    cli("--repository", later, "get", "ward", "out", env={"ARTIFACTFS_CACHE_DIR": str(cli.home / "later")})
    assert (cli.home / "out/noise.bin").read_bytes() == NOISE
    assert cli.refuses("rekey", status=2).startswith("keys are made and exchanged where the repository is")


def test_what_is_refused_in_a_database(cli: Cli, host: Cli, postgres: Server, postgres_url, empty_database, key_file):
    assert "already, with the key" in (
        host("init", "--encrypt") and host.refuses("init", "--encrypt", "--key-file", "b.key")
    )
    assert not (host.home / "b.key").exists()
    assert "project 'open' is not encrypted" in host.refuses("--project", "open", "rekey", status=2)
    words = host.refuses("init", host.home / "data", "--encrypt", status=2)
    assert words.startswith(f"the project is in the directory {host.home / 'data'} or in the database of --registry")
    words = host.refuses("init", "--registry", postgres_url, status=2)
    assert words.startswith("--registry is of --encrypt")
    # The variable of a server does not keep a directory from being made.
    host("init", host.home / "data")
    assert (host.home / "data/repository.json").is_file()
    assert "takes the URL of a database" in host.refuses("rekey", "--registry", "https://db.example.com", status=2)
    assert "has no tables yet" in host.refuses("rekey", "--registry", postgres.url(empty_database))
    host("init", "--encrypt", "--registry", postgres.url(empty_database))
    words = host.refuses("init", "--encrypt", "--registry", "postgresql://u:secret@127.0.0.1/d", status=2)
    assert "password" in words
    assert "secret" not in words
