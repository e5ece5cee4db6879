"""What goes into an Artifact before it is logged, and every mistake that can be made with it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

import artifactfs
from artifactfs import (
    Api,
    Artifact,
    ArtifactFinalizedError,
    ArtifactNotLoggedError,
    Conflict,
    InvalidInput,
    NotFound,
)
from artifactfs.python.spool import DIRECTORY
from tests.python.conftest import contents, made, write


@pytest.fixture
def files(home: Path) -> Path:
    return write(home / "files", a="1", sub__b="2", sub__deep__c="3")


def names(artifact: Artifact) -> list[str]:
    return list(artifact.manifest)


# -- files and directories ---------------------------------------------------------------------------------------------


def test_what_was_added_is_in_the_manifest_at_once(files: Path):
    artifact = Artifact("data", type="dataset")
    artifact.add_dir(files)
    entry = artifact.add_file(files / "a.txt", name="more/a.txt")
    assert (entry.path, entry.size, entry.kind, entry.local_path) == ("more/a.txt", 1, "file", files / "a.txt")
    assert names(artifact) == ["a.txt", "more/a.txt", "sub/b.txt", "sub/deep/c.txt"]
    assert (artifact.file_count, artifact.size, len(artifact.manifest)) == (4, 4, 4)
    assert "sub/b.txt" in artifact.manifest
    assert "sub" not in artifact.manifest
    assert artifact.get_path("sub/b.txt") == artifact.manifest.entries["sub/b.txt"]
    assert artifact.manifest["a.txt"].digest == entry.digest


def test_a_relative_path_stays_the_same_file_when_the_program_moves_on(files: Path, run, tmp_path, monkeypatch):
    monkeypatch.chdir(files)
    artifact = Artifact("data", type="dataset")
    artifact.add_file("a.txt")
    artifact.add_dir("sub")
    monkeypatch.chdir(tmp_path)
    assert contents(run.log_artifact(artifact).download()) == {"a.txt": "1", "b.txt": "2", "deep/c.txt": "3"}


def test_a_path_added_twice_with_other_contents_is_refused_at_once(files: Path):
    artifact = Artifact("data", type="dataset")
    artifact.add_file(files / "a.txt", name="x.txt")
    artifact.add_file(files / "a.txt", name="x.txt")  # the same contents again are fine
    with pytest.raises(InvalidInput, match=r"x\.txt was added twice; pass overwrite=True"):
        artifact.add_file(files / "sub" / "b.txt", name="x.txt")
    artifact.add_file(files / "sub" / "b.txt", name="x.txt", overwrite=True)
    assert artifact.manifest["x.txt"].local_path == files / "sub" / "b.txt"


def test_a_directory_is_added_whole_or_not_at_all(files: Path, tmp_path):
    other = write(tmp_path / "other", a="other", new="new")
    artifact = Artifact("data", type="dataset")
    artifact.add_dir(files)
    with pytest.raises(InvalidInput, match=r"a\.txt was added twice.*merge=True"):
        artifact.add_dir(other)
    assert "new.txt" not in artifact.manifest
    artifact.add_dir(other, merge=True)
    assert artifact.manifest["a.txt"].local_path == other / "a.txt"
    assert names(artifact) == ["a.txt", "new.txt", "sub/b.txt", "sub/deep/c.txt"]


def test_a_file_and_a_directory_cannot_have_one_path(files: Path):
    artifact = Artifact("data", type="dataset")
    artifact.add_file(files / "a.txt", name="sub")
    with pytest.raises(InvalidInput, match="sub was added as a file; it cannot be a directory as well"):
        artifact.add_dir(files)
    with pytest.raises(InvalidInput, match="sub was added as a file"):
        artifact.add_file(files / "a.txt", name="sub/a.txt")
    artifact = Artifact("data", type="dataset")
    artifact.add_dir(files)
    with pytest.raises(InvalidInput, match="sub was added as a directory; it cannot be a file as well"):
        artifact.add_file(files / "a.txt", name="sub", overwrite=True)


def test_bad_files_of_a_directory_are_all_named_when_it_is_added(files: Path):
    os.mkfifo(files / "pipe")
    (files / "sub" / "out").symlink_to("../../../etc/passwd")
    artifact = Artifact("data", type="dataset")
    with pytest.raises(InvalidInput) as told:
        artifact.add_dir(files)
    assert "2 files cannot be added; nothing was added:" in str(told.value)
    assert "pipe: a FIFO cannot be stored" in str(told.value)
    assert "out: the symlink points outside the artifact" in str(told.value)
    assert "follow_links=True" in str(told.value)
    assert names(artifact) == []


def test_symlinks_are_kept_or_followed(files: Path, run):
    (files / "link").symlink_to("sub/b.txt")
    kept = Artifact("kept", type="dataset")
    kept.add_dir(files)
    assert (kept.manifest["link"].kind, kept.manifest["link"].target) == ("symlink", "sub/b.txt")
    assert os.readlink(run.log_artifact(kept).download() / "link") == "sub/b.txt"
    followed = Artifact("followed", type="dataset")
    followed.add_dir(files, follow_links=True)
    root = run.log_artifact(followed).download()
    assert not (root / "link").is_symlink()
    assert (root / "link").read_text() == "2"


def test_empty_directories_and_executable_bits_are_kept(files: Path, run):
    (files / "empty").mkdir()
    (files / "a.txt").chmod(0o755)
    artifact = Artifact("data", type="dataset")
    artifact.add_dir(files)
    assert artifact.manifest["a.txt"].executable
    root = run.log_artifact(artifact).download()
    assert (root / "empty").is_dir()
    assert os.access(root / "a.txt", os.X_OK)


def _holding_itself() -> dict[str, object]:
    metadata: dict[str, object] = {}
    metadata["again"] = [metadata]
    return metadata


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda a: a.add_file("gone.txt"), NotFound, r"cannot add gone\.txt: no such file"),
        (lambda a: a.add_file("files"), InvalidInput, r"cannot add files: a directory is no file; add_dir adds"),
        (lambda a: a.add_dir("gone"), NotFound, "cannot add gone: no such directory"),
        (lambda a: a.add_dir("files/a.txt"), InvalidInput, r"it is no directory; add_file adds a file"),
        (lambda a: a.add_file("files/a.txt", name="../x"), InvalidInput, r"not a path inside an artifact: '\.\./x'"),
        (lambda a: a.add_file("files/a.txt", name="/x"), InvalidInput, "inside an artifact paths are relative: 'x'"),
        (lambda a: a.add_file("files/a.txt", policy="often"), InvalidInput, "policy='often' is none; it is 'mutable'"),
        (lambda a: a.new_file("x", mode="r"), InvalidInput, "new_file cannot open with mode='r'; it takes x, w"),
        (lambda a: a.add_reference("no uri"), InvalidInput, "not a URI: 'no uri'"),
        (lambda a: a.add_reference("file:///nowhere/x"), NotFound, "checksum=False records the URI alone"),
        (lambda a: a.add_reference("s3://b/k", max_objects=0), InvalidInput, "max_objects=0 lets nothing be added"),
        (lambda a: a.remove("gone"), NotFound, "'gone' is not in the artifact"),
        (lambda a: a.get_path("gone"), NotFound, "data has no 'gone'"),
        (lambda a: setattr(a, "metadata", [1]), InvalidInput, "metadata is a list; give a dict"),
        (lambda a: setattr(a, "metadata", {"x": {1}}), InvalidInput, r"metadata\.x is a set, which JSON cannot hold"),
        (lambda a: setattr(a, "metadata", {"x": float("inf")}), InvalidInput, r"metadata\.x is infinite"),
        (lambda a: Artifact("a b", type="t"), InvalidInput, "not an artifact name: 'a b'; allowed are .* 'a-b' would do"),
        (lambda a: Artifact("a", type="t/u"), InvalidInput, "not a type: 't/u'"),
        (lambda a: Artifact("a", type=None), InvalidInput, "type=None is a NoneType; give a text"),
        (lambda a: Artifact(3, type="t"), InvalidInput, "name=3 is a int; give a text"),
        (lambda a: Artifact("a", type="t", description=5), InvalidInput, "description=5 is a int; give a text"),
        (lambda a: setattr(a, "metadata", _holding_itself()), InvalidInput, "is nested deeper than 100 levels, or holds"),
        (lambda a: a.add_file(5), InvalidInput, "local_path=5 is a int; give a path"),
        (lambda a: a.add_file(b"files"), InvalidInput, "local_path=b'files' is a bytes; give a path"),
        (lambda a: a.add_file("files/a\0"), InvalidInput, "holds a NUL, which no path does"),
        (lambda a: a.add_file("files/a.txt", name=Path("x")), InvalidInput, r"name=PosixPath\('x'\) is a PosixPath; give a text"),
        (lambda a: a.add_dir(""), InvalidInput, r"local_path is empty; give a path \('\.' is the working directory\)"),
        (lambda a: a.add_dir("files", name=5), InvalidInput, "name=5 is a int; give a text"),
        (lambda a: a.add_reference(Path("files")), InvalidInput, r"is a path; a file is referred to by its URI, as Path\.as_uri"),
        (lambda a: a.add_reference(None), InvalidInput, "uri=None is a NoneType; give a text"),
        (lambda a: a.add_reference("s3://b/k", max_objects="7"), InvalidInput, "max_objects='7' is no whole number of 0 or"),
        (lambda a: a.new_file(""), InvalidInput, "not a path inside an artifact: ''"),
        (lambda a: a.new_file("/x"), InvalidInput, "inside an artifact paths are relative: 'x'"),
        (lambda a: a.new_file("x", encoding="utf-0"), InvalidInput, "encoding='utf-0' is none that Python knows"),
        (lambda a: a.remove(5), InvalidInput, "item=5 is a int; give a path"),
        (lambda a: a.get_path(5), InvalidInput, "name=5 is a int; give a text"),
    ],
)  # fmt: skip
def test_every_mistake_has_a_message(files: Path, call, kind, said):
    with pytest.raises(kind, match=said) as told:
        call(Artifact("data", type="dataset"))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("what", ["id", "version", "aliases", "tags", "created_at", "commit_hash", "qualified_name"])
def test_what_only_a_version_has_is_not_there_before(what: str):
    with pytest.raises(ArtifactNotLoggedError, match=r"data is not logged yet, .*run\.log_artifact"):
        getattr(Artifact("data", type="dataset"), what)


@pytest.mark.parametrize("call", ["wait", "download", "verify", "checkout", "delete", "used_by", "new_draft", "file"])
def test_what_only_a_version_can_is_refused_before(call: str):
    with pytest.raises(ArtifactNotLoggedError, match="data is not logged yet"):
        getattr(Artifact("data", type="dataset"), call)()


# -- content is read when it is logged ---------------------------------------------------------------------------------


def test_a_file_that_changed_or_went_since_is_named(files: Path, run, api):
    artifact = Artifact("data", type="dataset")
    artifact.add_dir(files)
    (files / "a.txt").write_text("other contents")
    (files / "sub" / "b.txt").unlink()
    with pytest.raises(InvalidInput) as told:
        run.log_artifact(artifact)
    assert "2 files cannot be stored; nothing was committed:" in str(told.value)
    assert "a.txt: the file was changed after it was added; add it again (overwrite=True)" in str(told.value)
    assert "b.txt: the file has gone since it was added; keep it until it is logged" in str(told.value)
    assert not api.artifact_exists("data")
    # It can be mended and logged.
    artifact.add_file(files / "a.txt", overwrite=True)
    artifact.remove("sub/b.txt")
    assert contents(run.log_artifact(artifact).download()) == {"a.txt": "other contents", "sub/deep/c.txt": "3"}


def test_the_digest_is_known_before_and_the_same_after(files: Path, run, tmp_path):
    (files / "large.bin").write_bytes(os.urandom(9 << 20))
    artifact = Artifact("data", type="dataset")
    artifact.add_dir(files)
    before = artifact.digest
    assert before.startswith("blake3:")
    large = artifact.manifest["large.bin"].digest
    run.log_artifact(artifact)
    assert artifact.manifest["large.bin"].digest == large
    assert artifact.digest == before == artifact.commit_hash
    single = Artifact("data", type="dataset")
    for path in sorted((path for path in files.rglob("*") if path.is_file()), reverse=True):
        single.add_file(path, name=str(path.relative_to(files)))
    assert single.digest == before


def test_is_tmp_names_a_file_by_its_contents(files: Path):
    artifact = Artifact("data", type="dataset")
    one = artifact.add_file(files / "a.txt", name="tables/x.table.json", is_tmp=True)
    assert one.path.startswith("tables/")
    assert one.path.endswith(".table.json")
    (files / "again").write_text("1")
    assert artifact.add_file(files / "again", name="tables/y.table.json", is_tmp=True).path == one.path


# -- new_file ----------------------------------------------------------------------------------------------------------


def test_a_new_file_is_part_of_it_when_its_block_ends(run, home: Path):
    artifact = Artifact("data", type="dataset")
    with artifact.new_file("a/text.txt") as stream:
        stream.write("grün")
        assert names(artifact) == []
    with artifact.new_file("latin.txt", encoding="latin-1") as stream:
        stream.write("grün")
    with artifact.new_file("bytes", "wb") as stream:
        stream.write(b"\xff")
    with pytest.raises(InvalidInput, match=r"a/text\.txt is in the artifact already; mode='w' replaces it"):
        artifact.new_file("a/text.txt")
    with artifact.new_file("bytes", "wb") as stream:
        stream.write(b"\xfe")
    spooled = home / ".cache" / "artifactfs" / DIRECTORY
    assert len(list(spooled.iterdir())) == 1
    root = run.log_artifact(artifact).download()
    assert (root / "a/text.txt").read_bytes() == "grün".encode()
    assert (root / "latin.txt").read_bytes() == "grün".encode("latin-1")
    assert (root / "bytes").read_bytes() == b"\xfe"
    assert list(spooled.iterdir()) == [], "what was spooled goes once it is logged"


def test_a_new_file_whose_block_raises_is_none():
    artifact = Artifact("data", type="dataset")

    def write_half() -> None:
        with artifact.new_file("x") as stream:
            stream.write("half")
            raise KeyError("x")

    with pytest.raises(KeyError):
        write_half()
    assert names(artifact) == []


def test_an_artifact_that_is_forgotten_leaves_nothing(home: Path):
    artifact = made()
    spooled = home / ".cache" / "artifactfs" / DIRECTORY
    assert len(list(spooled.iterdir())) == 1
    del artifact
    assert list(spooled.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next(home: Path):
    spooled = home / ".cache" / "artifactfs" / DIRECTORY
    left = spooled / "left"
    left.mkdir(parents=True)
    (left / "file").write_text("x")
    os.utime(left, (1, 1))
    fresh = spooled / "fresh"
    fresh.mkdir()
    living = made()
    assert not left.exists()
    assert fresh.exists()
    assert len(list(spooled.iterdir())) == 2
    del living


# -- remove, finalize, threads -----------------------------------------------------------------------------------------


def test_remove_takes_files_and_directories_out(files: Path):
    artifact = Artifact("data", type="dataset")
    artifact.add_dir(files)
    artifact.remove("sub/deep/")
    assert names(artifact) == ["a.txt", "sub/b.txt"]
    artifact.remove(artifact.get_path("sub/b.txt"))
    assert names(artifact) == ["a.txt"]
    alone = Artifact("data", type="dataset")
    alone.add_file(files / "a.txt")
    assert artifact.digest == alone.digest, "a directory that became empty is gone"


def test_a_finalized_artifact_does_not_change(files: Path, run):
    artifact = made()
    artifact.finalize()
    with pytest.raises(ArtifactFinalizedError, match="data was finalized"):
        artifact.add_dir(files)
    run.log_artifact(artifact)
    for change in (
        lambda: artifact.add_file(files / "a.txt"),
        lambda: artifact.add_dir(files),
        lambda: artifact.add_reference("s3://b/k"),
        lambda: artifact.new_file("x"),
        lambda: artifact.remove("a.txt"),
    ):
        with pytest.raises(ArtifactFinalizedError, match=r"data:v0 was logged, .*new_draft\(\) begins the next"):
            change()


def test_threads_may_fill_one_artifact(tmp_path, run):
    artifact = Artifact("data", type="dataset")

    def fill(number: int) -> None:
        for index in range(20):
            with artifact.new_file(f"{number}/{index}") as stream:
                stream.write(f"{number} {index}")
            artifact.add_dir(write(tmp_path / f"{number}-{index}", f=str(index)), name=f"dirs/{number}/{index}")

    threads = [threading.Thread(target=fill, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert run.log_artifact(artifact).file_count == 160


# -- from a version to the next ----------------------------------------------------------------------------------------


def test_a_draft_of_a_version_changes_it_without_downloading(run, files: Path):
    first = Artifact("data", type="dataset", description="said", metadata={"n": 1})
    first.add_dir(files)
    run.log_artifact(first)
    draft = first.new_draft()
    assert draft.is_draft()
    assert (draft.name, draft.description, draft.metadata) == ("data", "said", {"n": 1})
    assert names(draft) == names(first)
    assert draft.digest == first.digest
    draft.remove("sub/b.txt")
    with draft.new_file("sub/deep/d.txt") as stream:
        stream.write("4")
    with pytest.raises(InvalidInput, match=r"a\.txt was added twice"):
        draft.add_file(files / "sub" / "b.txt", name="a.txt")
    draft.add_file(files / "a.txt")  # as it is in the version
    draft.add_file(files / "sub" / "b.txt", name="a.txt", overwrite=True)
    draft.metadata["n"] = 2
    assert (draft.file_count, draft.size) == (3, 3)
    assert names(draft) == ["a.txt", "sub/deep/c.txt", "sub/deep/d.txt"]
    second = run.log_artifact(draft)
    assert (second.name, second.metadata) == ("data:v1", {"n": 2})
    assert contents(second.download()) == {"a.txt": "2", "sub/deep/c.txt": "3", "sub/deep/d.txt": "4"}
    whole = Artifact("data", type="dataset")
    whole.add_dir(second.download())
    assert whole.digest == second.digest, "a changed version is the same as one made anew"


def test_a_draft_that_is_emptied_is_the_empty_artifact(run):
    draft = run.log_artifact(made(sub__deep__a="1", sub__b="2")).new_draft()
    draft.remove("sub/deep")
    draft.remove("sub/b.txt")
    assert (names(draft), draft.digest) == ([], Artifact("x", type="dataset").digest)


def test_a_draft_can_only_be_logged_where_its_version_is(run, start):
    draft = run.log_artifact(made()).new_draft()
    other = start(project="other")
    with pytest.raises(InvalidInput, match="can only become a version there"):
        other.log_artifact(draft)


def test_an_increment_goes_over_the_latest_version(run):
    run.log_artifact(made(keep="1", sub__old="1", sub__both="1"))
    more = Artifact("data", type="dataset", incremental=True)
    for name in ("sub/both.txt", "sub/new.txt"):
        with more.new_file(name) as stream:
            stream.write("2")
    assert contents(run.log_artifact(more).download()) == {
        "keep.txt": "1",
        "sub/both.txt": "2",
        "sub/new.txt": "2",
        "sub/old.txt": "1",
    }
    first = Artifact("fresh", type="dataset", incremental=True)
    with first.new_file("x") as stream:
        stream.write("1")
    assert run.log_artifact(first).name == "fresh:v0"


def test_increments_at_the_same_time_are_all_in_the_end(run, api):
    parts = []
    for number in range(6):
        part = Artifact("data", type="dataset", incremental=True)
        with part.new_file(f"part-{number}") as stream:
            stream.write(str(number))
        parts.append(part)
    threads = [threading.Thread(target=run.log_artifact, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert names(api.artifact("data")) == [f"part-{number}" for number in range(6)]
    assert sorted(part.version for part in parts) == [f"v{number}" for number in range(6)]


def test_another_type_is_refused_with_both_named(run):
    run.log_artifact(made())
    with pytest.raises(Conflict, match=r"data has the type 'dataset', not 'model'; give that type="):
        run.log_artifact(made(type="model", b="2"))


def test_logging_again_moves_the_aliases_back(run, api):
    first = run.log_artifact(made(a="1"))
    run.log_artifact(made(a="2"))
    assert run.log_artifact(first, aliases=["good"]) is first
    assert first.aliases == ["good", "latest"]
    assert api.artifact("data").version == "v0"


def test_what_is_lost_because_contents_were_there_is_said(run):
    run.log_artifact(made())
    again = made()
    again.description = "another"
    with pytest.warns(UserWarning, match=r"data:v0 has the same contents already, .*call save\(\)"):
        run.log_artifact(again)
    assert again.description == ""


def test_the_repository_is_not_logged_into_itself(run, tmp_path, location, monkeypatch):
    artifact = Artifact("data", type="dataset")
    if location.startswith("http"):
        monkeypatch.chdir(write(tmp_path / "work", a="1"))  # an address of a server is no path below it
        artifact.add_dir(".")
        assert run.log_artifact(artifact).version == "v0"
    else:
        artifact.add_dir(tmp_path)
        with pytest.raises(InvalidInput, match="contains the repository itself"):
            run.log_artifact(artifact)


# -- references --------------------------------------------------------------------------------------------------------


def test_references_are_entries_like_files(run, files: Path):
    artifact = Artifact("raw", type="dataset")
    added = artifact.add_reference(files.as_uri(), name="raw")
    assert [entry.path for entry in added] == ["raw/a.txt", "raw/sub/b.txt", "raw/sub/deep/c.txt"]
    (one,) = artifact.add_reference("s3://bucket/key", checksum=False)
    assert (one.path, one.kind, one.size, one.uri, one.digest) == ("key", "reference", None, *["s3://bucket/key"] * 2)
    with pytest.raises(InvalidInput, match=r"has more than 2 objects; raise max_objects"):
        artifact.add_reference(files.as_uri(), name="again", max_objects=2)
    assert "again/a.txt" not in artifact.manifest
    assert artifact.file_count == 4
    version = run.log_artifact(artifact)
    assert version.get_path("raw/a.txt").checksum == added[0].checksum
    assert contents(version.download(path_prefix="raw/")) == {
        "raw/a.txt": "1",
        "raw/sub/b.txt": "2",
        "raw/sub/deep/c.txt": "3",
    }


def test_a_reference_does_not_lead_into_another_repository(start, project, tmp_path):
    with artifactfs.init(repository=tmp_path / "other", project=project) as other:
        other.log_artifact(made("source", a="1"))
    entry = Api(repository=tmp_path / "other", project=project).artifact("source").get_path("a.txt")
    artifact = Artifact("raw", type="dataset")
    artifact.add_reference(entry)
    run = start()
    for log in (run.log_artifact, lambda draft: run.upsert_artifact(draft, distributed_id="d")):
        with pytest.raises(
            InvalidInput, match=r"raw refers to an artifact of .*/other, which readers of .* do not reach"
        ):
            log(artifact)


def test_references_are_asked_for_with_the_settings_of_the_run(run, tmp_path, monkeypatch):
    def refuse(*_args, **_options):
        raise AssertionError("a source of its own, with other bounds and a connection for each URI")

    monkeypatch.setattr("artifactfs.draft.resolve", refuse)
    (tmp_path / "source").write_text("1")
    (entry,) = Artifact("data", type="dataset").add_reference((tmp_path / "source").as_uri())
    assert entry.size == 1


def test_a_draft_keeps_references(run, files: Path):
    artifact = Artifact("raw", type="dataset")
    artifact.add_reference(files.as_uri())
    draft = run.log_artifact(artifact).new_draft()
    draft.remove("sub")
    assert run.log_artifact(draft).get_path("a.txt").ref() == (files / "a.txt").as_uri()


def test_a_reference_may_lead_to_another_artifact(run, project):
    run.log_artifact(made("source", a="1", sub__b="2"))
    artifact = Artifact("raw", type="dataset")
    (one,) = artifact.add_reference(run.use_artifact("source:latest").get_path("a.txt"))
    several = artifact.add_reference(f"artifact://{project}/source:latest/sub", name="rest")
    assert (one.path, one.ref(), one.size) == ("a.txt", f"artifact://{project}/source:v0/a.txt", 1)
    assert [(each.path, each.ref()) for each in several] == [
        ("rest/b.txt", f"artifact://{project}/source:v0/sub/b.txt")
    ]
    assert one.checksum is not None
    with pytest.raises(NotFound, match="source"):
        artifact.add_reference(f"artifact://{project}/source:v9/a.txt")
    version = run.log_artifact(artifact)
    assert contents(version.download()) == {"a.txt": "1", "rest/b.txt": "2"}
    version.verify()
