"""Collections beside a real mount."""

from __future__ import annotations

import os

from artifactfs.repository import Repository
from tests.conftest import eventually


def test_what_staging_builds_on_stays_when_it_is_deleted_and_collected(unmounted):
    mounted, home = unmounted, unmounted.cli.home
    source = home / "source"
    source.mkdir()
    base = os.urandom(300_000)
    (source / "base.bin").write_bytes(base)
    (source / "open.txt").write_text("open")
    mounted.put("data", source)
    mounted.mount()
    (mounted.staging("data") / "new.txt").write_text("new")
    (source / "base.bin").write_text("another")
    mounted.put("data", source)
    with Repository.open(str(home / ".local/share/artifactfs/repository")) as repository:

        def alive() -> list[str]:
            return [each.name for each in repository.registry.collection.roots(None).roots]

        def kept() -> bool:
            with repository.registry._database.reading() as connection:
                return bool(connection.exec_driver_sql("SELECT count(*) FROM held_version").scalar())

        eventually(kept)
        opened = os.open(mounted.root / "data/v0/open.txt", os.O_RDONLY)
        assert "data:v0 is in use (staging at " in mounted.refuses("delete", "data:v0")
        mounted("delete", "data:v0", "--in-use")
        mounted("gc")
        assert alive() == ["data:v1", "data:v0 (deleted, but in use)"]
        assert os.read(opened, 10) == b"open"
        os.close(opened)
        assert (mounted.root / "data/staging/base.bin").read_bytes() == base
        assert mounted.commit("data", "--force") == "data:v2"
        assert (mounted.root / "data/v2/base.bin").read_bytes() == base
        assert (mounted.root / "data/v2/new.txt").read_text() == "new"
        mounted.unmount()
        # Nothing is in use any more, and v2 has all that it needs.
        mounted("gc")
        assert alive() == ["data:v1", "data:v2"]
    mounted("verify")
