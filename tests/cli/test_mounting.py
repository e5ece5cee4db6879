"""mount, unmount, status: the life of a mount's process as a person and the operating system see it."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from artifactfs.errors import Conflict
from artifactfs.mount import attach, ending
from tests.conftest import daemons_below, end_daemon, eventually, mounts_below


@pytest.fixture
def put(cli) -> None:
    """bike-dataset with two versions, and nothing mounted."""
    (cli.home / "data").mkdir()
    (cli.home / "data" / "file").write_text("one\n")
    cli("put", "bike-dataset", "data")
    (cli.home / "data" / "file").write_text("two\n")
    cli("put", "bike-dataset", "data")


def status(cli) -> list[dict]:
    """Mounts of this test: a dead one of another test, which runs beside it, is root's too."""
    return [
        mount for mount in json.loads(cli("status", "--json").stdout) if mount["mountpoint"].startswith(f"{cli.home}/")
    ]


def is_mounted(cli, point: Path) -> bool:
    return str(point) in mounts_below(cli.home)


def test_mount_returns_when_the_tree_is_there_and_unmount_when_it_is_gone(cli, put):
    finished = cli("mount", "artifacts")
    assert finished.stdout == f"{cli.mountpoint}\n"
    assert finished.stderr == f"made the directory {cli.mountpoint}\n"
    assert (cli.mountpoint / "bike-dataset" / "latest" / "file").read_text() == "two\n"
    (mount,) = status(cli)
    assert mount["mountpoint"] == str(cli.mountpoint)
    assert mount["project"] == "default"
    assert mount["alive"] is True
    assert daemons_below(cli.home) == [mount["pid"]]
    explained = json.loads((cli.mountpoint / ".artifactfs" / "status.json").read_text())
    for key in ("pid", "version", "repository", "project", "mountpoint", "workspace", "since"):
        assert explained[key] == mount[key]
    assert explained["online"] is True
    assert explained["counts"]["reads"] >= 1
    assert f"{cli.mountpoint}\n  repository  " in cli("status").stdout
    assert cli("unmount").stdout == ""
    assert daemons_below(cli.home) == []
    assert str(cli.home) not in cli("status").stdout
    assert status(cli) == []
    assert "nothing is mounted" in cli.refuses("unmount", cli.mountpoint)


def test_mount_follows_mount_at_once(cli, put):
    for _ in range(3):
        cli("mount", cli.mountpoint)
        assert (cli.mountpoint / "bike-dataset").is_dir()
        cli("unmount", cli.mountpoint)


def test_the_first_mount_makes_the_repository(cli, mounted):
    cli.mountpoint.mkdir()
    finished = cli("mount", cli.mountpoint)
    assert finished.stderr == f"made a new repository in {cli.home}/.local/share/artifactfs/repository\n"
    assert [path.name for path in cli.mountpoint.iterdir()] in ([], [".artifactfs"])


def test_the_configured_mount_point_is_the_default(cli, put):
    config = cli.home / ".config" / "artifactfs" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('mountpoint = "~/there"\n')
    assert cli("mount").stdout == f"{cli.home}/there\n"
    assert is_mounted(cli, cli.home / "there")
    cli("unmount")
    assert not is_mounted(cli, cli.home / "there")


def test_mounting_again_is_no_error_unless_it_should_be_different(cli, put, mounted):
    mounted()
    again = cli("mount", cli.mountpoint)
    assert (again.stdout, again.stderr) == (f"{cli.mountpoint}\n", "mounted already\n")
    message = cli.refuses("mount", cli.mountpoint, "--read-only", "--pin", "bike-dataset=v0")
    assert message.startswith(f"{cli.mountpoint} is mounted already: read-only is off, pins is none; ")
    assert len(daemons_below(cli.home)) == 1


def test_a_place_that_cannot_be_mounted_on_is_refused(cli, put):
    assert "is not empty" in cli.refuses("mount", cli.home / "data")
    assert "is not a directory" in cli.refuses("mount", cli.home / "data" / "file", status=2)
    assert "cannot make the mount point" in cli.refuses("mount", cli.home / "a" / "b")
    assert "is mounted already (type proc)" in cli.refuses("mount", "/proc")
    assert "none of ArtifactFS" in cli.refuses("unmount", "/proc")
    assert daemons_below(cli.home) == []


def test_what_keeps_the_process_from_starting_is_said_by_the_command(cli, put):
    assert "bike-dataset has no version or alias 'v7'" in cli.refuses("mount", "m", "--pin", "bike-dataset=v7")
    (cli.home / ".local/share/artifactfs/repository/repository.json").write_text(
        '{"magic": "artifactfs-repository", "format": 9}'
    )
    assert "format 9" in cli.refuses("mount", "m")
    assert not (cli.home / "m").exists()
    assert not mounts_below(cli.home)
    assert daemons_below(cli.home) == []


def test_pins_hold_latest(cli, put, mounted):
    mounted("--pin", "bike-dataset=v0")
    assert (cli.mountpoint / "bike-dataset" / "latest" / "file").read_text() == "one\n"
    assert "(bike-dataset pinned to v0)" in cli("status").stdout


def test_a_killed_process_leaves_a_mount_that_the_next_one_clears(cli, put, mounted):
    mounted()
    end_daemon(cli.home)
    with pytest.raises(OSError) as caught:
        list(cli.mountpoint.iterdir())
    assert caught.value.errno in {errno.ENOTCONN, errno.ECONNABORTED}
    assert f"{cli.mountpoint}  dead: its process has ended" in cli("status").stdout
    assert {"mountpoint": str(cli.mountpoint), "alive": False} in status(cli)
    doctor = cli.run("doctor")
    assert doctor.status == 1
    assert f"fail  mount          {cli.mountpoint} is dead" in doctor.stdout
    assert cli("mount", cli.mountpoint).stderr == f"cleared a dead mount at {cli.mountpoint}\n"
    assert (cli.mountpoint / "bike-dataset" / "latest" / "file").read_text() == "two\n"


def test_a_dead_mount_can_be_unmounted(cli, put):
    cli("mount", cli.mountpoint)
    end_daemon(cli.home)
    cli("unmount", cli.mountpoint)
    assert not is_mounted(cli, cli.mountpoint)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(cli, put, number):
    cli("mount", cli.mountpoint)
    end_daemon(cli.home, number)
    assert not is_mounted(cli, cli.mountpoint)
    cli("mount", cli.mountpoint)
    cli("unmount", cli.mountpoint)


def test_a_signal_ends_it_while_it_is_used(cli, put):
    cli("mount", cli.mountpoint)
    with open(cli.mountpoint / "bike-dataset" / "latest" / "file"):
        end_daemon(cli.home, signal.SIGTERM)
        assert not is_mounted(cli, cli.mountpoint)


def test_a_closed_terminal_does_not_end_it(cli, put, mounted):
    mounted()
    (pid,) = daemons_below(cli.home)
    os.kill(pid, signal.SIGHUP)
    assert (cli.mountpoint / "bike-dataset" / "latest" / "file").read_text() == "two\n"
    assert daemons_below(cli.home) == [pid]


def test_unmounted_by_hand_the_process_ends(cli, put):
    cli("mount", cli.mountpoint)
    tool = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]
    subprocess.run([*tool, cli.mountpoint], check=True)
    cli("mount", cli.mountpoint)
    cli("unmount", cli.mountpoint)


def test_foreground_serves_until_interrupted(cli, put):
    with cli.start("mount", cli.mountpoint, "--foreground") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == f"{cli.mountpoint}\n"
        assert (cli.mountpoint / "bike-dataset" / "latest" / "file").read_text() == "two\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == ""
        assert process.stderr.read() == f"made the directory {cli.mountpoint}\n"
        assert process.wait(30) == 0
    assert not is_mounted(cli, cli.mountpoint)


@pytest.fixture
def user(cli, put):
    """A process that holds a file of the mount open, until its standard input ends."""
    cli("mount", cli.mountpoint)
    code = "import sys; f = open(sys.argv[1]); print(flush=True); sys.stdin.read(); print(f.read(), end='')"
    path = cli.mountpoint / "bike-dataset" / "v0" / "file"
    with subprocess.Popen(
        [sys.executable, "-c", code, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_unmount_names_who_uses_it(cli, user):
    message = cli.refuses("unmount", cli.mountpoint)
    heading, row = message.splitlines()
    assert heading.startswith(f"{cli.mountpoint} is in use; ")
    assert "--lazy" in heading
    assert "--force" in heading
    name = Path(f"/proc/{user.pid}/comm").read_text().strip()
    assert row == f"  {user.pid} {name}: {cli.mountpoint}/bike-dataset/v0/file"
    assert is_mounted(cli, cli.mountpoint)


def test_who_only_looks_does_not_keep_it(cli, put, monkeypatch):
    """As df does, and `status` with mounts of others: while it is asked something a mount is in use, for nobody who is seen."""
    cli("mount", cli.mountpoint)
    workspace = Path(status(cli)[0]["workspace"])
    refused = []
    detach = attach.detach

    def refuse_once(mountpoint: str, *, lazy: bool = False) -> None:
        if not refused:
            refused.append(mountpoint)
            raise Conflict(f"{mountpoint} is in use")
        detach(mountpoint, lazy=lazy)

    monkeypatch.setattr(attach, "detach", refuse_once)
    assert ending.unmount(str(cli.mountpoint), workspace)
    assert refused == [str(cli.mountpoint)]
    assert daemons_below(cli.home) == []


def test_lazily_unmounted_it_serves_who_uses_it(cli, user):
    assert cli("unmount", "--lazy").stderr == "programs still use it; it ends with the last of them\n"
    assert not is_mounted(cli, cli.mountpoint)
    assert user.communicate("")[0] == "one\n"
    eventually(lambda: daemons_below(cli.home) == [])
    cli("mount", cli.mountpoint)
    cli("unmount")


def test_unmounted_by_force_it_is_gone(cli, user):
    cli("unmount", "--force")
    assert not is_mounted(cli, cli.mountpoint)
    assert daemons_below(cli.home) == []


def test_a_stopped_process_can_be_ended(cli, put):
    cli("mount", cli.mountpoint)
    (pid,) = daemons_below(cli.home)
    os.kill(pid, signal.SIGSTOP)
    cli("unmount", "--force", cli.mountpoint)
    assert not is_mounted(cli, cli.mountpoint)
    assert daemons_below(cli.home) == []


def test_unmount_from_inside_is_not_in_its_own_way(cli, put):
    cli("mount", cli.mountpoint)
    with cli.start("unmount", cli.mountpoint, cwd=cli.mountpoint / "bike-dataset") as process:
        assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0


def test_the_process_keeps_nothing_of_its_parent(cli, put, mounted):
    reader, writer = os.pipe()
    try:
        subprocess.run(
            [*cli.program, "mount", cli.mountpoint], env=cli.env, cwd=cli.home, pass_fds=[writer], check=True
        )
        (pid,) = daemons_below(cli.home)
        held = set()
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # it opens and closes all the time
                held.add(os.readlink(link))
        assert not any(os.readlink(f"/proc/self/fd/{writer}") == each for each in held)
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert Path(f"/proc/{pid}/stat").read_text().split()[5] == str(pid)  # a session of its own
    finally:
        os.close(reader)
        os.close(writer)
        cli("unmount", cli.mountpoint)


def test_what_the_workspace_holds_is_private(cli, put, mounted):
    mounted()
    workspace = Path(status(cli)[0]["workspace"])
    assert workspace.parent == cli.home / ".local" / "state" / "artifactfs" / "mounts"
    assert stat.S_IMODE(workspace.stat().st_mode) == 0o700
    assert stat.S_IMODE((workspace / "control.sock").stat().st_mode) == 0o600
    assert "mounted" in (workspace / "daemon.log").read_text()


def test_two_mounts_are_told_apart(cli, put, mounted):
    one, two = mounted(mountpoint=cli.home / "one"), mounted("--read-only", mountpoint=cli.home / "two")
    assert [mount["mountpoint"] for mount in status(cli)] == [str(one), str(two)]
    assert "several mounts are meant" in cli.refuses("unmount", status=2)
    assert "is read-only" in cli.refuses("discard", two / "bike-dataset")
    assert "is read-only" in cli.refuses("commit", "bike-dataset", cwd=two)
    cli("unmount", one)
    assert [mount["mountpoint"] for mount in status(cli)] == [str(two)]


def test_a_mount_point_with_an_odd_name(cli, put, mounted):
    point = mounted(mountpoint=cli.home / "odd \\ name\twith größe")
    assert (point / "bike-dataset" / "latest" / "file").read_text() == "two\n"
    assert status(cli)[0]["mountpoint"] == str(point)


def test_a_mount_point_behind_a_symlink(cli, put):
    (cli.home / "real").mkdir()
    (cli.home / "link").symlink_to("real")
    assert cli("mount", "link").stdout == f"{cli.home}/real\n"
    assert cli("mount", "link").stderr == "mounted already\n"
    cli("unmount", "link")
    assert not mounts_below(cli.home)


def test_the_log_is_bounded(cli, put, mounted):
    mounted()
    workspace = Path(status(cli)[0]["workspace"])
    cli("unmount")
    (workspace / "daemon.log").write_bytes(b"x" * (5 << 20))
    cli("mount", cli.mountpoint)
    assert (workspace / "daemon.log").stat().st_size < 10_000
    assert (workspace / "daemon.log.1").stat().st_size == 5 << 20


@pytest.mark.parametrize("binding", ["kernel", "fusepy"])
def test_both_bindings_live_and_end(cli, put, binding):
    cli("mount", cli.mountpoint, "--binding", binding)
    assert status(cli)[0]["binding"] == binding
    assert (cli.mountpoint / "bike-dataset" / "v0" / "file").read_text() == "one\n"
    end_daemon(cli.home, signal.SIGTERM)
    assert not is_mounted(cli, cli.mountpoint)
    cli("mount", cli.mountpoint, "--binding", binding)
    cli("unmount", cli.mountpoint)
