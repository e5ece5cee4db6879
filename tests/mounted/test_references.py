"""References through a mount, as programs meet them: files whose bytes come from where they lie."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import eventually
from tests.mounted.living import Mounted, living, succeeds
from tests.mounted.served import serving
from tests.web import Web, web_server

LARGE = random.Random(1).randbytes(12 << 20)
RETRIES = 8  # the kernel asks for a page more than once before it gives up
TIMEOUT = "8"  # of a source that is silent


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server() as running:
        running.put("day.csv", b"day,rented\n1,985\n")
        running.put("other.csv", b"other\n")
        running.put("large.bin", LARGE)
        yield running


@pytest.fixture
def raw(tmp_path: Path, binding: str, web: Web) -> Iterator[Mounted]:
    """A mount with ``raw:v0``: three references, one of an unknown scheme, one recorded by its URI alone, and a file."""
    with living(tmp_path / "m", binding) as made:
        log(made, web)
        made.mount()
        web.asked.clear()
        yield made


def log(made: Mounted, web: Web) -> None:
    source = made.cli.home / "notes.txt"
    source.write_text("notes\n")
    words = ["put", "raw", source]
    for name in ("day.csv", "other.csv", "large.bin"):
        words += ["--reference", f"{web.uri(name)}=in/{name}"]
    made(*words, "--reference", "odd://host/x=odd")


def fails(path: Path) -> int:
    with pytest.raises(OSError) as caught:
        path.read_bytes()
    assert caught.value.errno is not None
    return caught.value.errno


def test_tools_read_them_as_files(raw: Mounted, web: Web):
    version = raw.root / "raw/v0"
    assert succeeds("wc -c in/day.csv in/large.bin; cat in/day.csv; readlink odd", version).split() == [
        "17", "in/day.csv", str(len(LARGE)), "in/large.bin", str(len(LARGE) + 17), "total", "day,rented", "1,985", "odd://host/x",
    ]  # fmt: skip
    assert (version / "in/large.bin").read_bytes() == LARGE
    assert succeeds("find . -type l; tail -c 4 in/large.bin | od -An -tu1", version).split() == [
        "./odd", *map(str, LARGE[-4:]),
    ]  # fmt: skip
    assert web.asked["GET day.csv"] == 1
    assert os.getxattr(version / "in/day.csv", "user.artifactfs.reference") == web.uri("day.csv").encode()


def test_they_are_kept_for_a_time_without_their_source(raw: Mounted, web: Web):
    path = raw.root / "raw/v0/in/day.csv"
    path.read_bytes()
    raw.unmount()
    web.objects.clear()
    raw.mount()
    assert path.read_bytes() == b"day,rented\n1,985\n"
    raw.complaints += RETRIES
    assert fails(raw.root / "raw/v0/in/other.csv") == errno.ENOENT
    assert "is not there" in os.getxattr(raw.root / "raw/v0/in/other.csv", "user.artifactfs.last_error").decode()


def test_a_changed_source_is_an_input_error(raw: Mounted, web: Web):
    web.objects["day.csv"] = b"day,rented\n1,986\n"
    raw.complaints += RETRIES
    assert fails(raw.root / "raw/v0/in/day.csv") == errno.EIO
    said = os.getxattr(raw.root / "raw/v0/in/day.csv", "user.artifactfs.last_error").decode()
    assert said.startswith("raw:v0/in/day.csv: the source ")
    assert "has changed: recorded etag" in said
    assert said in raw.log()
    assert (raw.root / "raw/v0/in/other.csv").read_bytes() == b"other\n"
    assert (raw.root / "raw/v0/notes.txt").read_text() == "notes\n"


def test_a_stalled_source_holds_nothing_else_up(raw: Mounted, web: Web):
    raw.unmount()
    raw.cli.env["ARTIFACTFS_TIMEOUT"] = TIMEOUT
    raw.mount()
    web.stalled.add("large.bin")
    outcomes: list[int] = []
    path = raw.root / "raw/v0/in/large.bin"
    readers = [threading.Thread(target=lambda: outcomes.append(fails(path))) for _ in range(20)]
    for reader in readers:
        reader.start()
    eventually(lambda: web.asked["GET large.bin"] >= 1)
    assert (raw.root / "raw/v0/in/other.csv").read_bytes() == b"other\n"
    assert (raw.root / "raw/v0/notes.txt").read_text() == "notes\n"
    assert outcomes == []
    for reader in readers:
        reader.join(60)
    assert len(outcomes) == 20
    assert set(outcomes) <= {errno.ETIMEDOUT, errno.EIO}


def test_staging_shows_them_and_a_commit_keeps_them(raw: Mounted, web: Web):
    staging = raw.root / "raw/staging"
    assert (staging / "in/day.csv").read_bytes() == b"day,rented\n1,985\n"
    with pytest.raises(PermissionError), (staging / "in/day.csv").open("ab") as file:
        file.write(b"more")
    (staging / "in/other.csv").write_bytes(b"mine\n")
    succeeds("sed -i s/985/986/ in/day.csv; mv in/large.bin kept.bin", staging)
    assert raw.commit("raw") == "raw:v1"
    committed = raw("ls", "-R", "-l", "raw:v1").lines
    kinds = {
        line.split()[-1] if " -> " not in line else line.split(" -> ")[0].split()[-1]: line.split()[0]
        for line in committed
    }
    assert kinds == {
        "in/": "directory", "in/day.csv": "file", "in/other.csv": "file", "kept.bin": "reference", "notes.txt": "file",
        "odd": "reference",
    }  # fmt: skip
    assert (raw.root / "raw/v1/kept.bin").read_bytes() == LARGE
    assert (raw.root / "raw/v1/in/day.csv").read_bytes() == b"day,rented\n1,986\n"


def test_one_recorded_by_its_uri_alone(unmounted: Mounted, web: Web):
    unmounted("put", "raw", "--no-checksum", "--reference", web.uri("day.csv"))
    unmounted.mount()
    path = unmounted.root / "raw/v0/day.csv"
    assert succeeds("cat day.csv; cp day.csv /dev/stdout", path.parent) == "day,rented\n1,985\n" * 2
    assert path.stat().st_size == 17
    web.objects["day.csv"] = b"another text\n"
    assert path.read_bytes() == b"another text\n"
    assert path.stat().st_size == 13
    unmounted.unmount()
    unmounted.mount("--read-only")
    assert path.stat().st_size == 13
    assert path.read_bytes() == b"another text\n"


def test_a_source_in_the_mount_itself_ends_at_once(raw: Mounted):
    own = raw.root / "raw/v0/notes.txt"
    raw("put", "loop", "--reference", f"{own.as_uri()}=own")
    assert fails(raw.root / "loop/v0/own") == errno.EIO
    assert "lies in this mount" in os.getxattr(raw.root / "loop/v0/own", "user.artifactfs.last_error").decode()
    raw.kill()


def test_local_files_are_checked_too(raw: Mounted, tmp_path: Path):
    source = tmp_path / "local.bin"
    source.write_bytes(LARGE)
    raw("put", "local", "--reference", f"{source.as_uri()}=deep/local.bin")
    path = raw.root / "local/v0/deep/local.bin"
    assert path.read_bytes() == LARGE
    raw.unmount()
    raw.mount()
    with source.open("r+b") as file:
        file.seek(10 << 20)
        file.write(b"damaged")
    raw.complaints += RETRIES
    with path.open("rb") as file:
        assert file.read(1 << 20) == LARGE[: 1 << 20]
    assert fails(path) == errno.EIO


def test_the_content_never_passes_through_the_server(tmp_path: Path, binding: str, web: Web):
    with serving(tmp_path / "server") as server, living(tmp_path / "m", binding) as client:
        client.cli.env["ARTIFACTFS_REPOSITORY"] = server.url
        log(client, web)
        client.mount()
        path = client.root / "raw/v0/in/large.bin"
        asked = server.requests_of(path.read_bytes)
        assert not any("content" in request or "packs" in request for request in asked), asked
        assert path.read_bytes() == LARGE
        stored = subprocess.run(
            ["grep", "-rlF", "day,rented", server.repository], check=False, capture_output=True, text=True
        )
        assert stored.stdout == ""


def as_nobody(command: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", command], cwd=directory, user="nobody", group="nogroup", extra_groups=[],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that every user may go through, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize("read_only", [False, True], ids=["writable", "read-only"])
def test_in_a_mount_that_others_see_they_are_read_with_ones_own_credentials(
    open_place: Path, binding: str, web: Web, read_only: bool
):
    words = ("--allow-other", *(("--read-only",) if read_only else ()))
    with living(open_place / "m", binding) as made:
        log(made, web)
        made("put", "copied", "--reference", "artifact://default/raw:v0/notes.txt=notes.txt")
        private = made.cli.home / "private.txt"
        private.write_text("not for everybody\n")
        private.chmod(0o600)
        made("put", "private", "--reference", f"{private.as_uri()}=private.txt")
        made("put", "around", "--no-checksum", "--reference", "artifact://default/raw:v0/in/day.csv=day.csv")
        made("put", "around", "--no-checksum", "--reference", "artifact://default/private:v0/private.txt=private.txt")
        assert "give --allow-other too" in made.refuses("mount", made.root, "--share-references", status=2)
        made.mount(*words)
        places = [made.root / "raw/v0", *([] if read_only else [made.root / "raw/staging"])]
        for place in places:
            # Whoever mounted reads, so that the bytes are in the kernel's memory; another one sees it and may not.
            assert (place / "in/day.csv").read_bytes() == b"day,rented\n1,985\n"
            assert as_nobody("stat -c %s in/day.csv; cat notes.txt", place).stdout == "17\nnotes\n"
            refused = as_nobody("cat in/day.csv", place)
            assert (refused.stdout, refused.returncode) == ("", 1)
            assert "Permission denied" in refused.stderr
        assert as_nobody("cat notes.txt", made.root / "copied/v0").stdout == "notes\n"  # of this repository
        around = [made.root / "around/v0/day.csv", made.root / "around/v1/private.txt"]
        assert [path.read_text() for path in around] == ["day,rented\n1,985\n", "not for everybody\n"]
        assert "Permission denied" in as_nobody(f"cat {around[0]}", Path("/")).stderr
        made.unmount()
        made.mount(*words, "--share-references")
        for place in places:
            assert as_nobody("cat in/day.csv", place).stdout == "day,rented\n1,985\n"
        assert around[1].read_text() == "not for everybody\n"  # what a reference without a digest leads to is not lent
        refused = as_nobody(f"cat {around[1]}", Path("/"))
        assert (refused.stdout, refused.returncode) == ("", 1)
