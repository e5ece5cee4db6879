"""Repositories as releases before this one have written them."""

from __future__ import annotations

import shutil
from pathlib import Path

from artifactfs.draft import Draft
from artifactfs.repository import Repository

PROJECTS = ("one", "packs", "two")
ORPHAN = f"packs/00/{'0' * 64}.pack"
"""What a killed writer left: no project names it."""


def in_format_1(place: Path, source: Path, projects: tuple[str, ...] = PROJECTS) -> dict[str, bytes]:
    """Make a repository of format 1 with a version of ``source`` in each project; returns what :func:`store_files` gives for it."""
    for project in projects:
        with Repository.open_or_create(str(place), project=project) as repository:
            draft = Draft(repository)
            draft.add(source)
            draft.commit("data")
    expected = store_files(place)
    flat = place / "flat"
    for key, data in expected.items():
        target = flat / key.partition("/")[2].partition("/")[2]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    (flat / ORPHAN).parent.mkdir(parents=True, exist_ok=True)
    (flat / ORPHAN).write_bytes(b"orphan")
    (flat / "tmp").mkdir()
    (flat / "tmp" / ("0" * 32)).write_bytes(b"what a killed writer left")
    shutil.rmtree(place / "store")
    flat.rename(place / "store")
    (place / "repository.json").write_text('{"magic":"artifactfs-repository","format":1}\n')
    kept = f"store/{projects[0]}/{ORPHAN}" if len(projects) == 1 else f"unclaimed/{ORPHAN}"
    return {**expected, kept: b"orphan"}


def store_files(place: Path) -> dict[str, bytes]:
    """Every object of a repository with its bytes, by its path."""
    return {
        str(path.relative_to(place)): path.read_bytes()
        for root in ("store", "unclaimed")
        for path in sorted((place / root).rglob("*"))
        if path.is_file()
    }
