"""References to files of this machine, and what hashing without storing gives."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.errors import Access, Integrity, InvalidInput, NotFound, Unavailable
from artifactfs.model.digest import DATA, digest, format_digest
from artifactfs.references import files
from artifactfs.references.files import path_of, uri_of
from artifactfs.references.hashing import hash_stream
from artifactfs.references.references import resolve
from artifactfs.repository import Repository
from tests.content.stores import noise
from tests.references.conftest import add, log, whole

MEBI = 1 << 20


@pytest.mark.parametrize("size", [0, 1, 4 * MEBI, 4 * MEBI + 1, 12 * MEBI, 12 * MEBI + 1, 31 * MEBI])
@pytest.mark.parametrize("most", [1 << 20, 77_777])
def test_a_stream_has_the_digest_that_its_file_has_in_a_version(repository: Repository, size: int, most: int):
    data = noise(1, size)
    position = 0

    def read(length: int) -> bytes:
        nonlocal position
        part = data[position : position + min(length, most)]
        position += len(part)
        return part

    hashed = hash_stream(read)
    with repository.writing("put") as writing:
        assert writing.writer.add_bytes(data).digest == hashed.digest
    assert hashed.size == size
    assert bool(hashed.nodes) == (size > 4 * MEBI)


def test_a_file_is_read_as_it_was(repository: Repository, tmp_path: Path):
    path = tmp_path / "naïve name #1?.bin"
    data = noise(2, 9 * MEBI)
    path.write_bytes(data)
    entry = add(repository, uri_of(str(path)))
    assert (entry.name, entry.size, entry.etag) == (path.name, len(data), None)
    assert entry.uri.startswith("file:///")
    file = repository.open_reference(entry)
    assert file.read(5 * MEBI, 100) == data[5 * MEBI : 5 * MEBI + 100]
    assert whole(repository, entry) == data
    repository.references.check(entry)


def test_a_file_is_not_copied_into_the_cache(repository: Repository, tmp_path: Path):
    path = tmp_path / "a"
    path.write_bytes(noise(3, 6 * MEBI))
    whole(repository, add(repository, uri_of(str(path))))
    assert not (tmp_path / "cache").exists()


def test_a_directory_is_all_its_files_in_order(repository: Repository, tmp_path: Path):
    root = tmp_path / "raw"
    for name in ("b.csv", "a/2.csv", "a/1.csv", "a-b.csv"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "linked.csv").symlink_to("b.csv")
    (root / "elsewhere").symlink_to("a")
    (root / "empty").mkdir()
    seen: list[int] = []
    for uri in (f"file://{root}", f"file://{root}/", f"file://localhost{root}", f"file:{root}"):
        found = log(repository, repository.references.resolve(uri, progress=seen.append))
        assert list(found) == [
            "a/1.csv",
            "a/2.csv",
            "a-b.csv",
            "b.csv",
            "elsewhere/1.csv",
            "elsewhere/2.csv",
            "linked.csv",
        ]
    assert seen == [1, 2, 3, 4, 5, 6, 7] * 4
    assert whole(repository, found["linked.csv"]) == b"b.csv"
    with pytest.raises(InvalidInput, match="more than 6 objects"):
        list(resolve(f"file://{root}", limit=6))


def test_what_cannot_be_referred_to_is_named(tmp_path: Path):
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "back").symlink_to(".")
    (tmp_path / "fifo").mkdir()
    os.mkfifo(tmp_path / "fifo" / "pipe")
    (tmp_path / "dangling").mkdir()
    (tmp_path / "dangling" / "link").symlink_to("nowhere")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bytes").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "bytes") + b"/\xff")).touch()
    for name, kind, words in (
        ("loop", InvalidInput, "back"),
        ("fifo", InvalidInput, "neither a file nor a directory"),
        ("dangling", NotFound, "link"),
        ("empty", NotFound, "without files"),
        ("bytes", InvalidInput, "not valid UTF-8"),
        ("none", NotFound, "none"),
    ):
        with pytest.raises(kind, match=words):
            list(resolve(f"file://{tmp_path}/{name}"))


@pytest.mark.parametrize("uri", ["file://host/a", "file:a", "file://a", "file:", "file:///a%00b"])
def test_uris_that_are_no_path_here_are_refused(uri: str):
    with pytest.raises(InvalidInput, match="not a file URI"):
        list(resolve(uri))


def test_a_file_that_cannot_be_read_is_an_access_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a"
    path.touch()

    def refuse(*_args: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(Access, match="permission denied"):
        list(resolve(f"file://{path}"))


def test_a_file_that_changes_whenever_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a"
    path.write_bytes(b"x")
    real = files.hash_stream

    def growing(read):
        found = real(read)
        path.write_bytes(path.read_bytes() + b"x")
        return found

    monkeypatch.setattr(files, "hash_stream", growing)
    with pytest.raises(Unavailable, match="changed each of 3 times"):
        list(resolve(f"file://{path}"))


def test_a_changed_file_is_an_error_that_names_both_checksums(repository: Repository, tmp_path: Path):
    (tmp_path / "a").write_bytes(b"hello")
    (tmp_path / "b").write_bytes(b"other")
    entry = add(repository, f"file://{tmp_path}/a")
    other = add(repository, f"file://{tmp_path}/b")
    for now in (b"HELLO", b"hello!", b""):
        (tmp_path / "a").write_bytes(now)
        for read in (lambda: repository.open_reference(entry).read(0, 5), lambda: repository.references.check(entry)):
            with pytest.raises(Integrity) as caught:
                read()
            assert entry.uri in str(caught.value)
            assert f"recorded checksum {entry.checksum}" in str(caught.value)
            assert f"found {format_digest(digest(DATA, now))}" in str(caught.value)
    (tmp_path / "a").unlink()
    with pytest.raises(NotFound, match=str(tmp_path / "a")):
        repository.open_reference(entry).read(0, 5)
    assert whole(repository, other) == b"other"


def test_a_large_file_that_was_cut_has_changed(repository: Repository, tmp_path: Path):
    path = tmp_path / "a"
    path.write_bytes(noise(4, 9 * MEBI))
    entry = add(repository, f"file://{path}")
    os.truncate(path, 7 * MEBI)
    with pytest.raises(Integrity, match=f"recorded size {9 * MEBI}, found {7 * MEBI}"):
        repository.open_reference(entry).read(0, 5)
    with pytest.raises(Integrity, match="recorded checksum"):
        repository.references.check(entry)


def test_without_checksum_a_change_within_one_opening_is_noticed(repository: Repository, tmp_path: Path):
    path = tmp_path / "a"
    path.write_bytes(noise(5, 3 * MEBI))
    os.utime(path, ns=(1, 1))  # another time than the change's, however coarse the kernel's clock is
    entry = add(repository, f"file://{path}", checksum=False)
    file = repository.open_reference(entry)
    assert file.size == 3 * MEBI
    assert not file.ready(0, 1)
    assert file.read(0, 5) == noise(5, 3 * MEBI)[:5]
    path.write_bytes(b"x" * 3 * MEBI)
    with pytest.raises(Integrity, match="time of change"):
        file.read(2 * MEBI, 5)
    assert whole(repository, entry) == b"x" * 3 * MEBI


def test_a_chunk_list_that_was_not_stored_is_an_error(repository: Repository, tmp_path: Path):
    path = tmp_path / "a"
    path.write_bytes(noise(6, 9 * MEBI))
    (found,) = repository.references.resolve(f"file://{path}")
    with pytest.raises(Integrity, match="run `artifactfs verify`"):
        repository.open_reference(found.entry).read(0, 5)


@given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1))
def test_a_path_survives_its_uri(text: str):
    path = os.path.normpath(f"/{text}")
    assert path_of(uri_of(path)) == "/" + path.strip("/")


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(repository: Repository, tmp_path: Path):
    source = tmp_path / "source"
    source.write_text("data")
    entry = add(repository, source.as_uri())
    source.unlink()
    os.mkfifo(source)
    with pytest.raises(InvalidInput, match="neither a file nor a directory"):
        whole(repository, entry)
    # Others of this process may be opened and closed meanwhile by what earlier tests have left.
    opened = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            opened.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    assert opened
    assert str(source) not in opened
