"""The guide that users know, row by row: what it shows works here, on a directory and on a server.

S1 to S27 are the rows of its checklist. The example tree is the guide's own: two pictures, and a model twice.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import artifactfs
from artifactfs import Api, Artifact, ArtifactFSError, Conflict, InvalidInput, NotFound, Run
from tests.mounted.served import serving
from tests.web import Web, web_server

PROJECT = "bikes"


@pytest.fixture(params=["directory", "server"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "directory":
        yield str(tmp_path / "repository")
        return
    with serving(tmp_path / "served") as server:
        yield server.url


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user who never configured anything, standing in the directory of the guide's examples."""
    for name in [name for name in os.environ if name.startswith(("ARTIFACTFS_", "XDG_"))]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    for name, content in {
        "images/cat.png": "a cat",
        "images/dog.png": "a dog",
        "checkpoints/model.h5": "an early model",
        "model.h5": "the model",
    }.items():
        path = home / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    return home


@pytest.fixture
def start(location: str, home: Path) -> Iterator:
    """``artifactfs.init`` in this repository; ends what a test left running."""
    del home
    runs: list[Run] = []

    def begin(**words) -> Run:
        runs.append(artifactfs.init(repository=location, **{"project": PROJECT, **words}))
        return runs[-1]

    yield begin
    for run in runs:
        run.finish()


@pytest.fixture
def run(start) -> Run:
    return start(job_type="train")


@pytest.fixture
def api(location: str, home: Path) -> Iterator[Api]:
    del home
    with Api(repository=location, project=PROJECT) as api:
        yield api


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server() as running:
        yield running


def logged(run: Run, name: str = "bike-dataset", *, type: str = "dataset", **files: str) -> Artifact:  # noqa: A002
    """A version with these files (``__`` in a name stands for a dot)."""
    artifact = Artifact(name, type=type)
    for file, text in (files or {"days__csv": "day,rented\n"}).items():
        with artifact.new_file(file.replace("__", ".")) as stream:
            stream.write(text)
    return run.log_artifact(artifact)


def tree(artifact: Artifact) -> list[str]:
    return sorted(artifact.manifest)


def test_s1_init_starts_a_run_with_a_job_type(start, api: Api):
    run = start(job_type="preprocessing")
    assert (run.job_type, run.state, run.project) == ("preprocessing", "running", PROJECT)
    run.finish()
    assert api.run(run.id).state == "finished"


def test_s2_fields_are_given_at_once_or_set_afterwards(run: Run, api: Api):
    at_once = Artifact("one", type="dataset", description="what it is", metadata={"rows": 2})
    later = Artifact("two", type="dataset")
    later.description = "what it is"
    later.metadata = {"rows": 2}
    later.metadata["columns"] = 3
    for artifact in (at_once, later):
        artifact.add_file("model.h5")
        run.log_artifact(artifact)
    one, two = api.artifact("one"), api.artifact("two")
    assert (one.description, one.metadata) == ("what it is", {"rows": 2})
    assert (two.description, two.metadata) == ("what it is", {"rows": 2, "columns": 3})


@pytest.mark.parametrize("kind", ["dataset", "model", "result", "embedding table"])
def test_s3_a_type_is_a_free_word(run: Run, api: Api, kind: str):
    logged(run, "thing", type=kind)
    assert api.artifact("thing").type == kind
    assert kind in [each.name for each in api.artifact_types()]


@pytest.mark.parametrize("wrong", ["dataset/v1", "a:b", "", "x" * 129])
def test_s3_a_type_that_cannot_be_is_refused_with_the_rule(wrong: str):
    with pytest.raises(InvalidInput, match=r"not a type.*dataset, model or result"):
        Artifact("thing", type=wrong)


def test_s4_names_hold_letters_digits_and_three_signs(run: Run, api: Api):
    logged(run, "Bike_data-2.0")
    assert api.artifact("Bike_data-2.0:v0").name == "Bike_data-2.0:v0"
    assert api.artifact("Bike_data-2.0:latest").version == "v0"


def test_s4_a_name_with_a_space_is_refused_with_one_that_would_do():
    with pytest.raises(InvalidInput, match=r"letters, digits, '_', '-' and '\.'.*'reference-model' would do"):
        Artifact("reference model", type="model")


def test_s5_a_description_belongs_to_the_version(run: Run, api: Api):
    first = logged(run, a="1")
    first.description = "raw"
    first.save()
    second = logged(run, a="2")
    assert second.description == ""
    assert api.artifact("bike-dataset:v0").description == "raw"


def test_s6_metadata_is_structured_and_can_be_searched(run: Run, api: Api):
    for accuracy in (0.7, 0.95, 0.9):
        model = Artifact("bike-model", type="model", metadata={"accuracy": accuracy, "dataset": {"name": "bikes"}})
        with model.new_file("weights") as stream:
            stream.write(str(accuracy))
        run.log_artifact(model)
    found = api.artifacts(
        type_name="model",
        where="metadata.accuracy > 0.8 and metadata.dataset.name = 'bikes'",
        order="-metadata.accuracy",
    )
    assert [artifact.name for artifact in found] == ["bike-model:v1", "bike-model:v2"]


def test_s7_add_file_takes_the_base_name_or_the_name_given(home: Path):
    artifact = Artifact("guide", type="model")
    artifact.add_file("model.h5")
    artifact.add_file("checkpoints/model.h5", name="models/mymodel.h5")
    assert tree(artifact) == ["model.h5", "models/mymodel.h5"]


def test_s8_add_dir_takes_everything_to_the_root_or_below_a_prefix(home: Path):
    (home / "images" / "more").mkdir()
    (home / "images" / "more" / "fish.png").write_text("a fish")
    root, below = Artifact("root", type="dataset"), Artifact("below", type="dataset")
    root.add_dir("images")
    below.add_dir("images", name="pictures/all")
    assert tree(root) == ["cat.png", "dog.png", "more/fish.png"]
    assert tree(below) == ["pictures/all/cat.png", "pictures/all/dog.png", "pictures/all/more/fish.png"]


def test_s9_new_file_is_written_like_a_file(run: Run):
    artifact = Artifact("guide", type="result")
    with artifact.new_file("hello.txt") as stream:
        stream.write("hello")
    with artifact.new_file("raw/bytes.bin", mode="wb") as stream:
        stream.write(b"\x00\xff")
    root = Path(run.log_artifact(artifact).download())
    assert (root / "hello.txt").read_text() == "hello"
    assert (root / "raw" / "bytes.bin").read_bytes() == b"\x00\xff"


def test_s10_a_reference_is_an_entry_without_stored_content(run: Run, api: Api, web: Web):
    url = web.put("day.csv", b"day,rented\n1,985\n")
    artifact = Artifact("bike-raw", type="dataset")
    entries = artifact.add_reference(url, name="raw/day.csv")
    assert [(entry.path, entry.ref()) for entry in entries] == [("raw/day.csv", url)]
    run.log_artifact(artifact)
    assert api.artifact("bike-raw").get_path("raw/day.csv").ref() == url


def test_s11_a_known_scheme_is_recorded_with_what_tells_a_change(run: Run, web: Web, tmp_path: Path):
    url = web.put("day.csv", b"day,rented\n1,985\n")
    local = tmp_path / "local.csv"
    local.write_text("1,985\n")
    artifact = Artifact("bike-raw", type="dataset")
    (remote,) = artifact.add_reference(url)
    (file,) = artifact.add_reference(local.as_uri())
    (unknown,) = artifact.add_reference("ftp-of-old://host/day.csv", name="old.csv")
    assert (remote.size, remote.etag is not None) == (17, True)
    assert (file.size, file.checksum[:7]) == (6, "blake3:")
    assert (unknown.size, unknown.checksum, unknown.etag) == (None, None, None)
    assert tree(run.log_artifact(artifact)) == ["day.csv", "local.csv", "old.csv"]


def test_s12_folders_nest_as_on_a_disk(run: Run):
    artifact = Artifact("guide", type="dataset")
    artifact.add_dir("images", name="a/b")
    artifact.add_file("model.h5", name="a/model.h5")
    root = Path(run.log_artifact(artifact).download())
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*")) == [
        "a",
        "a/b",
        "a/b/cat.png",
        "a/b/dog.png",
        "a/model.h5",
    ]


def test_s13_log_artifact_saves_a_version_as_output_of_the_run(run: Run, api: Api):
    version = logged(run)
    assert (version.name, version.state) == ("bike-dataset:v0", "COMMITTED")
    assert [each.name for each in run.logged_artifacts()] == ["bike-dataset:v0"]
    assert api.artifact("bike-dataset:v0").logged_by().id == run.id
    assert list(run.used_artifacts()) == []


def test_s14_changed_contents_are_the_next_version_and_unchanged_ones_none(run: Run, api: Api):
    assert logged(run, a="1").version == "v0"
    assert logged(run, a="1").version == "v0"
    assert logged(run, a="2").version == "v1"
    assert logged(run, a="1").version == "v0", "the contents of an older version are that version"
    assert api.artifact("bike-dataset:latest").version == "v0"
    assert [each.version for each in api.artifact_collection("bike-dataset").artifacts()] == ["v1", "v0"]


@pytest.mark.parametrize("aliases", [None, [], ["best-ap50"]])
def test_s15_latest_is_always_moved(run: Run, api: Api, aliases: list[str] | None):
    artifact = Artifact("bike-dataset", type="dataset")
    artifact.add_file("model.h5")
    run.log_artifact(artifact, aliases=aliases)
    assert api.artifact("bike-dataset").aliases == sorted({"latest", *(aliases or [])})


def test_s16_an_alias_names_one_version_and_can_be_moved(run: Run, api: Api):
    for text in ("1", "2"):
        artifact = Artifact("bike-model", type="model")
        with artifact.new_file("weights") as stream:
            stream.write(text)
        run.log_artifact(artifact, aliases=["latest", "best-ap50"])
    assert api.artifact("bike-model:best-ap50").version == "v1"
    first = api.artifact("bike-model:v0")
    first.aliases.append("best-ap50")
    first.save()
    assert api.artifact("bike-model:best-ap50").version == "v0"
    assert api.artifact("bike-model:v1").aliases == ["latest"]


@pytest.mark.parametrize("alias", ["v7", "staging", "a/b", "a:b", ""])
def test_s16_an_alias_that_reads_as_something_else_is_refused(run: Run, api: Api, alias: str):
    artifact = Artifact("bike-model", type="model")
    artifact.add_file("model.h5")
    with pytest.raises(InvalidInput, match="alias"):
        run.log_artifact(artifact, aliases=[alias])
    assert not api.artifact_exists("bike-model:latest")


@pytest.mark.parametrize("selector", ["", ":v0", ":latest"])
def test_s17_use_artifact_finds_a_version_and_records_the_input(start, api: Api, selector: str):
    logged(start(job_type="prepare"))
    run = start(job_type="train")
    used = run.use_artifact(f"bike-dataset{selector}")
    assert used.name == "bike-dataset:v0"
    assert [each.name for each in run.used_artifacts()] == ["bike-dataset:v0"]
    assert [each.id for each in api.artifact("bike-dataset:v0").used_by()] == [run.id]


def test_s17_what_is_not_there_is_said_with_what_is(run: Run):
    logged(run)
    with pytest.raises(NotFound, match=r"no artifact 'bike-datasets'.*did you mean bike-dataset"):
        run.use_artifact("bike-datasets:latest")
    with pytest.raises(NotFound, match=r"no version or alias 'v9'; it has v0, aliases latest"):
        run.use_artifact("bike-dataset:v9")


def test_s18_an_artifact_that_was_not_logged_is_found_or_created_once(start, api: Api, location: str):
    def use(number: int) -> str:
        artifact = Artifact("bike-dataset", type="dataset")
        with artifact.new_file("days.csv") as stream:
            stream.write("day,rented\n")
        del number
        return run.use_artifact(artifact).name

    run = start(job_type="train")
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(use, range(8))) == {"bike-dataset:v0"}
    assert [each.version for each in api.artifact_collection("bike-dataset").artifacts()] == ["v0"]
    # Once there is a newer version, finding the old contents moves nothing.
    logged(run, other="text")
    assert use(9) == "bike-dataset:v0"
    assert api.artifact("bike-dataset:latest").version == "v1"
    assert [each.name for each in run.used_artifacts()] == ["bike-dataset:v0"]
    del location


def test_s19_a_type_may_be_given_and_must_then_be_right(run: Run):
    logged(run)
    assert run.use_artifact("bike-dataset:latest", type="dataset").type == "dataset"
    with pytest.raises(Conflict, match=r"bike-dataset.*'dataset'.*'model'"):
        run.use_artifact("bike-dataset:latest", type="model")


def test_s20_download_brings_what_is_not_there_yet(run: Run, api: Api):
    logged(run, a="one", b="two")
    root = Path(api.artifact("bike-dataset").download())
    assert sorted(path.name for path in root.iterdir()) == ["a", "b"]
    before = (root / "a").stat()
    (root / "b").unlink()
    assert Path(api.artifact("bike-dataset").download()) == root
    assert (root / "b").read_text() == "two"
    after = (root / "a").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns), "what is there is left alone"


def test_s21_get_path_gives_an_entry(run: Run):
    version = logged(run, a="one")
    entry = version.get_path("a")
    assert (entry.path, entry.size, entry.digest[:7]) == ("a", 3, "blake3:")
    with pytest.raises(NotFound, match=r"bike-dataset:v0 has no 'b'"):
        version.get_path("b")


def test_s22_an_entry_downloads_a_single_file(run: Run, tmp_path: Path):
    version = logged(run, a="one", b="two")
    path = Path(version.get_path("a").download(root=tmp_path / "single"))
    assert path.read_text() == "one"
    assert [each.name for each in (tmp_path / "single").iterdir()] == ["a"]


def test_s23_ref_is_the_uri_of_a_reference_and_an_error_for_a_file(run: Run):
    artifact = Artifact("mixed", type="dataset")
    artifact.add_file("model.h5")
    artifact.add_reference("custom://somewhere/x", name="x")
    version = run.log_artifact(artifact)
    assert version.get_path("x").ref() == "custom://somewhere/x"
    with pytest.raises(InvalidInput, match=r"model\.h5.*no reference"):
        version.get_path("model.h5").ref()


def test_s24_references_download_like_files(run: Run, web: Web):
    url = web.put("day.csv", b"day,rented\n1,985\n")
    artifact = Artifact("bike-raw", type="dataset")
    artifact.add_file("model.h5")
    artifact.add_reference(url, name="raw/day.csv")
    version = run.log_artifact(artifact)
    root = Path(version.download())
    assert (root / "raw" / "day.csv").read_text() == "day,rented\n1,985\n"
    assert (root / "model.h5").read_text() == "the model"
    assert Path(version.get_path("raw/day.csv").download()).read_text() == "day,rented\n1,985\n"


def test_s25_lineage_leads_from_a_version_to_what_it_was_made_of(start, api: Api):
    with start(job_type="prepare") as prepare:
        logged(prepare)
    with start(job_type="train") as train:
        train.use_artifact("bike-dataset:latest")
        logged(train, "bike-model", type="model", weights="1")
    model = api.artifact("bike-model:latest")
    made_by = model.logged_by()
    assert (made_by.id, made_by.job_type) == (train.id, "train")
    (source,) = made_by.used_artifacts()
    assert source.name == "bike-dataset:v0"
    assert source.logged_by().id == prepare.id
    assert [each.id for each in source.used_by()] == [train.id]


def write_hello(artifact: Artifact) -> None:
    with artifact.new_file("hello.txt") as file:
        file.write("hello")


EXAMPLES = {
    "new_file('hello.txt')": (write_hello, ["hello.txt"]),
    "add_file('model.h5')": (lambda a: a.add_file("model.h5"), ["model.h5"]),
    "add_file('checkpoints/model.h5')": (lambda a: a.add_file("checkpoints/model.h5"), ["model.h5"]),
    "add_file('model.h5', name='models/mymodel.h5')": (
        lambda a: a.add_file("model.h5", name="models/mymodel.h5"),
        ["models/mymodel.h5"],
    ),
    "add_dir('images')": (lambda a: a.add_dir("images"), ["cat.png", "dog.png"]),
    "add_dir('images', name='images')": (
        lambda a: a.add_dir("images", name="images"),
        ["images/cat.png", "images/dog.png"],
    ),
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_s26_the_examples_of_the_guide_give_these_trees(home: Path, run: Run, example: str):
    del home
    call, expected = EXAMPLES[example]
    artifact = Artifact("guide", type="model")
    call(artifact)
    assert tree(artifact) == expected
    root = Path(run.log_artifact(artifact).download())
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()) == expected


def test_s27_references_are_read_with_the_readers_own_rights_and_stay_outside(
    run: Run, location: str, web: Web, tmp_path: Path
):
    """The repository never holds the content of a reference; what is kept locally is the user's alone."""
    private = "only those who may read the bucket see this"
    url = web.put("private.txt", private.encode())
    artifact = Artifact("bike-raw", type="dataset")
    artifact.add_reference(url)
    root = Path(run.log_artifact(artifact).download())
    assert (root / "private.txt").read_text() == private
    remote = location.startswith("http")
    repository = tmp_path / ("served/repository" if remote else "repository")
    stored = [path for path in repository.rglob("*") if path.is_file()]
    assert stored
    assert not any(private.encode() in path.read_bytes() for path in stored)
    place = tmp_path / ("home/.cache/artifactfs" if remote else "repository")
    assert stat.S_IMODE(place.stat().st_mode) == 0o700


def test_s27_a_password_in_a_uri_is_refused_and_not_repeated():
    artifact = Artifact("bike-raw", type="dataset")
    with pytest.raises(InvalidInput, match="password") as told:
        artifact.add_reference("https://me:hunter2@host.invalid/day.csv")
    assert "hunter2" not in str(told.value)


def test_errors_share_one_base():
    assert issubclass(artifactfs.ArtifactNotLoggedError, ArtifactFSError)
    assert issubclass(artifactfs.ArtifactFinalizedError, ArtifactFSError)
    unlogged = Artifact("thing", type="dataset")
    with pytest.raises(artifactfs.ArtifactNotLoggedError, match=r"thing.*log"):
        _ = unlogged.version


def test_a_logged_version_describes_itself_as_json(run: Run):
    described = logged(run).json_encode()
    assert json.loads(json.dumps(described))["name"] == "bike-dataset:v0"
