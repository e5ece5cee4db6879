"""A mount whose token ends: what is known here is read on, nothing else is, and a new token is taken up by itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.access.conftest import Guarded, keep
from tests.conftest import clear_below, eventually


@pytest.fixture
def place(tmp_path: Path):
    yield tmp_path
    clear_below(tmp_path)


def refused(path: Path) -> bool:
    """Whether reading a file fails for want of a good token."""
    try:
        path.read_bytes()
    except PermissionError:
        return True
    return False


def test_a_mount_outlives_its_token(guarded: Guarded, place: Path):
    (place / "input").mkdir()
    for name in ("read", "unread"):
        (place / "input" / name).write_bytes(name.encode() * 300_000)  # more than one Pack's answer brings along
    guarded.cli("put", "data", place / "input")
    token = guarded.token("read")
    guarded.start()
    cli = guarded.client(place / "home", token)
    file = cli.home / ".config/artifactfs/token"
    root = place / "mnt"
    cli("mount", root)
    version = root / "data/v0"
    assert (version / "read").read_bytes() == b"read" * 300_000
    assert (version / "unread").stat().st_size == 1_800_000
    guarded.revoke(token)
    eventually(lambda: guarded.ask("GET", "/v1/projects/default/artifacts", token=token).status == 401)
    assert refused(version / "unread")
    why = os.getxattr(version / "unread", "user.artifactfs.last_error").decode()
    assert f"refuses the token from {file}: the token {token[4:12]} was revoked" in why
    # What is here is read on.
    assert (version / "read").read_bytes() == b"read" * 300_000
    assert sorted(os.listdir(version)) == ["read", "unread"]
    keep(file, guarded.token("read"))
    eventually(lambda: not refused(version / "unread"))
    assert (version / "unread").read_bytes() == b"unread" * 300_000
    guarded.cli("put", "more", place / "input")
    eventually(lambda: "more" in os.listdir(root))
    cli("unmount", root)
