"""Commands that are forked from the spawner end as those that are started the long way."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys

import pytest

from tests.conftest import SPAWNER, Cli

LONG = (sys.executable, "-X", "utf8=0", "-m", "artifactfs")  # another program than Cli's, so never the spawner's


@pytest.mark.parametrize(
    "words",
    [
        ("--version",),
        ("--help",),
        (),
        ("no-such-command",),
        ("ls",),
        ("ls", "--json"),
        ("show", "data:v0"),
        ("show", "data:v9"),
        ("get", "data"),
        ("put", "data", "missing"),
        ("put", "more", "größe\udcff"),
        ("--repository", "/dev/null", "ls"),
        ("--repository", "http://127.0.0.1:1", "ls"),
    ],
    ids=lambda words: "-".join(words).encode("ascii", "replace").decode() or "nothing",
)
def test_both_ways_end_alike(cli, words):
    """Each in a copy of one home, with one repository, as what is told has times."""
    homes = [cli.home / name for name in ("spawned", "long")]
    homes[0].mkdir()
    (homes[0] / "größe\udcff").write_bytes(b"one")  # no UTF-8
    (homes[0] / "file").write_text("two\n")
    cli("put", "data", homes[0] / "file", env={"HOME": str(homes[0])})
    shutil.copytree(*homes)
    said = []
    for home, program in zip(homes, (Cli.program, LONG), strict=True):
        cli.program, cli.cwd, cli.env["HOME"] = program, home, str(home)
        assert SPAWNER.can(list(words), cli.env)
        finished = cli.run(*words)
        said.append((finished.status, *(text.replace(str(home), "~") for text in (finished.stdout, finished.stderr))))
    assert said[0] == said[1]


def test_what_says_something_to_python_or_belongs_to_a_run_goes_the_long_way(cli):
    assert SPAWNER.can(["put", "data"], cli.env)
    for words in (["run", "--", "true"], ["--project", "p", "serve"]):
        assert not SPAWNER.can(words, cli.env)
    for variable in ("ARTIFACTFS_RUN", "PYTHONIOENCODING", "LC_ALL", "LD_PRELOAD", "PYTHONPATH"):
        assert not SPAWNER.can(["ls"], {**cli.env, variable: "x"})


def test_one_that_does_not_end_is_killed_and_the_next_one_served(cli):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(subprocess.TimeoutExpired):
            SPAWNER.run(["--repository", url, "--timeout", "60", "ls"], cwd=cli.home, env=cli.env, seconds=1)
        assert cli("--version").stdout.startswith("artifactfs ")
        with silent.accept()[0] as connection:
            connection.settimeout(60)
            while connection.recv(1000):  # to its end, as nobody is left that could wait for an answer
                pass
