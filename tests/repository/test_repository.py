"""Opening and making repositories, resolving addresses, exporting and verifying."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from artifactfs.draft import Draft
from artifactfs.errors import Conflict, Format, InvalidInput, NotFound
from artifactfs.export import export
from artifactfs.model.names import Address, parse_address
from artifactfs.repository import Repository
from artifactfs.upkeep import verify


@pytest.fixture
def place(tmp_path):
    return tmp_path / "repository"


@pytest.fixture
def repository(place):
    with Repository.create(str(place)) as opened:
        yield opened


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    (root / "sub/deep").mkdir(parents=True)
    (root / "hollow").mkdir()
    for number in range(50):
        (root / f"sub/f{number:02d}").write_bytes(os.urandom(3000))
    (root / "sub/deep/large").write_bytes(os.urandom(9 << 20))
    (root / "run").write_text("#!/bin/sh\n")
    (root / "run").chmod(0o755)
    (root / "link").symlink_to("sub/f00")
    return root


def put(repository, source, name="data"):
    draft = Draft(repository)
    draft.add(source)
    return draft.commit(name).version


def snapshot(root):
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        if path.is_symlink():
            found[str(path.relative_to(root))] = os.readlink(path)
        elif path.is_dir():
            found[str(path.relative_to(root))] = None
        else:
            found[str(path.relative_to(root))] = (path.read_bytes(), bool(status.st_mode & 0o111))
    return found


def test_a_repository_is_made_once(place):
    Repository.create(str(place)).close()
    with pytest.raises(Conflict):
        Repository.create(str(place))
    Repository.open(str(place)).close()


def test_open_or_create_makes_it_on_first_use_from_many_processes_at_once(place):
    code = "import sys; from artifactfs.repository import Repository; Repository.open_or_create(sys.argv[1]).close()"
    workers = [subprocess.Popen([sys.executable, "-c", code, str(place)]) for _ in range(4)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0, 0]


def test_where_nothing_is_init_is_named(place):
    with pytest.raises(NotFound, match="artifactfs init"):
        Repository.open(str(place))


def test_a_directory_with_other_things_is_no_repository(place):
    place.mkdir()
    (place / "thesis.tex").write_text("x")
    with pytest.raises(InvalidInput, match="not an ArtifactFS repository"):
        Repository.open(str(place))
    with pytest.raises(InvalidInput, match="not empty"):
        Repository.create(str(place))
    assert [item.name for item in place.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_repository(place):
    place.write_text("x")
    with pytest.raises(InvalidInput):
        Repository.open(str(place))


def test_a_newer_format_is_refused_with_both_numbers(repository, place):
    (place / "repository.json").write_text(json.dumps({"magic": "artifactfs-repository", "format": 99}))
    with pytest.raises(Format, match=r"format 99.*format 2"):
        Repository.open(str(place))


def test_a_damaged_marker_is_a_format_error(repository, place):
    (place / "repository.json").write_bytes(b"\0\0")
    with pytest.raises(Format, match=r"repository\.json"):
        Repository.open(str(place))


def test_other_schemes_are_refused_clearly():
    with pytest.raises(InvalidInput, match="a repository is a directory, or http"):
        Repository.open("ftp://host/x")


def test_resolving(repository, tree):
    first = put(repository, tree)
    (tree / "new").write_text("x")
    second = put(repository, tree)
    resolve = lambda text: repository.resolve(parse_address(text)).number  # noqa: E731
    assert (resolve("data"), resolve("data:v0"), resolve("data:latest"), resolve("default/data:v1")) == (1, 0, 1, 1)
    assert repository.resolve(Address(None, "data", digest=first.digest)).number == 0
    assert second.number == 1


@pytest.mark.parametrize(
    ("address", "said"),
    [("data:v9", "v0"), ("data:best", "latest"), ("dta", "did you mean data"), ("other/data:v0", "--project other")],
)
def test_what_is_not_there_is_answered_with_what_is(repository, tree, address, said):
    put(repository, tree)
    with pytest.raises((NotFound, InvalidInput), match=said):
        repository.resolve(parse_address(address))


def test_an_entry_that_is_not_there_names_the_version(repository, tree):
    version = put(repository, tree)
    with pytest.raises(NotFound, match="data:v0 has no 'sub/nope'"):
        repository.find(version, "sub/nope")


def test_export_gives_the_tree_back(repository, tree, tmp_path):
    version = put(repository, tree)
    result = export(repository, version, "", tmp_path / "out")
    assert snapshot(tmp_path / "out") == snapshot(tree)
    assert (result.written, result.kept) == (53, 0)
    assert (tmp_path / "out/run").stat().st_mtime_ns == version.created


def test_export_writes_only_what_is_not_there(repository, tree, tmp_path):
    version = put(repository, tree)
    out = tmp_path / "out"
    export(repository, version, "", out)
    (out / "sub/f07").unlink()
    changed = out / "sub/f08"
    status = changed.stat()
    changed.write_bytes(b"\0" * status.st_size)
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))
    (out / "mine").write_text("kept")
    result = export(repository, version, "", out)
    assert (result.written, result.kept) == (2, 51)
    (out / "mine").unlink()
    assert snapshot(out) == snapshot(tree)


def test_export_of_a_path_keeps_its_place(repository, tree, tmp_path):
    version = put(repository, tree)
    export(repository, version, "sub/deep", tmp_path / "out")
    export(repository, version, "run", tmp_path / "out")
    assert set(snapshot(tmp_path / "out")) == {"sub", "sub/deep", "sub/deep/large", "run"}


def test_export_does_not_follow_a_planted_symlink(repository, tree, tmp_path):
    version = put(repository, tree)
    (tmp_path / "out").mkdir()
    (tmp_path / "victim").mkdir()
    (tmp_path / "out/sub").symlink_to(tmp_path / "victim")
    with pytest.raises(Conflict, match="in the way"):
        export(repository, version, "", tmp_path / "out")
    assert list((tmp_path / "victim").iterdir()) == []


def test_export_makes_a_symlink_that_leads_out_names_it_and_never_follows_it(repository, tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.mkdir()
    (tmp_path / "hostile/sub").mkdir(parents=True)
    (tmp_path / "hostile/sub/up").symlink_to("../../victim")
    (tmp_path / "hostile/there").symlink_to(victim)
    (tmp_path / "hostile/file").symlink_to(victim / "file")
    (tmp_path / "hostile/inward").symlink_to("sub/../file")
    with monkeypatch.context() as patched:  # a client that keeps no rule
        patched.setattr("artifactfs.building.leaves_artifact", lambda directory, target: False)
        hostile = put(repository, tmp_path / "hostile")
    out = tmp_path / "out"
    for _ in range(2):  # it is named when it is there already, too
        outward = export(repository, hostile, "", out).outward
        assert outward == [f"file -> {victim}/file", "sub/up -> ../../victim", f"there -> {victim}"]
    assert export(repository, hostile, "sub/up", tmp_path / "part").outward == ["sub/up -> ../../victim"]
    assert os.readlink(out / "there") == str(victim)
    later = tmp_path / "later"
    (later / "there/deep").mkdir(parents=True)
    (later / "there/deep/x").write_text("x")
    (later / "file").write_text("new")
    second = put(repository, later)
    for path in ("", "there", "there/deep", "there/deep/x"):
        with pytest.raises(Conflict, match="out/there is in the way"):
            export(repository, second, path, out)
    export(repository, second, "file", out)
    assert (out / "file").read_text() == "new"
    assert not (out / "file").is_symlink()  # replaced, not followed
    assert list(victim.iterdir()) == []


def test_a_symlink_that_cannot_be_made_is_named_and_the_rest_comes(repository, tmp_path, monkeypatch):
    (tmp_path / "source").mkdir()
    (tmp_path / "source/link").symlink_to("target")
    (tmp_path / "source/more").write_text("more")
    with monkeypatch.context() as patched:
        patched.setattr("artifactfs.building.link_target", lambda *_: "a\0b")
        version = put(repository, tmp_path / "source")
    result = export(repository, version, "", tmp_path / "out")
    assert result.failures == ["data:v0/link: no symlink can have the target 'a\\x00b'"]
    assert snapshot(tmp_path / "out") == {"more": (b"more", False)}


def damage(place, reader=None):
    """Flip one byte in the middle of the largest pack."""
    pack = max(place.rglob("*.pack"), key=lambda path: path.stat().st_size)
    with pack.open("r+b") as file:
        file.seek(pack.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0xFF]))


def test_verify_of_a_sound_repository_reads_every_chunk_once(repository, tree):
    put(repository, tree)
    (tree / "new").write_text("x")
    put(repository, tree)
    report = verify(repository, repository.registry.versions("data"))
    assert report.damages == []
    assert report.versions == 2
    assert report.bytes_checked == sum(
        path.stat().st_size for path in tree.rglob("*") if path.is_file() and not path.is_symlink()
    )


def test_verify_names_every_file_that_a_damage_hits_and_others_stay_readable(repository, place, tree, tmp_path):
    put(repository, tree)
    (tree / "new").write_text("x")
    shutil.copy(tree / "sub/deep/large", tree / "copy")
    version = put(repository, tree)
    repository.close()
    damage(place)
    with Repository.open(str(place)) as opened:
        report = verify(opened, opened.registry.versions("data"))
        assert [(item.version, item.path) for item in report.damages] == [
            ("data:v0", "sub/deep/large"),
            ("data:v1", "copy"),
            ("data:v1", "sub/deep/large"),
        ]
        result = export(opened, version, "", tmp_path / "out")
        assert len(result.failures) == 2
        whole = snapshot(tree)
        assert dict(snapshot(tmp_path / "out").items()) == {
            name: item for name, item in whole.items() if name not in {"copy", "sub/deep/large"}
        }


def test_a_missing_pack_is_named(repository, place, tree):
    version = put(repository, tree)
    repository.close()
    max(Path(place).rglob("*.pack"), key=lambda path: path.stat().st_size).unlink()
    with Repository.open(str(place)) as opened:
        report = verify(opened, [opened.resolve(Address(None, version.artifact))])
        assert any("missing" in item.reason for item in report.damages)
