"""`artifactfs run`: the command is as if it had been started directly, and what it did is known afterwards."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from artifactfs.repository import Repository
from tests.conftest import Cli, eventually
from tests.mounted.served import serving

RUN = ("run", "--job-type", "train")


@pytest.fixture
def cli(cli: Cli, repository: Repository) -> Cli:
    """With a repository that is there."""
    assert repository.project == "default"
    return cli


def runs(cli: Cli) -> list[dict]:
    return json.loads(cli("runs", "--json").stdout)


def python(script: str) -> tuple[str, ...]:
    return sys.executable, "-S", "-c", script


def children(pid: int) -> list[int]:
    """Processes whose parent is this one, with their states."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and _field(name, 1) == str(pid)]


def _field(pid: object, number: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[number]
    return ""


# -- as if it had been started directly ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "status", "state", "recorded"),
    [
        ("exit 0", 0, "finished", 0),
        ("exit 3", 3, "failed", 3),
        ("kill -9 $$", 137, "failed", -9),
        ("kill -TERM $$", 143, "failed", -15),
    ],
)
def test_the_exit_status_is_passed_on_and_recorded(cli, script, status, state, recorded):
    assert cli.run(*RUN, "--", "sh", "-c", script).status == status
    (run,) = runs(cli)
    assert (run["state"], run["exit_status"]) == (state, recorded)
    assert run["ended"] is not None


def test_streams_are_the_commands_own(cli):
    script = f"printf 'in\\n' | {' '.join(cli.program)} run --job-type t --quiet -- sh -c 'cat; echo err >&2' 2>err"
    done = subprocess.run(["sh", "-c", script], env=cli.env, cwd=cli.home, capture_output=True, text=True, check=True)
    assert done.stdout == "in\n"
    assert (cli.home / "err").read_text() == "err\n"


def test_a_closed_output_ends_the_command_as_ever(cli):
    script = f"{' '.join(cli.program)} run --job-type t --quiet -- yes | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], env=cli.env, cwd=cli.home, capture_output=True, text=True, check=True)
    assert done.stdout == f"y\n{128 + signal.SIGPIPE}\n"


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["nosuchprogram"], 127, "cannot run nosuchprogram: it is in no directory of PATH"),
        (["./nosuchfile"], 127, "cannot run ./nosuchfile: it is not there"),
        (["./file"], 126, "cannot run ./file: file is not executable"),
        (["/"], 126, "cannot run /: / is a directory"),
    ],
)
def test_a_command_that_cannot_be_started_is_no_run(cli, words, status, message):
    (cli.home / "file").write_text("text")
    assert message in cli.refuses(*RUN, "--", *words, status=status)
    assert runs(cli) == []


def test_a_command_that_is_no_program_fails_the_run(cli):
    broken = cli.home / "broken"
    broken.write_bytes(b"\0no program")
    broken.chmod(0o755)
    finished = cli.run(*RUN, "--", "./broken")
    assert finished.status == 126
    assert "cannot run ./broken: exec format error" in finished.stderr
    assert runs(cli)[0]["exit_status"] == 126


def test_options_end_at_the_command(cli):
    assert cli(*RUN, "echo", "--name", "-h", "--").stdout == "--name -h --\n"
    assert runs(cli)[0]["command"] == ["echo", "--name", "-h", "--"]
    assert "--job-type" in cli.refuses("run", "--", "true", status=2)
    assert "COMMAND" in cli.refuses(*RUN, status=2)


def test_the_environment_tells_the_command_its_run(cli, repository):
    printed = cli(*RUN, "--", "env").lines
    told = dict(line.split("=", 1) for line in printed if line.startswith("ARTIFACTFS_"))
    (run,) = runs(cli)
    assert told == {
        "ARTIFACTFS_RUN": run["id"],
        "ARTIFACTFS_PROJECT": "default",
        "ARTIFACTFS_REPOSITORY": repository.location,
    }


def test_what_is_known_of_a_run(cli):
    finished = cli(*RUN, "--name", "first", "--config", "lr=0.1", "--config", "model=big", "--", "true")
    assert re.search(r"^run first finished after \d+\.\d s: 0 inputs, 0 outputs$", finished.stderr, re.MULTILINE)
    (run,) = runs(cli)
    assert run["name"] == "first"
    assert run["job_type"] == "train"
    assert run["config"] == {"lr": 0.1, "model": "big"}
    assert run["command"] == ["true"]
    assert run["host"]
    assert cli(*RUN, "--quiet", "--", "true").stderr == ""
    assert "--config lr is given twice" in cli.refuses(*RUN, *(["--config", "lr=1"] * 2), "--", "true", status=2)


# -- signals, terminal, children -------------------------------------------------------------------------------------------

COUNTS = """
import signal, sys, time
seen = []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, lambda number, frame: seen.append(number))
print("ready", flush=True)
while len(seen) < int(sys.argv[1]):
    time.sleep(0.02)
print(*map(int, seen), flush=True)
"""


@contextmanager
def started(cli: Cli, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A command in a Run, that has said that it is ready."""
    with cli.start(*RUN, "--", *words) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            for child in (*children(process.pid), process.pid):
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)


def test_who_starts_it_may_ignore_the_end_of_children(cli):
    words = ["env", "--ignore-signal=CHLD", *cli.program, *RUN, "--", "sh", "-c", "exit 4"]
    assert subprocess.run(words, env=cli.env, cwd=cli.home, capture_output=True, check=False).returncode == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_is_passed_on(cli, number):
    with started(cli, *python(COUNTS), "1") as process:
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    assert (stdout, process.returncode) == (f"{int(number)}\n", 0), stderr


def test_a_command_that_a_signal_ends_has_failed(cli):
    with started(cli, "sh", "-c", "echo ready; exec sleep 60") as process:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert runs(cli)[0]["exit_status"] == -signal.SIGTERM


def test_when_the_command_stops_so_does_its_run_and_both_go_on(cli):
    with started(cli, *python(COUNTS), "1") as process:
        (child,) = children(process.pid)
        os.kill(child, signal.SIGSTOP)
        eventually(lambda: _field(process.pid, 0) == "T")
        os.kill(process.pid, signal.SIGCONT)
        eventually(lambda: _field(child, 0) == "S")
        process.send_signal(signal.SIGUSR1)
        assert process.communicate(timeout=60)[0] == f"{int(signal.SIGUSR1)}\n"


def test_orphans_become_its_children_and_are_reaped(cli):
    script = "(sleep 0.2 & exit); (setsid sleep 61 & exit); echo ready; exec sleep 60"
    with started(cli, "bash", "-c", script) as process:
        eventually(lambda: sorted(map(_command, children(process.pid))) == ["sleep 60", "sleep 61"])
        command, orphan = sorted(children(process.pid), key=_command)
        os.kill(command, signal.SIGKILL)
        assert process.wait(60) == 137
        assert _command(orphan) == "sleep 61"  # what goes on is not ended with the command
        os.kill(orphan, signal.SIGKILL)


def _command(pid: object) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode()
    return ""


class Terminal:
    """An interactive bash at a terminal of its own."""

    def __init__(self, cli: Cli) -> None:
        self.seen = ""
        self._pid, self._master = pty.fork()
        if self._pid == 0:
            os.chdir(cli.home)
            words = ["bash", "--norc", "--noprofile", "-i"]
            os.execve("/bin/bash", words, {**cli.env, "PS1": "$ ", "TERM": "dumb"})  # noqa: S606 - this very shell

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def sees(self, pattern: str) -> re.Match[str]:
        """Wait for output behind what was seen before."""
        deadline = time.monotonic() + 60
        while (found := re.search(pattern, self.seen)) is None:
            ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{pattern!r} did not come: {self.seen!r}"
            self.seen += os.read(self._master, 65536).decode()
        self.seen = self.seen[found.end() :]
        return found

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGHUP)
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._master)


@pytest.fixture
def terminal(cli: Cli) -> Iterator[Terminal]:
    made = Terminal(cli)
    yield made
    made.close()


def test_ctrl_c_reaches_the_command_once(cli, terminal):
    (cli.home / "counts.py").write_text(COUNTS)
    terminal.type(f"{' '.join(cli.program)} run --job-type t -- {sys.executable} counts.py 2; echo status $?\n")
    terminal.sees("ready\r\n")
    terminal.type("\x03")
    time.sleep(0.3)  # for a second one, if it were delivered twice
    terminal.type("\x1c")
    terminal.sees("2 3\r\n")
    terminal.sees("run t-[0-9a-f]{8} finished")
    terminal.sees("status 0")


def test_ctrl_c_ends_a_command_and_the_run_has_failed(cli, terminal):
    terminal.type(f"{' '.join(cli.program)} run --job-type t -- sh -c 'echo rea''dy; exec sleep 60'; echo status $?\n")
    terminal.sees("ready\r\n")
    terminal.type("\x03")
    terminal.sees("status 130")
    assert [(run["state"], run["exit_status"]) for run in runs(cli)] == [("failed", -2)]


def test_ctrl_z_and_fg(cli, terminal):
    terminal.type(
        f"{' '.join(cli.program)} run --job-type t -- sh -c 'echo rea''dy; read x; echo got $x'; echo st''opped\n"
    )
    terminal.sees("ready\r\n")
    terminal.type("\x1a")
    terminal.sees(r"\[1\]\+\s+Stopped.*\n")
    terminal.type("fg\n")
    terminal.sees("read x; echo got")
    terminal.type("line\n")
    terminal.sees("got line")
    terminal.sees("finished after")
    assert runs(cli)[0]["state"] == "finished"


# -- the registry ----------------------------------------------------------------------------------------------------------


def test_a_registry_out_of_reach_refuses_the_start(cli):
    message = cli.refuses("--repository", "http://127.0.0.1:9", "--timeout", "1", *RUN, "--", "touch", "made")
    assert "127.0.0.1:9" in message
    assert not (cli.home / "made").exists()


def test_a_registry_lost_meanwhile_costs_the_record_alone(tmp_path, cli):
    with serving(tmp_path / "server") as server:
        cli.env |= {"ARTIFACTFS_REPOSITORY": server.url, "ARTIFACTFS_TIMEOUT": "5"}
        with started(cli, "sh", "-c", "echo ready; exec sleep 60") as process:
            server.stop()
            (child,) = children(process.pid)
            os.kill(child, signal.SIGTERM)
            _, stderr = process.communicate(timeout=60)
        assert process.returncode == 143
        assert "is not recorded, it will read as crashed: " in stderr


def test_a_run_whose_process_was_killed_reads_as_crashed(cli, repository):
    """Its command goes on, and nobody renews the run any more."""
    patched = (
        "import sys, artifactfs.run as run; run.LIFETIME_SECONDS = 1.0; sys.argv[0] = 'artifactfs'\n"
        "from artifactfs.cli.main import main; main()"
    )
    words = [sys.executable, "-c", patched, *RUN, "--", "sh", "-c", "echo ready; exec sleep 60"]
    with subprocess.Popen(words, env=cli.env, cwd=cli.home, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        (child,) = children(process.pid)
        process.kill()
        process.wait()
        os.kill(child, signal.SIGKILL)
    eventually(lambda: [run.state for run in repository.registry.runs()] == ["crashed"])
    (run,) = repository.registry.runs(state="crashed")
    assert run.exit_status is None
    assert "crashed" in cli("runs").stdout


# -- put, and what runs says -----------------------------------------------------------------------------------------------


def test_what_is_put_is_an_output_also_with_the_environment_cleared(cli, repository):
    (cli.home / "data").write_text("1")
    (cli.home / "more").write_text("2")
    put = " ".join([*cli.program, "put"])
    home = f"HOME={cli.home} PYTHONPATH={cli.env['PYTHONPATH']}"
    finished = cli(*RUN, "--", "sh", "-c", f"{put} one data && env -i {home} {put} two more")
    assert "0 inputs, 2 outputs (one:v0, two:v0)" in finished.stderr
    (run,) = repository.registry.runs()
    assert {repository.registry.version(name, 0).run for name in ("one", "two")} == {run.id}
    assert run.outputs == 2
    cli("put", "three", "data")
    assert repository.registry.version("three", 0).run == ""


def test_what_is_got_is_an_input(cli, repository):
    (cli.home / "data").write_text("1")
    cli("put", "one", "data")
    finished = cli(*RUN, "--", *cli.program, "get", "one", "there")
    assert (cli.home / "there" / "data").read_text() == "1"
    assert "1 input (one:v0), 0 outputs" in finished.stderr
    got = cli("get", "one", "there", env={"ARTIFACTFS_RUN": "elsewhere"})
    assert "not recorded as an input of the run elsewhere" in got.stderr
    (run,) = repository.registry.runs()
    assert run.inputs == 1


def test_a_run_of_another_project_is_said_to_be_none(cli, repository):
    (cli.home / "data").write_text("1")
    finished = cli("put", "one", "data", env={"ARTIFACTFS_RUN": "elsewhere"})
    assert finished.stdout == "one:v0\n"
    assert "not recorded as an output of the run elsewhere" in finished.stderr
    assert repository.registry.version("one", 0).run == ""


def test_on_a_new_machine_there_are_no_runs(cli):
    finished = cli("runs")
    assert (finished.stdout, finished.stderr) == ("", "no runs; `artifactfs run --job-type T -- COMMAND` makes one\n")
    assert json.loads(cli("runs", "--json").stdout) == []


def test_runs_are_listed_and_filtered(cli):
    assert "no runs; `artifactfs run" in cli("runs").stderr
    for job, name, command in (("prepare", "a", "true"), ("train", "b", "false"), ("train", "c", "true")):
        cli.run("run", "--job-type", job, "--name", name, "--", command)

    def names(*options: str) -> list[str]:
        return [run["name"] for run in json.loads(cli("runs", "--json", *options).stdout)]

    assert names() == ["c", "b", "a"]
    assert names("--job-type", "train") == ["c", "b"]
    assert names("--state", "failed") == ["b"]
    assert names("--name", "a") == ["a"]
    assert names("--limit", "2") == ["c", "b"]
    assert "no such runs" in cli("runs", "--name", "d").stderr
    head, *lines = cli("runs").lines
    assert head.split() == ["RUN", "NAME", "JOB", "TYPE", "STATE", "STARTED", "TOOK", "INPUTS", "OUTPUTS"]
    assert [line.split()[1:4] for line in lines] == [
        ["c", "train", "finished"], ["b", "train", "failed"], ["a", "prepare", "finished"],
    ]  # fmt: skip
