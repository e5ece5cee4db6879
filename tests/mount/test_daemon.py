"""The process of a mount, where a whole mount would not show it: its log, and its care for running commits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from artifactfs.errors import Conflict
from artifactfs.mount import daemon
from artifactfs.mount.commands import Running
from artifactfs.mount.service import Plan, Service


def test_a_long_log_makes_room_while_the_process_runs(tmp_path: Path):
    log = tmp_path / daemon.LOG
    log.write_bytes(b"x" * (daemon.LOG_BYTES + 1))
    code = (
        "import sys; from pathlib import Path; from artifactfs.mount import daemon\n"
        "print('before', file=sys.stderr, flush=True)\n"
        "daemon._rotate(Path(sys.argv[1]))\n"
        "print('after', file=sys.stderr, flush=True)\n"
        "daemon._rotate(Path(sys.argv[1]))\n"
        "print('still', file=sys.stderr, flush=True)\n"
    )
    with log.open("ab") as stderr:
        subprocess.run([sys.executable, "-c", code, tmp_path], stderr=stderr, check=True)
    assert log.read_text() == "after\nstill\n"
    assert (tmp_path / f"{daemon.LOG}.1").read_bytes().endswith(b"xbefore\n")


def test_the_terminal_of_a_foreground_mount_is_no_log_to_rotate(tmp_path: Path):
    log = tmp_path / daemon.LOG
    log.write_bytes(b"x" * (daemon.LOG_BYTES + 1))
    daemon._rotate(tmp_path)
    assert log.stat().st_size == daemon.LOG_BYTES + 1


def test_a_running_commit_is_not_unmounted(tmp_path: Path):
    service = Service(Plan(repository=str(tmp_path), project="p", mountpoint="/m", workspace=str(tmp_path)))
    service._commands = SimpleNamespace(commits=Running())  # as start() makes them
    with (
        service._commands.commits.during("bike-dataset"),
        pytest.raises(Conflict, match="a commit of bike-dataset is running"),
    ):
        service._may_unmount({}, lambda _note: None)
    assert service._may_unmount({}, lambda _note: None) == {}


def test_a_missing_mount_point_is_made_where_its_parent_is(tmp_path: Path):
    assert daemon.make_mountpoint(str(tmp_path / "m"))
    assert not daemon.make_mountpoint(str(tmp_path / "m"))
    assert os.listdir(tmp_path / "m") == []
