"""Every call of the Python API as a user writes it, for the type checker: each ``reveal`` says what it must be. Never run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, assert_type

import artifactfs
from artifactfs import Api, Artifact, ArtifactFSError, ArtifactNotLoggedError, Run, WaitTimeoutError

run = artifactfs.init(project="bikes", job_type="train", name="seventh", config={"lr": 0.1}, repository="x", id="r1")
assert_type(run, Run)
run.config.lr = 0.2
run.config["layers"] = 3
run.config.update({"seed": 1}, batch=8)
assert_type(run.config["seed"], Any)
assert_type(run.state, str)
assert_type(run.command, tuple[str, ...])

artifact = Artifact("bike-dataset", type="dataset", description="text", metadata={"rows": 17_379}, incremental=False)
entry = artifact.add_file("model.h5", name="models/mymodel.h5", is_tmp=False, policy="immutable", overwrite=True)
assert_type(entry.path, str)
assert_type(entry.size, int | None)
artifact.add_file(Path("model.h5"))
artifact.add_dir("images", name="images", merge=True, follow_links=True)
with artifact.new_file("hello.txt") as text:
    assert_type(text, IO[str])
    text.write("hello")
with artifact.new_file("raw.bin", mode="wb") as raw:
    assert_type(raw, IO[bytes])
    raw.write(b"\0")
assert_type(
    [each.uri for each in artifact.add_reference("s3://bucket/raw", name="raw", max_objects=10)], list[str | None]
)
artifact.add_reference("s3://bucket/raw", checksum=False)
artifact.remove("raw")
artifact.remove(entry)
artifact.finalize()

logged = run.log_artifact(artifact, aliases=["latest", "best-ap50"], tags=["checked"])
assert_type(logged, Artifact)
run.log_artifact(Path("images"), name="images", type="dataset")
run.log_model("model.h5", name="net")
assert_type(run.use_model("net:latest"), Path)
assert_type(run.use_artifact("bike-dataset:latest", type="dataset"), Artifact)
run.use_artifact(artifact)
run.upsert_artifact(artifact, distributed_id="night")
run.finish_artifact(artifact, distributed_id="night")
assert_type(run.logged_artifacts(), list[Artifact])

assert_type(logged.download(root="there", path_prefix="images/", allow_missing_references=True), Path)
assert_type(logged.checkout("there"), Path)
logged.verify("there")
assert_type(logged.file(), Path)
assert_type(logged.get_path("images/cat.png").download(), Path)
assert_type(logged.get_entry("raw/x").ref(), str)
assert_type([each.path for each in logged.files()], list[str])
assert_type(logged.manifest["a"].digest, str)
for path, each in logged.manifest.items():
    assert_type(path, str)
    kind: str = each.kind
logged.aliases.append("good")
logged.tags = ["one", "two"]
logged.metadata["accuracy"] = 0.9
logged.metadata = {"accuracy": 0.9}
logged.description = None
logged.description = "text"
assert_type(logged.description, str)
logged.save()
draft = logged.new_draft()
assert_type(draft.is_draft(), bool)
maker = logged.logged_by()
if maker is not None:
    assert_type(maker.config, Any)
assert_type([each.id for each in logged.used_by()], list[str])
assert_type(logged.wait(timeout=10), Artifact)
logged.delete(delete_aliases=True)

with Api(repository="https://host:7420", project="bikes") as api:
    versions: Sequence[Artifact] = api.artifacts(
        type_name="model", where="metadata.accuracy > 0.9", order="-metadata.accuracy", tags=["checked"], limit=10
    )
    assert_type(api.artifact("bike-dataset:v0", type="dataset"), Artifact)
    assert_type(api.artifact_exists("bike-dataset:v0"), bool)
    assert_type([each.name for each in api.artifact_types()], list[str])
    assert_type(api.artifact_collection("bike-dataset").artifacts(), list[Artifact])
    assert_type([each.state for each in api.runs(job_type="train", state="crashed", limit=3)], list[str])

try:
    with artifactfs.init() as inner:
        assert_type(inner, Run)
except (ArtifactNotLoggedError, WaitTimeoutError, ArtifactFSError) as error:
    assert_type(error.code, str)
run.finish(exit_code=1)
artifactfs.finish()
