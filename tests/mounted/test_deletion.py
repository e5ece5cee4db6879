"""Deletion and renames under a mount: what it builds on and pins stays, open files stay readable, names follow."""

from __future__ import annotations

import json
import os
from contextlib import suppress

from artifactfs.errors import Conflict
from artifactfs.repository import Repository
from tests.conftest import eventually
from tests.mounted.living import Mounted


def held(mounted: Mounted) -> list[str]:
    """What sessions hold versions for, as another process sees it."""
    with Repository.open(str(mounted.cli.home / ".local/share/artifactfs/repository")) as repository:
        ids = {version.id: version.name for version in repository.registry.versions("data")}
        return [f"{ids[one]} {purpose.split(' ')[0]}" for one, purpose in repository.registry.retention.held()]


def put(mounted: Mounted, *texts: str) -> None:
    source = mounted.cli.home / "source"
    source.mkdir(exist_ok=True)
    for text in texts:
        (source / "file").write_text(text)
        mounted.put("data", source)


def test_a_version_that_staging_is_based_on_stays(mounted):
    put(mounted, "one")
    eventually((mounted.root / "data/v0").exists)
    staging = mounted.staging("data")
    assert (staging / "file").read_text() == "one"
    assert held(mounted) == []  # it follows `latest`
    (staging / "more").write_text("mine")
    eventually(lambda: held(mounted) == ["data:v0 staging"])
    put(mounted, "two")
    message = mounted.refuses("delete", "data:v0")
    assert "data:v0 is in use (staging at " in message
    assert f":{mounted.root})" in message
    assert "--in-use" in message
    kept = json.loads(mounted("prune", "--keep-last", "1", "--json").stdout)["kept"]
    assert [each["name"] for each in kept] == ["data:v0"]
    mounted("rebase", "data")
    eventually(lambda: held(mounted) == ["data:v1 staging"])
    mounted("delete", "data:v0")
    mounted.commit("data")
    eventually(lambda: held(mounted) == [])


def test_what_staging_is_based_on_stays_while_nothing_is_mounted(mounted):
    put(mounted, "one")
    eventually((mounted.root / "data/v0").exists)
    (mounted.staging("data") / "file").write_text("mine")
    eventually(lambda: held(mounted) == ["data:v0 staging"])
    mounted.unmount()
    put(mounted, "two")
    assert "in use" in mounted.refuses("delete", "data:v0")
    mounted.mount()
    mounted("discard", "data")
    eventually(lambda: held(mounted) == [])
    mounted("delete", "data:v0")


def test_a_pinned_version_stays_until_the_mount_ends(unmounted):
    put(unmounted, "one", "two")
    unmounted.mount("--pin", "data=v0")
    eventually(lambda: held(unmounted) == ["data:v0 pinned"])
    assert "pinned at" in unmounted.refuses("delete", "data:v0")
    unmounted.unmount()
    eventually(lambda: held(unmounted) == [])
    unmounted("delete", "data:v0")


def test_an_open_file_of_a_deleted_version_stays_readable(mounted):
    put(mounted, "one", "two")
    eventually((mounted.root / "data/v0").exists)
    with (mounted.root / "data/v0/file").open() as file:
        assert file.read(1) == "o"
        mounted("delete", "data:v0")
        eventually(lambda: not (mounted.root / "data/v0").exists())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        assert file.read() == "one"
    assert sorted(os.listdir(mounted.root / "data")) == ["latest", "staging", "v1"]


def test_a_renamed_artifact_appears_by_its_new_name(mounted):
    put(mounted, "one")
    eventually((mounted.root / "data/v0").exists)
    mounted("rename", "data", "numbers")
    eventually(lambda: "numbers" in os.listdir(mounted.root))
    assert (mounted.root / "numbers/v0/file").read_text() == "one"
    assert not (mounted.root / "data/v0").exists()
    eventually(lambda: not (mounted.root / "data").exists())


def test_versions_are_deleted_while_staging_is_committed(mounted):
    put(mounted, "zero")
    eventually((mounted.root / "data/v0").exists)
    path = mounted.cli.home / ".local/share/artifactfs/repository"
    for number in range(1, 4):
        (mounted.staging("data") / "file").write_text(f"text {number}")
        committing = mounted.cli.start("commit", "data")
        with Repository.open(str(path)) as repository, suppress(Conflict):
            repository.registry.retention.delete("data", [number - 1])
        stdout, stderr = committing.communicate(timeout=60)
        if committing.returncode:
            assert "moved on" in stderr  # its base went first
            mounted("commit", "data", "--force")
        else:
            assert stdout.strip() == f"data:v{number}"
        with Repository.open(str(path)) as repository:
            assert repository.registry.check() == []
    assert (mounted.root / "data/latest/file").read_text() == "text 3"
