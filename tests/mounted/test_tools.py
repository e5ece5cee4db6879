"""Ordinary programs at work in staging: each script of scripts.py ends as it does in a plain directory."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from artifactfs.draft import Draft
from artifactfs.repository import Repository
from tests.conftest import eventually
from tests.mounted.living import BINDINGS, Mounted, living, shell, succeeds
from tests.mounted.scripts import IGNORED, PYTHON, SCRIPTS, SQLITE_WAL
from tests.mounted.trees import Entry, content, sample, snapshot


class Bench:
    """A mount, and for each script an artifact in it and a plain directory, both with the sample tree."""

    def __init__(self, directory: Path, mounted: Mounted) -> None:
        self.mounted = mounted
        self.plain = directory / "plain"
        self.source = sample(directory / "source")
        self.wheel = make_wheel(directory)
        self.made: list[str] = []
        self.done: list[Work] = []
        self._repository = Repository.open(str(mounted.cli.home / ".local/share/artifactfs/repository"))
        self.prepared = {name: self.work(name) for name in SCRIPTS}
        # Some tools know whole seconds: what the scripts make lies in a later one than what they find.
        time.sleep(1.1)
        self.since = time.time_ns() // 10**9 * 10**9

    def close(self) -> None:
        self._repository.close()

    def work(self, name: str) -> Work:
        label = f"{re.sub(r'[^a-z0-9]+', '-', name)}-{len(self.made)}"
        self.made.append(label)
        draft = Draft(self._repository)
        draft.add(self.source)
        version = draft.commit(label).version
        plain = shutil.copytree(self.source, self.plain / label, symlinks=True)
        for directory, directories, files in os.walk(plain, topdown=False):
            for each in (*directories, *files, "."):
                os.utime(os.path.join(directory, each), ns=(version.created,) * 2, follow_symlinks=False)
        return Work(self, name, plain, self.mounted.root / label / "staging", version.created)


class Work:
    """A script's two places."""

    def __init__(self, bench: Bench, name: str, plain: Path, staging: Path, created: int) -> None:
        self._bench = bench
        self.name = name
        self.plain = plain
        self.staging = staging
        self.created = created

    def run(self) -> None:
        """Run the script in both; it must succeed, and print the same."""
        environment = {
            "WHEEL": str(self._bench.wheel),
            "SQLITE_WAL": SQLITE_WAL,
            "SCRIPT": PYTHON.get(self.name.removeprefix("python "), ""),
        }
        script = f"umask 022\n{SCRIPTS[self.name]}"
        expected = succeeds(script, self.plain, **environment)
        assert succeeds(script, self.staging, **environment) == expected
        self._bench.done.append(self)

    def compare(self) -> None:
        """Both directories look alike to the last attribute."""
        assert self.seen(self.staging) == self.seen(self.plain), self.name

    def seen(self, root: Path) -> dict[str, Entry]:
        ignored = re.compile(IGNORED.get(self.name, "(?!)"))
        found = snapshot(root, base=self.created, since=self._bench.since)
        return {path: entry for path, entry in found.items() if not ignored.fullmatch(path)}


def make_wheel(directory: Path) -> Path:
    wheel = directory / "small-1.0-py3-none-any.whl"
    members = {
        "small/__init__.py": "",
        "small/part.py": "answer = 42\n",
        "small/data/table.csv": "a,b\n" * 1000,
        "small-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: small\nVersion: 1.0\n",
        "small-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    members["small-1.0.dist-info/RECORD"] = "".join(f"{name},,\n" for name in [*members, "small-1.0.dist-info/RECORD"])
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return wheel


@pytest.fixture(scope="module", params=BINDINGS)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    directory = tmp_path_factory.mktemp("bench")
    with living(directory, request.param) as mounted:
        mounted.mount()
        made = Bench(directory, mounted)
        yield made
        made.close()


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_ends_as_in_a_plain_directory(bench, name):
    work = bench.prepared[name]
    work.run()
    work.compare()


def test_what_programs_did_survives_a_kill_and_is_what_is_committed(bench):
    """Promise 4, and that a version is what staging showed: for whatever was done before, and three scripts more."""
    for name in ("mv", "dd", "ln"):
        if name not in {work.name for work in bench.done}:
            bench.prepared[name].run()
    mounted = bench.mounted
    mounted.kill()
    mounted.remount()
    for work in bench.done:
        work.compare()
    for work in bench.done if mounted.binding == "kernel" else bench.done[:8]:  # the second binding takes its time
        name = work.staging.parent.name
        expected = "v0" if content(work.plain) == content(bench.source) else "v1"
        assert mounted.commit(name) == f"{name}:{expected}"
        same = work.staging if work.name in IGNORED else work.plain
        assert content(work.staging.parent / expected) == content(same), work.name
    work.compare()


def test_an_empty_staging_takes_a_tree(bench):
    """Promise: a new artifact begins with mkdir."""
    staging = bench.mounted.staging("from-nothing")
    assert os.listdir(staging) == []
    succeeds(f"rsync -a '{bench.source}/' ./; test -z \"$(rsync -ai --checksum '{bench.source}/' ./)\"", staging)
    assert snapshot(staging) == snapshot(bench.source)


# Promise 10: what cannot be kept is refused at once.

REFUSALS = {
    "mkfifo new": "Operation not permitted",
    "mknod new c 1 3": "Operation not permitted",
    "mknod new b 8 0": "Operation not permitted",
    '"$PYTHON" -c \'import socket; socket.socket(socket.AF_UNIX).bind("new")\'': "Operation not permitted",
    "touch $'bad\\xff'": "Invalid or incomplete multibyte or wide character",
    "mkdir $'bad\\xff'": "Invalid or incomplete multibyte or wide character",
    "mv run $'bad\\xff'": "Invalid or incomplete multibyte or wide character",
    "ln run $'bad\\xff'": "Invalid or incomplete multibyte or wide character",
    "ln -s run $'bad\\xff'": "Invalid or incomplete multibyte or wide character",
    "ln -s $'bad\\xff' new": "Invalid or incomplete multibyte or wide character",
    "setfattr -n user.artifactfs.digest -v x run": "Operation not permitted",
    "setfattr -n system.x -v y run": "Operation not supported",
    'ln run "$OTHER/new"': "Invalid cross-device link",
    "ln ../v0/run new": "Invalid cross-device link",
    "mv ../v0/run .": "Read-only file system",
}


def test_what_cannot_be_kept_is_refused(bench):
    work, other = bench.work("refusals"), bench.work("other")
    before = snapshot(work.staging)
    for script, message in REFUSALS.items():
        done = shell(script, work.staging, OTHER=str(other.staging))
        assert done.returncode != 0, script
        assert message in done.stderr, (script, done.stderr)
    with pytest.raises(OSError) as caught:
        os.open(work.staging, os.O_TMPFILE | os.O_RDWR)
    assert caught.value.errno == errno.EOPNOTSUPP
    assert snapshot(work.staging) == before


def test_moves_between_artifacts_copy(bench):
    """rename(2) says EXDEV, so `mv` copies, as between two disks."""
    one, two = bench.work("one"), bench.work("two")
    succeeds(f"mv images '{two.staging}/pictures'; mv words.txt '{two.staging}/'", one.staging)
    assert content(two.staging / "pictures") == content(bench.source / "images")
    assert not (one.staging / "images").exists()
    assert not (one.staging / "words.txt").exists()


def test_large_base_files_are_not_copied_by_what_is_done_to_their_names(bench):
    """Only what is written takes room: `mv`, `chmod`, `ln`, one byte in the middle, and `rm` copy nothing."""
    work = bench.work("names only")
    workspace = Path(bench.mounted.status()["workspace"])
    used = disk_use(workspace / "files")
    succeeds("mv large.bin other; chmod +x other; ln other third; touch -d 2001-01-01 other", work.staging)
    succeeds("setfattr -n user.a -v b other; mv images pictures; rm run", work.staging)
    assert disk_use(workspace / "files") == used
    succeeds("dd if=/dev/zero of=other bs=1 count=1 seek=4000000 conv=notrunc status=none", work.staging)
    assert disk_use(workspace / "files") <= used + 64 * 1024
    succeeds("rm other third", work.staging)
    eventually(lambda: disk_use(workspace / "files") <= used)


def disk_use(directory: Path) -> int:
    total = 0
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):  # it was removed meanwhile
            total += path.stat().st_blocks * 512 if path.is_file() else 0
    return total
