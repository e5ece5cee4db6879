"""An encrypted project in a bucket: the object store is handed nothing that it can read."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from artifactfs import sealing
from artifactfs.content.pack import rebuild_rows
from artifactfs.content.stored import StoredSource
from artifactfs.content.stores import ObjectStores
from artifactfs.content.writer import ContentWriter
from artifactfs.errors import Access, Integrity
from artifactfs.keys import ProjectKeys
from artifactfs.model.digest import DATA, TREE, digest
from artifactfs.registry.sql import SQLRegistry
from tests import s3
from tests.encryption.conftest import KEY, LARGE, NAME, NOISE, TEXT, credentials, traces


def test_an_object_store_gets_nothing_that_it_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    node = b"\x93\x01" + NAME.encode() * 3
    with s3.moto() as server:
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        with (
            closing(ObjectStores(f"s3://{s3.BUCKET}/team", spool=tmp_path / "spool", seconds=30)) as stores,
            closing(SQLRegistry(tmp_path / "registry.db", create=True, keys=ProjectKeys(credentials()))) as registry,
        ):
            registry.encrypt(KEY)
            store = stores.of_project("default")
            with ContentWriter(store, registry, session=None) as writer:
                for data in (TEXT, NOISE, LARGE):
                    writer.add_bytes(data)
                writer.add_node(TREE, node)
            kept = server.keys()
            assert len(kept) == 4
            for key in kept:
                body = server.client.get_object(Bucket=s3.BUCKET, Key=key)["Body"].read()
                assert [what for what, trace in traces().items() if trace in body] == []
            source = StoredSource(store, registry)
            assert source.fetch(digest(DATA, NOISE), DATA, ()) == NOISE
            assert source.fetch(digest(TREE, node), TREE, ()) == node
            place = registry.locate([digest(DATA, TEXT)])[digest(DATA, TEXT)]
            assert len(rebuild_rows(store, place.pack, place.key).chunks) > 5
            # Who can write to the bucket can only spoil it.
            (key,) = [key for key in kept if key.endswith(f"{place.pack}.pack")]
            body = bytearray(server.client.get_object(Bucket=s3.BUCKET, Key=key)["Body"].read())
            body[place.offset] ^= 1
            server.client.put_object(Bucket=s3.BUCKET, Key=key, Body=bytes(body))
            # By a process of later, as this one has at hand what it uploaded last.
            with (
                closing(ObjectStores(f"s3://{s3.BUCKET}/team", spool=tmp_path / "later", seconds=30)) as again,
                pytest.raises(Integrity, match=f"is damaged in pack {place.pack}"),
            ):
                StoredSource(again.of_project("default"), registry).fetch(digest(DATA, TEXT), DATA, ())
        with (
            closing(ObjectStores(f"s3://{s3.BUCKET}/team", spool=tmp_path / "spool", seconds=30)) as stores,
            closing(SQLRegistry(tmp_path / "registry.db")) as keyless,
            pytest.raises(Access, match=f"encrypted with the key {sealing.key_id(KEY)}, which is not here"),
        ):
            StoredSource(stores.of_project("default"), keyless).fetch(digest(DATA, NOISE), DATA, ())
