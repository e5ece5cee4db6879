"""Lineage that records itself: however a command reads a version, or makes one, its Run has it; nobody else's reading counts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.repository import Repository
from tests.conftest import eventually
from tests.mounted.living import Mounted, living, running
from tests.mounted.served import serving

PYTHON = f"{sys.executable} -S"
POOL = """
import multiprocessing, sys
def read(path):
    return len(open(path, "rb").read())
if __name__ == "__main__":
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        assert pool.map(read, [sys.argv[2]] * 4) == [4] * 4
"""
THREAD = "import sys, threading; t = threading.Thread(target=lambda: open(sys.argv[1]).read()); t.start(); t.join()"
MMAP = (
    "import mmap, os, sys; fd = os.open(sys.argv[1], os.O_RDONLY); data = mmap.mmap(fd, 0, access=mmap.ACCESS_READ); "
    "os.close(fd); assert data[:4] == b'data'"
)
SPAWN = "import os, sys; os.waitpid(os.posix_spawn('/bin/cat', ['cat', sys.argv[1]], {}), 0)"
FORK = "import os, sys; pid = os.fork(); pid or (open(sys.argv[1]).read(), os._exit(0)); os.waitpid(pid, 0)"

# How a command may come to open a file: $f is one of an artifact of its own.
WAYS = {
    "directly": "cat $f",
    "by-a-redirection": "read x < $f || true",
    "through-a-pipe": "cat $f | wc -c",
    "in-a-subshell": "(cd $(dirname $f); wc -c < file)",
    "by-exec": f"sh -c 'exec {PYTHON} -c \"open(\\\"'$f'\\\").read()\"'",
    "with-the-environment-cleared": "env -i cat $f",
    "by-a-thread": f"{PYTHON} -c '{THREAD}' $f",
    "by-mmap": f'{PYTHON} -c "{MMAP}" $f',
    "by-posix-spawn": f'{PYTHON} -c "{SPAWN}" $f',
    "by-fork": f'{PYTHON} -c "{FORK}" $f',
    "by-a-pool-of-forks": f"{PYTHON} pool.py fork $f",
    "by-a-pool-of-spawns": f"{PYTHON} pool.py spawn $f",
    "in-another-session": "setsid --wait cat $f",
    "by-its-number": "cat $(dirname $(dirname $f))/v0/file",
    "by-a-program-in-it": "$(dirname $f)/program",
}
# And what is no reading of content.
LOOKS = {
    "listed": "ls -lR $d",
    "found": "find $d -printf '%s %p\\n'",
    "measured": "du -sb $d; stat $d/file; test -e $d/file",
    "asked": f"{PYTHON} -c 'import os, sys; os.getxattr(sys.argv[1], \"user.artifactfs.version\")' $d/file",
    "opened-without-content": f"{PYTHON} -c 'import os, sys; os.close(os.open(sys.argv[1], os.O_PATH))' $d/file",
}


class Recorded:
    """A mount, and the repository behind it to look at what was recorded."""

    def __init__(self, mounted: Mounted, repository: Repository, directory: Path) -> None:
        self.mounted = mounted
        self.registry = repository.registry
        self.directory = directory

    def put(self, name: str, text: str = "data") -> None:
        source = self.directory / name
        source.mkdir(exist_ok=True)
        (source / "file").write_text(text)
        (source / "program").write_text("#!/bin/true\n")
        (source / "program").chmod(0o755)
        self.mounted.put(name, source)

    def file(self, name: str) -> Path:
        return self.mounted.root / name / "latest/file"

    def run(self, script: str, *options: str, **variables: str) -> str:
        """Run a script as a Run; returns the Run's id."""
        finished = self.mounted.cli.run(
            "run", "--job-type", "t", *options, "--", "bash", "-ec", script, cwd=self.directory, env=variables
        )
        assert finished.status == 0, finished.stderr
        return self.registry.runs(limit=1)[0].id

    def links(self, run: str, *, output: bool = False) -> list[str]:
        """Versions that a Run used, or made."""
        links = self.registry.links(runs=[run])
        ids = {link.version for link in links.links if link.output == output}
        return sorted(version.name for version in links.versions if version.id in ids)


@pytest.fixture
def recorded(mounted: Mounted, tmp_path: Path) -> Iterator[Recorded]:
    location = mounted.cli.home / ".local/share/artifactfs/repository"
    with Repository.open(str(location)) as repository:
        yield Recorded(mounted, repository, tmp_path)


def test_however_content_is_opened_it_is_an_input_and_a_look_is_none(recorded: Recorded):
    for name in (*WAYS, *LOOKS, "outside"):
        recorded.put(name)
    (recorded.directory / "pool.py").write_text(POOL)
    lines = [f"f={recorded.file(name)}; {way}" for name, way in WAYS.items()]
    lines += [f"d={recorded.file(name).parent}; {look}" for name, look in LOOKS.items()]
    outside = f"import time\nwhile True: open({str(recorded.file('outside'))!r}).read(); time.sleep(0.01)"
    with running(sys.executable, "-S", "-c", outside):
        run = recorded.run("\n".join(lines))
    assert recorded.links(run) == sorted(f"{name}:v0" for name in WAYS)
    assert recorded.registry.links(versions=[recorded.registry.version("outside", 0).id]).links == []


def test_daemons_that_a_command_leaves_behind_belong_to_its_run(recorded: Recorded):
    """Forked twice, a session of its own, nothing in the environment: once while the command runs, once after it."""
    for name in ("during", "after", "outside"):
        recorded.put(name)
    go = recorded.directory / "go"
    reader = recorded.directory / "reader"
    reader.write_text("#!/bin/bash\nwhile [ ! -e $1 ]; do sleep 0.05; done; read x < $2; echo done > $3\n")
    reader.chmod(0o755)
    done = {name: recorded.directory / f"{name}.done" for name in ("during", "after")}

    def daemon(name: str, wait: Path) -> str:
        return f"(env -i PATH=$PATH setsid {reader} {wait} {recorded.file(name)} {done[name]} </dev/null >/dev/null 2>&1 &)"

    script = "\n".join(
        [daemon("during", Path("/")), daemon("after", go), f"while [ ! -e {done['during']} ]; do sleep 0.05; done"]
    )
    try:
        run = recorded.run(script)
        assert recorded.links(run) == ["during:v0"]
        assert recorded.registry.run(run).state == "finished"
        recorded.file("outside").read_text()
    finally:
        go.touch()
    eventually(done["after"].exists)
    eventually(lambda: recorded.links(run) == ["after:v0", "during:v0"])


def test_what_is_committed_and_put_are_outputs(recorded: Recorded):
    recorded.put("data")
    root, program = recorded.mounted.root, " ".join(recorded.mounted.cli.program)
    home = f"HOME={recorded.mounted.cli.home} PYTHONPATH={recorded.mounted.cli.env['PYTHONPATH']}"
    run = recorded.run(
        f"""
        mkdir {root}/model {root}/other
        wc -c < {recorded.file("data")} > {root}/model/staging/size
        {program} commit model --type model
        echo x > {root}/other/staging/x
        env -i {home} {program} commit other
        {program} put result {recorded.directory}/data
        """
    )
    assert recorded.links(run) == ["data:v0"]
    assert recorded.links(run, output=True) == ["model:v0", "other:v0", "result:v0"]
    assert os.getxattr(root / "model/v0/size", "user.artifactfs.run").decode() == run
    with pytest.raises(OSError, match="No data available"):
        os.getxattr(root / "data/v0/file", "user.artifactfs.run")


def test_a_commit_by_the_run_of_another_project_says_so(recorded: Recorded):
    (recorded.mounted.staging("model") / "x").write_text("x")
    finished = recorded.mounted.cli("commit", "model", env={"ARTIFACTFS_RUN": "elsewhere"})
    assert finished.stdout == "model:v0\n"
    assert "not recorded as an output of the run elsewhere" in finished.stderr


STAGING = {
    "unchanged": ("cat $s/file", True),
    "then-changed": ("cat $s/file; echo more >> $s/file; cat $s/file", True),
    "read-and-write": ("exec 3<>$s/file; cat <&3", True),
    "replaced": ("echo new > $s/file; cat $s/file", False),
    "appended": ("echo more >> $s/file", False),
    "added": ("echo new > $s/other; cat $s/other; ls -l $s", False),
    "its-own": ("echo new > $s/other; $c; cat $s/file $s/other", False),
    "its-own-later": ("cat $s/file; echo new > $s/other; $c; cat $s/file $s/other", True),
}


def test_reading_in_staging_is_reading_the_version_below(mounted: Mounted, recorded: Recorded):
    for name, (script, is_input) in STAGING.items():
        recorded.put(name)
        variables = {"s": str(mounted.staging(name)), "c": " ".join([*mounted.cli.program, "commit", name])}
        assert recorded.links(recorded.run(script, **variables)) == ([f"{name}:v0"] if is_input else []), name


def test_a_run_inside_of_a_run_is_its_own(recorded: Recorded):
    for name in ("outer", "inner"):
        recorded.put(name)
    program = " ".join(recorded.mounted.cli.program)
    outer = recorded.run(
        f"""
        {program} run --job-type inner -- env -i cat {recorded.file("inner")}
        cat {recorded.file("outer")}
        """
    )
    runs = {run.job_type: run.id for run in recorded.registry.runs()}
    assert recorded.links(runs["inner"]) == ["inner:v0"]
    assert recorded.links(runs["t"]) == ["outer:v0"]
    assert outer in runs.values()


def test_the_variable_alone_is_enough(recorded: Recorded):
    """For a scheduler that starts the parts of a job by itself; also of one that has ended."""
    recorded.put("data")
    run = recorded.run("true")
    subprocess.run(["cat", recorded.file("data")], env={**os.environ, "ARTIFACTFS_RUN": run}, check=True)
    eventually(lambda: recorded.links(run) == ["data:v0"])


def test_who_is_killed_has_had_his_inputs(recorded: Recorded):
    recorded.put("data")
    script = f"read x < {recorded.file('data')}; kill -9 $PPID; sleep 0.1"
    finished = recorded.mounted.cli.run("run", "--job-type", "t", "--", "bash", "-c", script)
    assert finished.status == -signal.SIGKILL
    (run,) = recorded.registry.runs()
    eventually(lambda: recorded.links(run.id) == ["data:v0"])
    assert run.state == "running"  # until its time is over


def test_a_mount_that_the_command_makes_is_a_witness_too(unmounted: Mounted, tmp_path: Path):
    (tmp_path / "file").write_text("data")
    unmounted.put("data", tmp_path / "file")
    mount = " ".join([*unmounted.cli.program, "mount", str(unmounted.root), "--binding", unmounted.binding])
    script = f"{mount} && cat {unmounted.root}/data/v0/file"
    finished = unmounted("run", "--job-type", "t", "--", "sh", "-c", script)
    assert "1 input (data:v0)" in finished.stderr


def test_a_read_only_mount_is_no_witness_and_a_run_says_so(unmounted: Mounted, tmp_path: Path):
    source = tmp_path / "file"
    source.write_text("data")
    unmounted.put("data", source)
    unmounted.mount("--read-only")
    finished = unmounted("run", "--job-type", "t", "--", "cat", unmounted.root / "data/v0/file")
    assert finished.stdout == "data"
    assert f"the mount at {unmounted.root} is read-only: what is read there is not recorded" in finished.stderr
    assert "0 inputs" in finished.stderr


def test_a_mount_of_another_project_has_no_part_in_it(unmounted: Mounted, tmp_path: Path):
    (tmp_path / "file").write_text("data")
    unmounted("--project", "other", "put", "data", tmp_path / "file")
    unmounted("--project", "other", "mount", unmounted.root, "--binding", unmounted.binding)
    finished = unmounted("run", "--job-type", "t", "--", "cat", unmounted.root / "data/v0/file")
    assert "0 inputs" in finished.stderr
    eventually(lambda: "an input of the run" in unmounted.log())


def test_on_a_server_too_and_inputs_wait_while_it_is_gone(tmp_path: Path, binding: str):
    with serving(tmp_path / "server") as server, living(tmp_path / "client", binding) as client:
        client.cli.env |= {"ARTIFACTFS_REPOSITORY": server.url, "ARTIFACTFS_TIMEOUT": "10"}
        for name in ("one", "two"):
            (tmp_path / name).write_text(name)
            client.put(name, tmp_path / name)
        client.mount()
        assert "1 input (one:v0)" in client("run", "--job-type", "t", "--", "cat", client.root / "one/v0/one").stderr
        (run,) = json.loads(client("runs", "--json").stdout)
        (client.root / "two/v0/two").read_text()  # nobody's; from now on it is in the cache
        server.stop()
        variables = {**os.environ, "ARTIFACTFS_RUN": run["id"]}
        subprocess.run(["cat", client.root / "two/v0/two"], env=variables, check=True)
        server.start()
        eventually(lambda: json.loads(client("runs", "--json").stdout)[0]["inputs"] == 2, seconds=60)
