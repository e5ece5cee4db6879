"""A version in hand: read, compared, edited, deleted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import artifactfs
from artifactfs import Artifact, Conflict, Integrity, InvalidInput, NotFound, Unavailable
from tests.mounted.served import serving
from tests.python.conftest import contents, made, program, write


@pytest.fixture
def version(run) -> Artifact:
    return run.log_artifact(made(a="1", sub__b="2", sub__deep__c="3"))


# -- reading -----------------------------------------------------------------------------------------------------------


def test_what_is_known_of_a_version(version, project, run):
    assert (version.name, version.collection, version.version) == ("data:v0", "data", "v0")
    assert (version.qualified_name, version.project) == (f"{project}/data:v0", project)
    assert (version.size, version.file_count, version.state, version.is_draft()) == (3, 3, "COMMITTED", False)
    assert version.created_at == version.updated_at
    assert version.created_at.endswith("Z")
    encoded = version.json_encode()
    assert (encoded["aliases"], encoded["digest"], encoded["run"]) == (["latest"], version.digest, run.id)
    assert version.get_path("a.txt").ref_url() == f"artifact://{project}/data:v0/a.txt"
    assert version.wait(timeout=0) is version


def test_files_lists_entries(version):
    assert [entry.path for entry in version.files()] == ["a.txt", "sub/b.txt", "sub/deep/c.txt"]
    assert [entry.path for entry in version.files(names=["sub/b.txt"])] == ["sub/b.txt"]
    with pytest.raises(NotFound, match="data:v0 has no 'x'"):
        version.files(names=["x"])
    assert all(entry.kind == "file" and entry.local_path is None and not entry.executable for entry in version.files())


def test_file_is_for_artifacts_of_one(version, run):
    with pytest.raises(InvalidInput, match="data:v0 has 3 files, not one"):
        version.file()
    one = run.log_artifact(made("single", b="2"))
    assert one.file() == Path("single-v0/b.txt").absolute()
    assert one.file().read_text() == "2"


def test_download_goes_to_a_directory_of_its_own_or_the_one_given(version, tmp_path):
    assert version.download() == Path("data-v0").absolute()
    assert contents(version.download(root=tmp_path / "there")) == {
        "a.txt": "1",
        "sub/b.txt": "2",
        "sub/deep/c.txt": "3",
    }


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("sub/", ["sub/b.txt", "sub/deep/c.txt"]),
        ("sub", ["sub/b.txt", "sub/deep/c.txt"]),
        ("su", ["sub/b.txt", "sub/deep/c.txt"]),
        ("sub/de", ["sub/deep/c.txt"]),
        ("a.txt", ["a.txt"]),
        ("", ["a.txt", "sub/b.txt", "sub/deep/c.txt"]),
    ],
)
def test_download_of_what_begins_with_a_prefix(version, prefix, expected):
    assert list(contents(version.download(path_prefix=prefix))) == expected


@pytest.mark.parametrize("prefix", ["x", "sub/x", "a.txt/x", "sub/b.txt/"])
def test_a_prefix_that_nothing_begins_with_is_said(version, prefix):
    with pytest.raises(NotFound, match="no path that begins with path_prefix="):
        version.download(path_prefix=prefix)


def test_a_version_that_is_there_is_not_asked_for(tmp_path):
    with serving(tmp_path / "served") as server:
        with artifactfs.init(repository=server.url) as run:
            used = run.log_artifact(made(a="1", sub__b="2"))
        root = used.download()
        assert server.requests_of(used.download) == {}
        assert server.requests_of(used.verify) == {}
        (root / "a.txt").unlink()
        used.download()
        assert contents(root) == {"a.txt": "1", "sub/b.txt": "2"}


def test_other_bytes_are_replaced(version):
    root = version.download()
    (root / "a.txt").write_text("x")
    assert contents(version.download())["a.txt"] == "1"


def test_damaged_files_are_named_and_the_rest_is_there(tmp_path):
    place = tmp_path / "repository"
    with artifactfs.init(repository=str(place)) as run:
        run.log_artifact(made(a="1", sub__b="2"))
        run.log_artifact(made("rest", c="a file of another pack"))
    (pack,) = [path for path in place.rglob("*.pack") if path.stat().st_size == 2]
    pack.chmod(0o600)
    pack.write_bytes(b"xx")
    text = """
import sys, artifactfs
with artifactfs.Api(sys.argv[1]) as api:
    draft = api.artifact("data").new_draft()
    with draft.new_file("new") as f: f.write("3")
    draft.save()
    try: draft.download(sys.argv[2])
    except artifactfs.Integrity as error: print(error)
"""
    done = program(text, str(place), str(tmp_path / "there"))
    assert done.stdout.startswith(f"2 files of data:v1 could not be read; the rest is in {tmp_path / 'there'}:"), done
    assert "data:v1/a.txt: chunk blake3:" in done.stdout
    assert "data:v1/sub/b.txt: chunk blake3:" in done.stdout
    assert contents(tmp_path / "there") == {"new": "3"}


def test_a_reference_that_cannot_be_had_does_not_end_the_rest(run, tmp_path):
    source = write(tmp_path / "outside", kept="1", gone="2")
    artifact = made()
    artifact.add_reference(source.as_uri())
    artifact.add_reference("odd://somewhere/x")
    version = run.log_artifact(artifact)
    (source / "gone.txt").unlink()
    with pytest.raises(Unavailable) as told, pytest.warns(UserWarning, match="x -> odd://somewhere/x"):
        version.download()
    assert "1 reference of data:v0 could not be had (allow_missing_references=True does without them)" in str(
        told.value
    )
    assert "data:v0/gone.txt: " in str(told.value)
    with pytest.warns(UserWarning, match=r"1 reference of data:v0 was left out, as nothing here reads its scheme"):
        root = version.download(allow_missing_references=True)
    assert contents(root) == {"a.txt": "1", "kept.txt": "1"}
    with pytest.raises(InvalidInput, match="nothing here reads the scheme of x -> odd://somewhere/x"):
        version.get_path("x").download()


# -- comparing ---------------------------------------------------------------------------------------------------------


def test_verify_names_every_difference(version):
    with pytest.raises(NotFound, match="no such directory"):
        version.verify()
    root = version.download()
    version.verify()
    (root / "a.txt").write_text("other")
    (root / "sub" / "b.txt").unlink()
    (root / "sub" / "deep" / "c.txt").chmod(0o755)
    (root / "sub" / "new.txt").write_text("new")
    (root / "new").mkdir()
    (root / "new" / "x").write_text("x")
    with pytest.raises(Integrity) as told:
        version.verify(root)
    assert [line.strip() for line in str(told.value).splitlines()[1:]] == [
        "a.txt: other contents",
        "new/: not in the version",
        "sub/b.txt: missing",
        "sub/deep/c.txt: it should not be executable",
        "sub/new.txt: not in the version",
    ]


def test_verify_tells_kinds_apart(run, tmp_path):
    source = write(tmp_path / "source", a="1", sub__b="2", outside__r="3")
    (source / "link").symlink_to("a.txt")
    artifact = Artifact("data", type="dataset")
    artifact.add_dir(source)
    artifact.add_reference((source / "outside" / "r.txt").as_uri(), name="reference")
    version = run.log_artifact(artifact)
    root = version.download()
    version.verify()
    (root / "link").unlink()
    (root / "link").symlink_to("sub/b.txt")
    (root / "a.txt").unlink()
    (root / "a.txt").mkdir()
    (root / "sub" / "b.txt").unlink()
    (root / "sub").rmdir()
    (root / "sub").write_text("no directory")
    (root / "reference").write_text("other")
    with pytest.raises(Integrity) as told:
        version.verify()
    assert [line.strip() for line in str(told.value).splitlines()[1:]] == [
        "a.txt: it should be a file",
        "link: it should be a symlink to 'a.txt'",
        "reference: other contents",
        "sub: it should be a directory",
    ]
    version.checkout()
    version.verify()
    assert os.readlink(root / "link") == "a.txt"


def test_checkout_deletes_what_is_no_part_of_it(version, tmp_path):
    root = write(tmp_path / "root", sub__extra="x", more__deep__y="y")
    (root / "out").symlink_to(tmp_path)
    assert version.checkout(root) == root
    version.verify(root)
    assert contents(root) == {"a.txt": "1", "sub/b.txt": "2", "sub/deep/c.txt": "3"}
    assert tmp_path.exists()


def test_download_names_symlinks_that_lead_out_and_never_follows_them(run, tmp_path, monkeypatch):
    source, victim = write(tmp_path / "source", a="1"), write(tmp_path / "victim", kept="1")
    (source / "out").symlink_to(victim)
    hostile = Artifact("data", type="dataset")
    with monkeypatch.context() as patched:  # a client that keeps no rule
        patched.setattr("artifactfs.building.leaves_artifact", lambda directory, target: False)
        hostile.add_dir(source)
        version = run.log_artifact(hostile)
    with pytest.warns(UserWarning, match=f"(?s)symlinks of data:v0 .* do not write through them:\n  out -> {victim}"):
        root = version.download(tmp_path / "root")
    later = run.log_artifact(made(a="1", out__kept="2"))
    with pytest.raises(Conflict, match="out is in the way"):
        later.download(root)
    later.checkout(root)
    assert contents(root) == {"a.txt": "1", "out/kept.txt": "2"}
    assert contents(victim) == {"kept.txt": "1"}


def test_checkout_spares_the_machine_and_the_repository(version, location, tmp_path):
    with pytest.raises(InvalidInput, match="root='/' is its root directory"):
        version.checkout("/")
    if not location.startswith("http"):
        with pytest.raises(Conflict, match="delete the repository"):
            version.checkout(tmp_path)
        assert version.download(tmp_path / "ok").is_dir()


# -- editing -----------------------------------------------------------------------------------------------------------


def test_what_is_edited_is_written_by_save(version, api):
    version.description = "said"
    version.metadata["accuracy"] = 0.9
    version.metadata["nested"] = {"x": [1]}
    version.aliases.append("best")
    version.tags = ["checked", "slow run"]
    assert api.artifact("data:v0").description == ""
    version.save()
    for seen in (version, api.artifact("data:best")):
        assert (seen.description, seen.metadata) == ("said", {"accuracy": 0.9, "nested": {"x": [1]}})
        assert (seen.aliases, seen.tags) == (["best", "latest"], ["checked", "slow run"])
        assert seen.state == "COMMITTED"
    version.metadata["nested"]["x"].append(2)
    version.aliases.remove("best")
    version.tags.clear()
    version.save()
    seen = api.artifact("data")
    assert (seen.metadata["nested"], seen.aliases, seen.tags) == ({"x": [1, 2]}, ["latest"], [])


def test_save_writes_only_what_differs(version, api):
    other = api.artifact("data:v0")
    other.description = "by another"
    other.aliases.append("theirs")
    other.save()
    version.metadata["mine"] = 1
    version.aliases.append("mine")
    version.save()
    assert (version.description, version.metadata, version.aliases) == (
        "by another",
        {"mine": 1},
        ["latest", "mine", "theirs"],
    )


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (lambda v: v.aliases.append("v3"), InvalidInput, "not an alias: 'v3' would read as a version number"),
        (lambda v: v.aliases.append(3), InvalidInput, "aliases has 3 in it, a int; give texts"),
        (lambda v: setattr(v, "aliases", "best"), InvalidInput, r"give a list of them: aliases=\['best'\]"),
        (lambda v: v.aliases.remove("latest"), Conflict, "latest"),
        (lambda v: v.tags.append("a/b"), InvalidInput, "not a tag: 'a/b'"),
        (lambda v: v.metadata.update(x=object()), InvalidInput, r"metadata\.x is a object, which JSON cannot hold"),
    ],
)
def test_what_cannot_be_saved_is_said(version, api, change, kind, said):
    def edit() -> None:
        change(version)
        version.save()

    with pytest.raises(kind, match=said):
        edit()
    seen = api.artifact("data")
    assert (seen.aliases, seen.tags, seen.metadata) == (["latest"], [], {})


def test_save_logs_what_is_not_logged_yet(home, location, project, monkeypatch, api):
    del home
    monkeypatch.setenv("ARTIFACTFS_REPOSITORY", location)
    artifact = made("alone")
    artifact.save(project)
    assert (artifact.name, artifact.logged_by()) == ("alone:v0", None)
    assert api.artifact("alone").digest == artifact.digest


def test_save_in_a_run_logs_an_output_of_it(run, api):
    made("one").save()
    draft = api.artifact("one").new_draft()
    draft.remove("a.txt")
    draft.save()
    assert [each.name for each in run.logged_artifacts()] == ["one:v0", "one:v1"]


def test_delete_spares_aliases_and_never_gives_a_number_again(run, api):
    for text in "123":
        run.log_artifact(made(a=text))
    middle = api.artifact("data:v1")
    middle.aliases.append("kept")
    middle.save()
    with pytest.raises(Conflict, match="kept"):
        middle.delete()
    middle.delete(delete_aliases=True)
    assert middle.state == "DELETED"
    with pytest.raises(NotFound, match="was deleted"):
        middle.save()
    again = api.artifact("data:v2")
    again.delete()
    assert (run.log_artifact(again).version, again.state) == ("v3", "COMMITTED")
    again.delete()
    assert api.artifact("data").version == "v0"
    assert run.log_artifact(made(a="4")).version == "v4"
    assert [each.version for each in run.logged_artifacts()] == ["v0", "v4"]
