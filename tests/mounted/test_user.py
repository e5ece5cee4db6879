"""Mounts of an ordinary user, by fusermount3: his own, and nobody else's unless he says so."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import TESTS, Cli, daemons_below, eventually, mounts_below
from tests.mounted.living import BINDINGS, Mounted, living, watched
from tests.mounted.trees import content, sample

# fusermount3 serves users of /etc/passwd only; these two are on every Debian.
SOMEBODY, ANOTHER = pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("daemon").pw_uid


class User:
    """Runs things as an ordinary user. Tests that run as one already are that user."""

    def __init__(self, number: int) -> None:
        self.words = [] if os.geteuid() else ["setpriv", f"--reuid={number}", f"--regid={number}", "--clear-groups"]

    def shell(self, script: str, cwd: Path, *prefix: str) -> subprocess.CompletedProcess[str]:
        words = [*self.words, *prefix, "bash", "-euo", "pipefail", "-c", f'cd "$0"; {script}', str(cwd)]
        return subprocess.run(words, cwd="/", check=False, capture_output=True, text=True, timeout=60)

    def succeeds(self, script: str, cwd: Path) -> str:
        done = self.shell(script, cwd)
        assert done.returncode == 0, done
        return done.stdout


class Installation:
    """An interpreter that ordinary users may run, with the package: a checkout or an environment below /root is closed to them."""

    def __init__(self, place: Path) -> None:
        shutil.copytree(TESTS.parent / "artifactfs", place / "artifactfs", ignore=shutil.ignore_patterns("__pycache__"))
        installed = Path(sysconfig.get_path("purelib"))
        self.interpreter = sys.executable
        self.paths = [place]
        if not self._works():
            self.interpreter = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
            self.paths = [place, installed]
        if not self._works():
            # Programs that tests and checks use are not needed, and large.
            left_out = shutil.ignore_patterns("__pycache__", "mypy*", "ruff*", "pip*", "hypothesis*", "setuptools*")
            shutil.copytree(installed, place / "installed", ignore=left_out)
            self.paths = [place, place / "installed"]
        assert self._works(), "an ordinary user needs a Python of this version that he may run, such as Debian's own"

    @property
    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": ":".join(map(str, self.paths)), "PYTHONDONTWRITEBYTECODE": "1"}

    def _works(self) -> bool:
        words = ["env", *(f"{key}={value}" for key, value in self.environment.items())]
        script = f"exec '{self.interpreter}' -c 'import artifactfs.repository, mfusepy, click'"
        return User(SOMEBODY).shell(script, Path("/"), *words).returncode == 0


@contextmanager
def place_for_all() -> Iterator[Path]:
    """A directory that every user may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="artifactfs-user-") as name:
        Path(name).chmod(0o755)
        with watched(Path(name), 200.0):
            yield Path(name)


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    with place_for_all() as place:
        yield Installation(place)


@pytest.fixture
def place() -> Iterator[Path]:
    with place_for_all() as made:
        yield made


@pytest.fixture(params=BINDINGS)
def person(request: pytest.FixtureRequest, place: Path, installation: Installation) -> Iterator[Mounted]:
    """A :class:`Mounted` whose commands an ordinary user runs, with a home of his own."""
    device = Path("/dev/fuse").stat()
    if os.geteuid() == 0 and stat.S_IMODE(device.st_mode) != 0o666:
        Path("/dev/fuse").chmod(0o666)  # as udev has it
    with living(place / "m", request.param) as mounted:
        home = mounted.cli.home
        if os.geteuid() == 0:
            os.chown(home, SOMEBODY, SOMEBODY)
        mounted.cli.program = (*User(SOMEBODY).words, installation.interpreter, "-m", "artifactfs")
        mounted.cli.env |= installation.environment
        yield mounted


def test_the_whole_job_as_an_ordinary_user(person, place):
    user = User(SOMEBODY)
    source = sample(place / "source")
    assert person.put("data", source) == "data:v0"
    person.mount()
    # The directory is the user's, and root is somebody else: FUSE keeps even root out.
    listing = user.succeeds(f"find . -printf '%U\\n'; cmp data/v0/large.bin '{source}/large.bin'", person.root).split()
    if os.geteuid() == 0:
        assert set(listing) == {str(SOMEBODY)}
        with pytest.raises(PermissionError):
            os.listdir(person.root)
        assert "Permission denied" in User(ANOTHER).shell(f"ls '{person.root}'", Path("/")).stderr
    edits = "echo mine > new; sed -i s/word/WORD/ words.txt; rm -r images; chmod 700 run; mkdir -p a/b"
    user.succeeds(edits, person.root / "data/staging")
    changes = person("diff", "data").stdout.splitlines()
    assert {"A\tnew", "M\twords.txt", "D\timages/", "A\ta/b/"} <= set(changes)
    assert person.commit("data", "--alias", "mended") == "data:v1"
    assert user.succeeds("cat latest/new; readlink mended", person.root / "data") == "mine\nv1\n"
    fields = user.succeeds("stat -c '%u %a' new run; cat ../../.artifactfs/status.json", person.root / "data/staging")
    if os.geteuid() == 0:
        assert fields.startswith(f"{SOMEBODY} 644\n{SOMEBODY} 700\n")
    person.unmount()
    assert mounts_below(place) == []
    assert daemons_below(place) == []


def test_a_user_s_dead_mount_is_cleared_without_root(person, place):
    user = User(SOMEBODY)
    person.put("data", sample(place / "source"))
    person.mount()
    user.succeeds("echo kept > kept", person.root / "data/staging")
    person.kill()
    assert "cleared a dead mount" in person.remount().stderr
    assert user.succeeds("cat kept", person.root / "data/staging") == "kept\n"
    words = [*user.words, "bash", "-c", f"cd '{person.root}/data/v0'; exec sleep 600"]
    with subprocess.Popen(words, cwd="/", stdin=subprocess.DEVNULL) as standing:
        eventually(lambda: Path(f"/proc/{standing.pid}/comm").read_text() == "sleep\n")
        person.kill(signal.SIGTERM)
        standing.kill()
    assert mounts_below(place) == []


def test_others_see_a_mount_that_is_for_all(person, place):
    """As root, who needs no leave for it: then permission bits decide, and staging stays its owner's to write."""
    if os.geteuid():
        refusal = person.refuses("mount", person.root, "--allow-other", "--binding", person.binding)
        assert "user_allow_other" in refusal
        return
    conf = Path("/etc/fuse.conf")
    allowed = conf.exists() and "user_allow_other" in map(str.strip, conf.read_text().splitlines())
    person.put("data", sample(place / "source"))
    if not allowed:
        person.complaints = 1
        refusal = person.refuses("mount", person.root, "--allow-other", "--binding", person.binding)
        assert "user_allow_other" in refusal
    with living(place / "root", person.binding) as mounted:
        mounted.cli.home.chmod(0o755)
        mounted.put("data", place / "source")
        mounted.mount("--allow-other")
        here, other = mounted.root / "data", User(ANOTHER)
        assert other.succeeds("./run; sha256sum < large.bin", here / "v0").startswith("ran\n")
        for script in ("echo x > new", "rm run", "chmod 777 run", "mkdir d", "touch run", "mv run walk"):
            done = other.shell(script, here / "staging")
            assert done.returncode != 0, script
            assert "ermission denied" in done.stderr or "not permitted" in done.stderr, (script, done.stderr)
        (here / "staging/open").mkdir()
        (here / "staging/open").chmod(0o777)
        (here / "staging/secret").write_text("secret")
        (here / "staging/secret").chmod(0o600)
        other.succeeds("echo theirs > file", here / "staging/open")
        assert (here / "staging/open/file").stat().st_uid == ANOTHER
        assert "ermission denied" in other.shell("cat secret", here / "staging").stderr
        assert "owners" in mounted("commit", "data").stderr
        assert content(here / "v1") == content(here / "staging")


def test_commands_of_another_user_do_not_reach_the_mount(person, place):
    person.put("data", sample(place / "source"))
    person.mount()
    if os.geteuid():
        return
    workspace = person.cli.home / ".local/state/artifactfs"
    assert stat.S_IMODE(next((workspace / "mounts").iterdir()).stat().st_mode) == 0o700
    stranger = Cli(place)
    stranger.program = (*User(ANOTHER).words, *person.cli.program[len(User(SOMEBODY).words) :])
    stranger.env = {**person.cli.env}  # his home directory as well
    stranger.refuses("status", cwd=Path("/"))
    assert stranger.run("commit", "data", cwd=Path("/")).status == 1
    assert stranger.run("unmount", person.root, cwd=Path("/")).status == 1
    assert User(SOMEBODY).succeeds("cat run", person.root / "data/v0") == "#!/bin/sh\necho ran\n"
