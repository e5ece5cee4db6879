"""Drafts on a real embedded repository: what becomes a version, and what is refused."""

from __future__ import annotations

import os
import random
import socket
import threading
from pathlib import Path

import pytest

from artifactfs.content.writer import ContentWriter
from artifactfs.draft import Draft
from artifactfs.errors import Conflict, InvalidInput, NotFound
from artifactfs.model.names import parse_address
from artifactfs.model.tree import DirEntry, FileEntry, LinkEntry, RefEntry
from artifactfs.repository import Repository


@pytest.fixture
def repository(tmp_path):
    with Repository.create(str(tmp_path / "repository")) as opened:
        yield opened


@pytest.fixture
def guide(tmp_path):
    """The example directory of the guide that users know."""
    root = tmp_path / "guide"
    (root / "images").mkdir(parents=True)
    (root / "checkpoints").mkdir()
    for name in ("images/cat.png", "images/dog.png", "checkpoints/model.h5", "model.h5"):
        (root / name).write_bytes(name.encode() * 100)
    return root


def put(repository, *sources, name="data", follow_links=False, **options):
    draft = Draft(repository, follow_links=follow_links)
    for source in sources:
        draft.add(*source) if isinstance(source, tuple) else draft.add(source)
    return draft.commit(name, **options), draft.stats


def paths(repository, version):
    return dict(repository.trees.walk(version.digest))


def names(repository, version):
    return [path for path, entry in paths(repository, version).items() if not isinstance(entry, DirEntry)]


def test_a_file_has_its_base_name(repository, guide):
    result, _ = put(repository, guide / "checkpoints/model.h5")
    assert names(repository, result.version) == ["model.h5"]


def test_a_file_can_have_another_name(repository, guide):
    result, _ = put(repository, (guide / "model.h5", "models/mymodel.h5"))
    assert names(repository, result.version) == ["models/mymodel.h5"]


def test_a_directory_s_contents_are_at_the_root(repository, guide):
    result, _ = put(repository, guide / "images")
    assert names(repository, result.version) == ["cat.png", "dog.png"]


def test_a_directory_s_contents_can_be_below_a_name(repository, guide):
    result, _ = put(repository, (guide / "images", "images"))
    assert names(repository, result.version) == ["images/cat.png", "images/dog.png"]


def test_sources_merge(repository, guide):
    result, _ = put(repository, guide, (guide / "images", "images/more"), (guide / "model.h5", "images/more/m.h5"))
    assert names(repository, result.version) == [
        "checkpoints/model.h5",
        "images/cat.png",
        "images/dog.png",
        "images/more/cat.png",
        "images/more/dog.png",
        "images/more/m.h5",
        "model.h5",
    ]


def test_bytes_kinds_and_executable_bits_are_kept(repository, tmp_path):
    root = tmp_path / "tree"
    (root / "empty").mkdir(parents=True)
    (root / "tool").write_text("#!/bin/sh\n")
    (root / "tool").chmod(0o755)
    (root / "nothing").write_bytes(b"")
    (root / "link").symlink_to("empty/../tool")
    result, _ = put(repository, root)
    found = paths(repository, result.version)
    assert found["empty"] == DirEntry("empty", found["empty"].digest, 0, 0, 0)
    assert found["tool"].executable
    assert not found["nothing"].executable
    assert found["link"] == LinkEntry("link", "empty/../tool")
    assert bytes(repository.open_file(found["tool"]).read(0, 100)) == b"#!/bin/sh\n"
    assert bytes(repository.open_file(found["nothing"]).read(0, 100)) == b""
    assert (result.version.files, result.version.entries, result.version.size) == (3, 4, 10)


def test_the_same_contents_make_no_version_and_store_nothing(repository, guide):
    first, _ = put(repository, guide, aliases=("best",))
    again, stats = put(repository, guide, aliases=("good",))
    assert first.created
    assert not again.created
    assert again.version.number == 0
    assert again.version.aliases == ("best", "good", "latest")
    assert (stats.bytes_stored, stats.chunks_new) == (0, 0)


def test_contents_of_an_older_version_move_the_aliases_back(repository, guide):
    put(repository, guide, description="first", metadata={"n": 1})
    (guide / "model.h5").write_text("changed")
    second, _ = put(repository, guide)
    assert second.version.number == 1
    (guide / "model.h5").write_bytes(b"model.h5" * 100)
    third, _ = put(repository, guide, description="third", metadata={"n": 3})
    assert (third.created, third.version.number) == (False, 0)
    assert (third.version.description, third.version.metadata) == ("first", {"n": 1})
    assert repository.resolve(parse_address("data")).number == 0


def test_the_digest_does_not_depend_on_how_it_was_added(repository, guide):
    whole, _ = put(repository, guide, name="whole")
    parts, _ = put(
        repository,
        (guide / "model.h5", "model.h5"),
        (guide / "images/dog.png", "images/dog.png"),
        (guide / "checkpoints", "checkpoints"),
        (guide / "images/cat.png", "images/cat.png"),
        name="parts",
    )
    assert whole.version.digest == parts.version.digest


def test_a_symlink_that_leaves_the_artifact_is_refused_by_name(repository, guide):
    (guide / "images/up").symlink_to("../model.h5")
    put(repository, guide, name="inside")
    (guide / "images/out").symlink_to("../../secret")
    (guide / "absolute").symlink_to("/etc/passwd")
    with pytest.raises(InvalidInput) as caught:
        put(repository, guide)
    assert "images/out" in str(caught.value)
    assert "absolute" in str(caught.value)
    assert "--follow-links" in str(caught.value)
    assert repository.registry.artifact("data") is None


def test_symlinks_can_be_followed(repository, guide, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/far.txt").write_text("far")
    (guide / "there").symlink_to(tmp_path / "elsewhere")
    (guide / "file").symlink_to(tmp_path / "elsewhere/far.txt")
    result, _ = put(repository, guide, follow_links=True)
    assert {"there/far.txt", "file"} <= set(names(repository, result.version))


def test_a_loop_of_followed_symlinks_is_refused(repository, guide):
    (guide / "images/loop").symlink_to("..")
    with pytest.raises(InvalidInput) as caught:
        put(repository, guide, follow_links=True)
    assert "leads back" in str(caught.value)


def test_a_symlink_given_by_name_is_followed(repository, guide, tmp_path):
    (tmp_path / "link").symlink_to(guide / "model.h5")
    result, _ = put(repository, tmp_path / "link")
    assert isinstance(paths(repository, result.version)["link"], FileEntry)


def test_what_is_no_file_is_refused_by_name(repository, guide):
    os.mkfifo(guide / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(guide / "socket"))
    try:
        with pytest.raises(InvalidInput) as caught:
            put(repository, guide)
    finally:
        listener.close()
    assert "fifo: a FIFO cannot be stored" in str(caught.value)
    assert "socket: a socket cannot be stored" in str(caught.value)


def test_every_bad_file_is_named_up_to_20_and_nothing_is_committed(repository, guide):
    for number in range(30):
        os.symlink("/nowhere", guide / f"bad{number:02d}")
    with pytest.raises(InvalidInput) as caught:
        put(repository, guide)
    text = str(caught.value)
    assert text.startswith("30 files cannot be stored; nothing was committed:")
    assert text.count("/guide/bad") == 20
    assert text.endswith("and 10 more")
    assert repository.registry.artifacts() == []


def test_names_that_are_no_utf8_are_refused(repository, guide):
    os.close(os.open(os.fsencode(guide) + b"/\xff\xfe", os.O_CREAT | os.O_WRONLY))
    with pytest.raises(InvalidInput) as caught:
        put(repository, guide)
    assert "not valid UTF-8" in str(caught.value)


def test_a_missing_source_is_named(repository, tmp_path):
    with pytest.raises(NotFound, match="nope"):
        put(repository, tmp_path / "nope")


def test_a_path_added_twice_is_refused(repository, guide):
    draft = Draft(repository)
    draft.add(guide / "model.h5")
    with pytest.raises(InvalidInput, match="twice"):
        draft.add(guide / "checkpoints/model.h5")
    with pytest.raises(InvalidInput, match="added before"):
        put(repository, guide, (guide / "checkpoints", None))


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../b", "a//b"])
def test_a_name_that_leaves_the_artifact_is_refused(repository, guide, name):
    with pytest.raises(InvalidInput):
        Draft(repository).add(guide / "model.h5", name)


def test_the_repository_is_not_put_into_itself(repository, tmp_path):
    with pytest.raises(InvalidInput, match="contains the repository"):
        Draft(repository).add(tmp_path)


def test_another_type_is_a_conflict(repository, guide):
    put(repository, guide, type="model")
    with pytest.raises(Conflict, match="model"):
        put(repository, guide / "images", type="dataset")
    result, _ = put(repository, guide / "images")
    assert result.version.type == "model"


def test_a_file_that_changes_while_it_is_read_is_read_again(repository, tmp_path, monkeypatch):
    path = tmp_path / "log"
    path.write_bytes(b"a" * 1000)
    reads = []
    add_file = ContentWriter.add_file

    def grow_once(self, descriptor):
        content = add_file(self, descriptor)
        if not reads:
            with path.open("ab") as file:
                file.write(b"b")
        reads.append(content.size)
        return content

    monkeypatch.setattr(ContentWriter, "add_file", grow_once)
    result, _ = put(repository, path)
    assert reads == [1000, 1001]
    assert result.version.size == 1001


def test_a_file_that_never_rests_is_refused_by_name(repository, tmp_path, monkeypatch):
    path = tmp_path / "log"
    path.write_bytes(b"a" * 1000)
    add_file = ContentWriter.add_file

    def grow(self, descriptor):
        content = add_file(self, descriptor)
        with path.open("ab") as file:
            file.write(b"b")
        return content

    monkeypatch.setattr(ContentWriter, "add_file", grow)
    with pytest.raises(InvalidInput, match="log: the file changed"):
        put(repository, path)
    assert repository.registry.artifacts() == []


def test_references(repository, guide):
    draft = Draft(repository)
    draft.add(guide / "model.h5")
    draft.add_reference("s3://bucket/raw/data.csv", checksum=False)
    draft.add_reference("https://example.org/x", "far/x", checksum=False)
    found = paths(repository, draft.commit("data").version)
    assert found["data.csv"] == RefEntry("data.csv", "s3://bucket/raw/data.csv", None, None, None, None)
    assert found["far/x"].uri == "https://example.org/x"
    with pytest.raises(InvalidInput, match="URI"):
        draft.add_reference("no uri")


def test_a_one_byte_change_in_a_large_file_stores_little(repository, tmp_path):
    size = 256 << 20
    path = tmp_path / "large.bin"
    source = random.Random(1)
    with path.open("wb") as file:
        for _ in range(size >> 20):
            file.write(source.randbytes(1 << 20))
    _, first = put(repository, path)
    assert first.bytes_stored >= size
    with path.open("r+b") as file:
        file.seek(100_000_001)
        byte = file.read(1)[0]
        file.seek(100_000_001)
        file.write(bytes([byte ^ 1]))
    result, second = put(repository, path)
    assert result.version.number == 1
    assert second.bytes_stored <= 8 << 20


def test_two_puts_of_one_artifact_at_once_are_two_versions(repository, tmp_path):
    for number in range(8):
        (tmp_path / f"f{number}").write_text(str(number))
    results = []

    def work(number):
        results.append(put(repository, tmp_path / f"f{number}")[0].version.number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(results) == list(range(8))


def test_measure_counts_what_will_be_read(repository, guide):
    draft = Draft(repository)
    draft.add(Path(guide))
    assert draft.measure() == (4, sum(path.stat().st_size for path in guide.rglob("*") if path.is_file()))
