"""``serve --store`` as a person runs it: put, get, mount and commit with the packs in a bucket, and where it is remembered."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import s3
from tests.conftest import Cli, serving_commands
from tests.faults.proxy import Proxy
from tests.faults.stepping import files_of

PACK = r"/packs/.*\.pack"
SIGNED = "X-Amz-Signature="


@pytest.fixture
def far(moto: s3.Server) -> Iterator[Proxy]:
    """Before the object store."""
    proxy = Proxy(moto.port)
    yield proxy
    proxy.close()


@pytest.fixture
def host(tmp_path: Path, far: Proxy) -> Cli:
    """The machine of the server, which has the keys of the bucket."""
    home = tmp_path / "host"
    home.mkdir()
    made = Cli(home)
    made.env.update(s3.environ_of(far.url))
    return made


@pytest.fixture
def serve(host: Cli, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """``serve(*options)``: the address of the host's repository."""
    with serving_commands(host, tmp_path / "serve.log") as begin:
        yield begin


def test_a_team_works_on_a_bucket(cli: Cli, serve, far, moto, tmp_path, mounted):
    source = cli.home / "source"
    (source / "sub").mkdir(parents=True)
    (source / "large").write_bytes(os.urandom(6 << 20))
    (source / "sub/small").write_bytes(os.urandom(3000))
    url = serve("--store", f"s3://{s3.BUCKET}/team")
    near = Proxy(int(url.rpartition(":")[2]))
    try:
        cli.env.update(ARTIFACTFS_REPOSITORY=near.url, ARTIFACTFS_CACHE_DIR=str(cli.home / "one"))
        assert cli("put", "data", source).stdout == "data:v0\n"
        assert {key.split("/")[:2] == ["team", "default"] for key in moto.keys("")} == {True}
        cli.env["ARTIFACTFS_CACHE_DIR"] = str(cli.home / "two")
        cli("get", "data", "out")
        assert files_of(cli.home / "out") == files_of(source)
        assert far.requests(SIGNED)
        assert near.received(PACK) == 0
        cli.env["ARTIFACTFS_CACHE_DIR"] = str(cli.home / "three")
        root = mounted()
        assert (root / "data/v0/large").read_bytes() == (source / "large").read_bytes()
        (root / "data/staging/new").write_bytes(b"new")
        assert cli("commit", "data").stdout == "data:v1\n"
        assert (root / "data/latest/new").read_bytes() == b"new"
        shown = cli("status").stdout + (root / ".artifactfs/status.json").read_text()
        assert near.received(PACK) == 0
        assert "Signature" not in shown
        cli("unmount")  # which may still fetch what it expects to be read next
        before = len(far.requests(SIGNED))
        cli.env["ARTIFACTFS_CACHE_DIR"] = str(cli.home / "four")
        cli("--no-direct", "get", "data", "through")
        assert files_of(cli.home / "through") == {**files_of(source), "new": b"new"}
        cli(
            "get", "data:v0", "through-too", env={"ARTIFACTFS_DIRECT": "0", "ARTIFACTFS_CACHE_DIR": str(cli.home / "5")}
        )
        assert len(far.requests(SIGNED)) == before
        assert near.received(PACK) >= 12 << 20
    finally:
        near.close()
    for path in (*tmp_path.rglob("*.log"), *tmp_path.rglob("log")):
        assert "Signature" not in path.read_text(errors="replace"), path


def test_an_emulator_of_google_keeps_the_packs(cli: Cli, host: Cli, serve, far, moto, tmp_path):
    """It needs no keys, so nothing can be signed: clients read through the server, whose log says it once."""
    (cli.home / "file").write_bytes(os.urandom(6 << 20))
    host.env["STORAGE_EMULATOR_HOST"] = far.url
    with far.fault(s3.google, ""):
        cli.env["ARTIFACTFS_REPOSITORY"] = serve("--store", f"gs://{s3.BUCKET}/emulated")
        assert cli("put", "data", cli.home / "file").stdout == "data:v0\n"
        assert any(key.endswith(".pack") for key in moto.keys("emulated/"))
        for number, options in enumerate(([], ["--no-direct"])):
            cli(*options, "get", "data", f"out-{number}", env={"ARTIFACTFS_CACHE_DIR": str(cli.home / f"{number}")})
            assert files_of(cli.home / f"out-{number}") == {"file": (cli.home / "file").read_bytes()}
        assert host("verify").stderr.endswith(": everything is sound\n")
    said = "gs://bucket cannot be signed without credentials; set GOOGLE_APPLICATION_CREDENTIALS"
    assert (tmp_path / "serve.log").read_text().count(said) == 1


def test_the_bucket_is_remembered_and_another_one_refused(host, serve, far, moto, cli):
    url = serve("--store", f"s3://{s3.BUCKET}/remembered/")
    (host.home / "file").write_text("x")
    host("put", "data", host.home / "file", env={"ARTIFACTFS_REPOSITORY": url})
    # Without a word of it: the same one, for the server and for who opens the directory.
    again = serve()
    host("get", "data", "out", env={"ARTIFACTFS_REPOSITORY": again})
    assert (host.home / "out/file").read_text() == "x"
    assert host("verify").stderr.endswith(": everything is sound\n")
    other = f"s3://{s3.BUCKET}/other"
    said = host.refuses("serve", "--port", 0, "--store", other)
    assert said.startswith(
        f"the packs of this repository are in s3://{s3.BUCKET}/remembered, not in {other}; copy them"
    )
    assert host.refuses("serve", "--port", 0, env={"ARTIFACTFS_STORE": other}) == said
    assert "not in its directory" in host.refuses("serve", "--port", 0, "--store", "local")
    assert "say where with --store" in host.refuses("serve", "--port", 0, "--store-moved", status=2)
    for key in moto.keys("remembered/"):
        moto.client.copy_object(
            Bucket=s3.BUCKET, Key=key.replace("remembered", "other"), CopySource={"Bucket": s3.BUCKET, "Key": key}
        )
        moto.client.delete_object(Bucket=s3.BUCKET, Key=key)
    serve("--store", other, "--store-moved")
    assert host("verify").stderr.endswith(": everything is sound\n")


def test_packs_beside_the_registry_are_not_left_behind(host, serve):
    (host.home / "file").write_text("x")
    host("put", "data", host.home / "file")
    said = host.refuses("serve", "--port", 0, "--store", f"s3://{s3.BUCKET}/empty")
    assert said.startswith("the packs of this repository are in its directory, not in s3://")


@pytest.mark.parametrize(
    ("options", "environ", "status", "words"),
    [
        (["--store", "s3://nowhere/x"], {}, 1, "there is no bucket s3://nowhere"),
        (["--store", "http://host/x"], {}, 2, "looks like s3://bucket/prefix"),
        (["--store", "s3://user:secret@bucket/x"], {}, 2, "neither a user"),
        (
            ["--store", "s3://bucket/x"],
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "ARTIFACTFS_TIMEOUT": "2"},
            1,
            "cannot list s3://bucket",
        ),
    ],
)
def test_what_is_wrong_with_a_bucket_is_said_at_the_start(host, options, environ, status, words):
    finished = host.run("serve", "--port", 0, *options, env=environ)
    assert finished.status == status
    assert finished.stdout == ""
    assert words in finished.stderr.splitlines()[-1]
    assert "secret" not in finished.stderr
    # Nothing of it is remembered.
    marker: dict[str, Any] = json.loads((host.home / ".local/share/artifactfs/repository/repository.json").read_text())
    assert marker["format"] == 2
    assert host("verify").status == 0
