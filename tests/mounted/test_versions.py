"""Versions, read by ordinary programs: the right bytes, read-only, one version an open file, each byte asked for once."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.repository import Repository
from tests.conftest import eventually
from tests.mounted.living import BINDINGS, Mounted, living, shell, succeeds
from tests.mounted.trees import content, sample

READ_ONLY = "Read-only file system"


class Library(Mounted):
    """A mount with a version of the sample tree in it, which the tests of this module share."""

    source: Path

    @property
    def v0(self) -> Path:
        return self.root / "data/v0"


@pytest.fixture(scope="module", params=BINDINGS)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    directory = tmp_path_factory.mktemp("library")
    with living(directory, request.param) as mounted:
        mounted.__class__ = Library
        mounted.source = sample(directory / "source")
        mounted.put("data", mounted.source)
        mounted.mount()
        yield mounted


# The bytes.


def test_a_version_is_what_was_put(library):
    succeeds(f"diff -r --no-dereference '{library.source}' .", library.v0)
    sums = "find . -type f -print0 | sort -z | xargs -0 sha256sum -z"
    assert succeeds(sums, library.v0) == succeeds(sums, library.source)
    succeeds(f"cmp large.bin '{library.source}/large.bin'", library.v0)
    assert content(library.v0) == content(library.source)


def test_parts_of_a_file_read_in_any_way(library):
    script = """
import mmap, os, random, sys
mounted, source = (open(path, "rb", buffering=0) for path in sys.argv[1:])
random.seed(7)
size = os.fstat(source.fileno()).st_size
for _ in range(200):
    offset, length = random.randrange(size + 100_000), random.choice((1, 100, 4096, 70_000, 1_500_000))
    assert os.pread(mounted.fileno(), length, offset) == os.pread(source.fileno(), length, offset), (offset, length)
with mmap.mmap(mounted.fileno(), 0, prot=mmap.PROT_READ) as one, mmap.mmap(source.fileno(), 0, prot=mmap.PROT_READ) as two:
    for _ in range(200):
        offset, length = random.randrange(size), random.choice((1, 5000, 300_000))
        assert one[offset:offset + length] == two[offset:offset + length], (offset, length)
    assert one[:] == two[:]
assert os.lseek(mounted.fileno(), 0, os.SEEK_DATA) == 0
assert os.lseek(mounted.fileno(), 0, os.SEEK_HOLE) == size
"""
    succeeds(f"\"$PYTHON\" -c '{script}' large.bin '{library.source}/large.bin'", library.v0)


def test_programs_run_from_a_version(library):
    assert succeeds("./run; images/up; sh -c 'exec ./run'", library.v0) == "ran\n" * 3


# What tools see.


def test_tools_see_the_right_sizes_and_links(library):
    listing = r"find . \( -type d -printf '%p %y %m\n' \) -o -printf '%p %y %m %n %s %l\n' | sort"
    assert succeeds(listing, library.v0) == succeeds(listing, library.source)
    assert succeeds("find . -noleaf | sort", library.v0) == succeeds("find . | sort", library.v0)
    sizes = "find . -type f -print0 | du --files0-from=- -b -c | sort"
    assert succeeds(sizes, library.v0) == succeeds(sizes, library.source)
    used = int(succeeds("du -s -B1 large.bin", library.v0).split()[0])
    assert used == (library.source / "large.bin").stat().st_size
    assert succeeds("df . | tail -n 1", library.v0).split()[-1] == str(library.root)


def test_rsync_tar_and_git_find_no_difference(library, tmp_path):
    assert succeeds(f"rsync -rlpn --checksum --delete --itemize-changes '{library.source}/' ./", library.v0) == ""
    succeeds(f"tar c . | tar x -C '{tmp_path}'", library.v0)
    assert content(tmp_path) == content(library.source)
    succeeds(f"git diff --no-index --quiet '{library.source}' .", library.v0)
    # What is copied out and put again is the version that it came from.
    library.run("put", "data", tmp_path)
    assert [each["version"] for each in json.loads(library("ls", "data", "--json").stdout)] == ["v0"]


def test_every_entry_has_a_number_of_its_own_that_stays(library):
    numbers = "find . -printf '%i %p\\n'"
    first = succeeds(numbers, library.root / "data")
    assert len({line.split()[0] for line in first.splitlines() if " ./" in line}) == len(
        [line for line in first.splitlines() if " ./" in line]
    )
    assert succeeds(numbers, library.root / "data") == first


def test_directories_that_are_read_at_once_are_not_mixed_up(mounted, tmp_path):
    for name in ("one", "two"):
        (tmp_path / "source" / name).mkdir(parents=True)
        for number in range(1200):
            (tmp_path / "source" / name / f"{name}-{number:04d}-{'x' * 60}").touch()
    mounted.put("data", tmp_path / "source")
    version = mounted.root / "data/v0"
    with os.scandir(version / "one") as one, os.scandir(version / "two") as two:
        listed = [(first.name[:8], second.name[:8]) for first, second in zip(one, two, strict=True)]
    assert sorted(listed) == [(f"one-{number:04d}", f"two-{number:04d}") for number in range(1200)]
    assert len(os.listdir(version / "one")) == 1200


# Refusals: at once, and with the right error.

WRITES = {
    "append": "echo x >> words.txt",
    "overwrite": "echo x > words.txt",
    "create": "echo x > new",
    "remove": "rm -f words.txt",
    "remove a tree": "rm -r images",
    "rmdir": "rmdir empty",
    "move": "mv words.txt others.txt",
    "move over": "mv words.txt run",
    "move a directory": "mv images pictures",
    "mkdir": "mkdir new",
    "link": "ln words.txt new",
    "symlink": "ln -s words.txt new",
    "chmod": "chmod +x words.txt",
    "chown": "chown 1:1 words.txt",
    "touch": "touch words.txt",
    "touch new": "touch new",
    "times": "touch -d 2001-01-01 words.txt",
    "truncate": "truncate -s 10 words.txt",
    "punch": "fallocate -p -o 0 -l 4096 large.bin",
    "xattr": "setfattr -n user.x -v y words.txt",
    "xattr removed": "setfattr -x user.artifactfs.digest words.txt",
    "mkfifo": "mkfifo new",
    "mknod": "mknod new p",
    "sed": "sed -i s/word/x/ words.txt",
    "dd": "dd if=/dev/zero of=large.bin bs=1 count=1 conv=notrunc",
    "cp": "cp run words.txt",
    "tar": "tar c -C .. --transform s/^v0/x/ v0/run | tar x",
    "into it from staging": "mv ../staging/run .",
}


def test_nothing_writes_to_a_version(library):
    before = content(library.v0)
    for name, script in WRITES.items():
        done = shell(script, library.v0)
        assert done.returncode != 0, name
        assert READ_ONLY in done.stderr, (name, done.stderr)
    assert content(library.v0) == before == content(library.source)


def test_what_commands_make_is_not_made_or_moved_by_hand(library):
    not_permitted = "Operation not permitted"
    here = library.root / "data"
    for script in ("touch new", "mkdir new", "rm latest", "ln -sfn v0 best", "mv v0 v9", "mv latest newest",
                   "rmdir v0", "rmdir staging", "mv staging new", "echo x > ../.artifactfs/status.json", "touch ../.artifactfs/x",
                   "rm ../.artifactfs/status.json", "touch ../file", "mv ../data ../other", "rmdir ../data"):  # fmt: skip
        done = shell(script, here)
        assert done.returncode != 0, script
        assert any(text in done.stderr for text in (not_permitted, READ_ONLY)), (script, done.stderr)
    assert sorted(os.listdir(here)) == ["latest", "staging", "v0"]
    assert os.readlink(here / "latest") == "v0"


# What moves, and what does not.


def test_new_names_and_moved_aliases_are_there_at_once(mounted, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    root = mounted.root
    assert not (root / "new").exists()
    assert not (root / "new/v0/a").exists()
    for number in range(3):
        assert not (root / f"new/v{number}").exists()
        (source / "a").write_text(f"{number}\n" * (number + 1))
        assert mounted.put("new", source) == f"new:v{number}"
        assert os.readlink(root / "new/latest") == f"v{number}"
        assert (root / "new/latest/a").read_text() == f"{number}\n" * (number + 1)
        assert f"v{number}" in os.listdir(root / "new")
    assert not os.path.lexists(root / "new/best")
    mounted("alias", "add", "new:v1", "best")
    assert (root / "new/best/a").read_text() == "1\n1\n"
    mounted("alias", "add", "new:v2", "best")
    assert (root / "new/best/a").read_text() == "2\n2\n2\n"
    mounted("alias", "remove", "new", "best")
    assert not os.path.lexists(root / "new/best")
    assert "new" in os.listdir(root)


def test_an_open_file_keeps_its_version(mounted, tmp_path):
    """Promise 2: while the alias moves, whoever has a file open reads one version to its end."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(2):
        (source / "a").write_bytes(bytes([65 + number]) * 1_000_000)
        mounted.put("data", source)
    path = mounted.root / "data/best/a"
    with Repository.open(str(mounted.cli.home / ".local/share/artifactfs/repository")) as repository:
        for turn in range(60):
            repository.registry.move_aliases("data", turn % 2, ["best"])
            with path.open("rb", buffering=0) as file:
                first = file.read(1000)
                repository.registry.move_aliases("data", 1 - turn % 2, ["best"])
                file.seek(500_000)
                rest = file.read(1000)
            assert first == bytes([65 + turn % 2]) * 1000
            assert rest == first
            assert path.read_bytes() == bytes([65 + 1 - turn % 2]) * 1_000_000


def test_a_pin_keeps_latest_for_a_job(unmounted, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for number in range(2):
        (source / "a").write_text(str(number))
        unmounted.put("data", source)
    unmounted.mount("--pin", "data=v0")
    assert (unmounted.root / "data/latest/a").read_text() == "0"
    (source / "a").write_text("2")
    assert unmounted.put("data", source) == "data:v2"
    assert (unmounted.root / "data/latest/a").read_text() == "0"
    assert (unmounted.root / "data/v2/a").read_text() == "2"
    assert "pinned to v0" in unmounted("status").stdout


def test_a_read_only_mount(unmounted, tmp_path):
    source = sample(tmp_path / "source")
    unmounted.put("data", source)
    unmounted.mount("--read-only")
    here = unmounted.root / "data"
    assert sorted(os.listdir(here)) == ["latest", "v0"]
    succeeds(f"diff -r --no-dereference '{source}' v0", here)
    succeeds(f"cmp v0/large.bin '{source}/large.bin'", here)
    for script in ("echo x >> v0/words.txt", "touch new", "mkdir ../new", "rm latest", "chmod +x v0/words.txt"):
        assert READ_ONLY in shell(script, here).stderr, script
    (source / "later").write_text("later")
    unmounted.put("data", source)
    assert (here / "latest/later").read_text() == "later"
    assert not (here / "v0/later").exists()


# Counts: what the process is asked, once the kernel knows a file.


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[Mounted]:
    with living(tmp_path / "m", "kernel") as mounted:
        mounted.put("data", sample(tmp_path / "source"))
        yield mounted


def read_plainly(path: Path) -> bytes:
    """As `cat` does, without what Python asks of a file that it opens."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        parts = []
        while part := os.read(descriptor, 1 << 20):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def test_a_second_read_asks_for_neither_bytes_nor_names(counted):
    counted.mount()
    large, images = counted.root / "data/v0/large.bin", counted.root / "data/v0/images"

    def read():
        read_plainly(large)
        for number in range(60):
            read_plainly(images / f"{number:03d}.png")

    first = counted.requests_of(read)
    assert first["read"] > 9  # of at most 1 MiB
    assert counted.requests_of(read) == {"open": 61, "release": 61}
    assert counted.requests_of(read) == {"open": 61, "release": 61}


def test_a_read_only_mount_does_not_even_hear_of_a_second_read(counted):
    counted.mount("--read-only")
    images = counted.root / "data/v0/images"

    def read():
        for number in range(60):
            read_plainly(images / f"{number:03d}.png")

    read()
    assert counted.requests_of(read) == {}


def test_a_listing_brings_attributes_and_a_small_file_takes_three_requests(counted):
    counted.mount()
    images = counted.root / "data/v0/images"
    look = "find . -printf '%s %T@\n'"
    listing = counted.requests_of(lambda: succeeds(look, images))
    assert listing["readdirplus"] >= 1
    assert listing["getattr"] + listing["readdir"] == 0
    assert listing["lookup"] <= 3  # the way to the directory
    reading = counted.requests_of(lambda: [read_plainly(images / f"{number:03d}.png") for number in range(10, 60)])
    assert reading == {"open": 50, "read": 50, "release": 50}
    again = counted.requests_of(lambda: succeeds(look, images))
    assert again["lookup"] + again["readdir"] + again["readdirplus"] == 0
    # The kernel holds that a read has changed the access time, so it asks once more for the attributes of what was read.
    assert again["getattr"] <= 53
    assert counted.requests_of(lambda: succeeds(look, images))["getattr"] == 0


def test_names_that_are_not_there_are_asked_for_once(counted):
    counted.mount()
    missing = counted.root / "data/v0/images/none.png"
    assert counted.requests_of(missing.exists)["lookup"] >= 1
    assert counted.requests_of(missing.exists)["lookup"] == 0


# Damage.


def test_a_damaged_file_is_an_error_and_the_mount_lives_on(unmounted, tmp_path):
    """Promise 1: other bytes than those put are never handed over, and nothing else suffers."""
    source = sample(tmp_path / "source")
    unmounted.put("data", source)
    home = unmounted.cli.home / ".local/share/artifactfs/repository"
    with Repository.open(str(home)) as repository:
        entry = repository.entry(repository.registry.versions("data")[0], "large.bin")
        piece = repository.open_file(entry).pieces()[4]
        place = repository.registry.locate([piece.digest])[piece.digest]
        before = sum(each.size for each in repository.open_file(entry).pieces()[:4])
    (pack,) = home.rglob(f"{place.pack}.pack")
    pack.chmod(0o600)
    with pack.open("r+b") as file:
        file.seek(place.offset + 1000)
        byte = file.read(1)[0]
        file.seek(place.offset + 1000)
        file.write(bytes([byte ^ 0x10]))
    unmounted.mount()
    unmounted.complaints = 1000
    v0 = unmounted.root / "data/v0"
    for _ in range(2):
        done = shell("cat large.bin > /dev/null", v0)
        assert "Input/output error" in done.stderr
    # Bytes before the damage are right, and every other file is whole.
    good = subprocess.run(["head", "-c", str(before // 2), v0 / "large.bin"], capture_output=True, check=True).stdout
    assert good == (source / "large.bin").read_bytes()[: before // 2]
    assert content(v0, without="large.bin") == content(source, without="large.bin")
    eventually(lambda: "large.bin" in unmounted.log() or entry.digest.hex() in unmounted.log())
    assert unmounted.run("verify", "data:v0").status == 1
