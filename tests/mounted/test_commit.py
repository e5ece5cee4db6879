"""From staging to versions and back: `commit`, `diff`, `stage`, `discard`, `rebase`, as a person types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.conftest import eventually
from tests.mounted.living import Mounted, followed, running, succeeds
from tests.mounted.trees import content, sample, snapshot


@pytest.fixture
def data(mounted, tmp_path) -> Path:
    """An artifact `data` with the sample tree as v0; its directory in the mount."""
    mounted.put("data", sample(tmp_path / "source"))
    return mounted.root / "data"


def shown(data: Mounted, artifact: str) -> list[tuple[str, int]]:
    """Versions of an artifact with the number of their files."""
    return [(each["version"], each["files"]) for each in json.loads(data("ls", artifact, "--json").stdout)]


# Edit, look, commit.


def test_edit_diff_commit(mounted, data):
    staging = data / "staging"
    before = content(staging)
    assert before == content(data / "v0")
    assert mounted("diff", "data").stdout == ""
    succeeds("rm images/003.png; echo new > images/new.txt; sed -i s/word/WORD/ words.txt; mkdir -p a/b", staging)
    succeeds("chmod +x nothing; mv run walk", staging)
    lines = mounted("diff", "data").stdout.splitlines()
    assert lines == [
        "A\ta/", "A\ta/b/", "D\timages/003.png", "A\timages/new.txt", "M\tnothing", "D\trun", "A\twalk", "M\twords.txt",
    ]  # fmt: skip
    assert mounted.run("diff", "data", "--exit-code").status == 1
    assert mounted.commit("data", "--description", "mended") == "data:v1"
    assert content(data / "v1") == content(staging)
    assert content(data / "v0") == before
    assert mounted("diff", "data:v0", "data:v1").stdout.splitlines() == lines
    assert mounted("diff", "data", "--exit-code").stdout == ""
    assert os.readlink(data / "latest") == "v1"


def test_the_ways_to_name_a_staging(mounted, data):
    staging = data / "staging"
    (staging / "by").write_text("directory")
    assert mounted("commit", cwd=staging / "images").stdout == "data:v1\n"
    (staging / "by").write_text("path")
    assert mounted("diff", ".", cwd=staging).stdout == "M\tby\n"
    assert mounted("commit", staging).stdout == "data:v2\n"
    (staging / "by").write_text("relative path")
    assert mounted("commit", "./images", cwd=staging).stdout == "data:v3\n"
    (staging / "by").write_text("name")
    assert mounted("commit", "data").stdout == "data:v4\n"
    assert "not inside a staging directory" in mounted.refuses("commit", status=2)
    assert "no staging directory" in mounted.refuses("commit", cwd=data / "v0", status=2)
    assert "nodata" in mounted.refuses("commit", "nodata")
    found = [(data / f"v{number}/by").read_text() for number in (1, 2, 3, 4)]
    assert found == ["directory", "path", "relative path", "name"]


def test_what_a_commit_says_about_its_version(mounted, data):
    (data / "staging/x").write_text("x")
    labels = "--alias best --alias good --metadata rows=3 --metadata by=me"
    assert mounted.commit("data", *labels.split(), "--description", "said so") == "data:v1"
    fields = json.loads((mounted.root / ".artifactfs/info/data/v1.json").read_text())
    assert fields["description"] == "said so"
    assert fields["metadata"] == {"rows": 3, "by": "me"}
    assert {os.readlink(data / alias) for alias in ("best", "good", "latest")} == {"v1"}
    succeeds("echo y > y", mounted.staging("fresh"))
    assert mounted.commit("fresh", "--type", "model") == "fresh:v0"
    assert json.loads(mounted("show", "fresh:v0", "--json").stdout)["type"] == "model"


def test_unchanged_staging_makes_no_version(mounted, data):
    assert mounted.commit("data", "--alias", "same") == "data:v0"
    succeeds("echo x > x; rm x; mv run walk; mv walk run; touch words.txt; chmod 600 words.txt", data / "staging")
    assert mounted.commit("data") == "data:v0"
    (data / "staging/words.txt").write_text((data / "v0/words.txt").read_text())
    assert mounted.commit("data") == "data:v0"
    assert shown(mounted, "data") == [("v0", 71)]
    assert os.readlink(data / "same") == "v0"


def test_a_commit_stores_what_changed(mounted, data):
    """Untouched content is neither read nor stored; of a large file only what is near the change."""
    packs = mounted.cli.home / ".local/share/artifactfs/repository/store/default/packs"

    def stored() -> int:
        return sum(path.stat().st_size for path in packs.rglob("*.pack"))

    edits = "mv large.bin other.bin; mv images pictures; chmod +x words.txt; ln other.bin third.bin; echo small > small"
    succeeds(edits, data / "staging")
    before = stored()
    done = mounted("commit", "data")
    assert done.stderr.splitlines()[0].endswith("stored")
    assert " 6 B read" in done.stderr
    assert stored() - before < 16 * 1024
    succeeds("dd if=/dev/zero of=other.bin bs=1 count=1 seek=4700000 conv=notrunc status=none", data / "staging")
    before = stored()
    mounted("commit", "data")
    assert 0 < stored() - before <= 8 << 20
    assert content(data / "v2") == content(data / "staging")


def test_staging_keeps_its_own_times_and_modes_after_a_commit(mounted, data):
    staging = data / "staging"
    succeeds(
        "touch -d 2001-01-01T00:00:00.123456789 words.txt images; chmod 640 words.txt; chmod 700 empty; ln words.txt second;"
        "setfattr -n user.a -v b words.txt; echo x >> words.txt; touch -d 2001-01-01 words.txt; mkdir -m 700 closed",
        staging,
    )
    before = snapshot(staging)
    done = mounted("commit", "data")
    assert snapshot(staging) == before
    said = ("hard links", "extended attributes of 2 entries", "permissions other than the executable bit of 3 entries")
    assert all(each in done.stderr for each in said)
    assert (data / "v1/words.txt").stat().st_mtime_ns == (data / "v1").stat().st_mtime_ns
    mounted.kill()
    mounted.remount()
    assert snapshot(staging) == before


# Bases.


def test_clean_staging_follows_latest_and_a_changed_one_keeps_its_base(mounted, data, tmp_path):
    staging = data / "staging"
    source = tmp_path / "source"
    assert (staging / "run").read_text() == "#!/bin/sh\necho ran\n"
    (source / "run").write_text("second")
    mounted.put("data", source)
    eventually(lambda: followed(staging / "run", "second"))
    assert mounted("diff", "data").stdout == ""
    (staging / "mine").write_text("mine")
    (source / "run").write_text("third")
    (source / "theirs").write_text("theirs")
    mounted.put("data", source)
    time.sleep(1)  # twice what a clean one takes to follow
    assert (staging / "run").read_text() == "second"
    refusal = mounted.refuses("commit", "data")
    assert "rebase" in refusal
    assert "--force" in refusal
    assert mounted("diff", "data").stdout == "A\tmine\n"
    mounted("rebase", "data")
    assert (staging / "run").read_text() == "third"
    assert sorted(set(os.listdir(staging)) - set(os.listdir(data / "v0"))) == ["mine", "theirs"]
    assert mounted.commit("data") == "data:v3"
    assert content(data / "v3") == content(data / "v2") | content_of_file("mine", staging)


def content_of_file(name: str, root: Path) -> dict[str, tuple[str, ...]]:
    return {name: content(root)[name]}


def test_force_commits_over_a_moved_latest(mounted, data, tmp_path):
    (data / "staging/mine").write_text("mine")
    (tmp_path / "source/theirs").write_text("theirs")
    mounted.put("data", tmp_path / "source")
    assert mounted.commit("data", "--force") == "data:v2"
    assert (data / "v2/mine").exists()
    assert not (data / "v2/theirs").exists()


def test_a_rebase_names_its_conflicts_and_changes_nothing(mounted, data, tmp_path):
    staging, source = data / "staging", tmp_path / "source"
    succeeds("rm images/001.png images/009.png; tee words.txt images/002.png mine <<< mine", staging)
    succeeds("rm images/002.png images/009.png; tee words.txt images/001.png theirs <<< theirs", source)
    mounted.put("data", source)
    before = content(staging)
    refusal = mounted.refuses("rebase", "data")
    for path in ("words.txt", "images/001.png", "images/002.png"):
        assert path in refusal
    assert "`commit --force`" in refusal
    assert "009" not in refusal  # both removed it
    assert content(staging) == before
    # Whoever has merged by hand says so.
    succeeds(
        "cp ../latest/words.txt ../latest/theirs .; cp ../latest/images/001.png images/; rm images/002.png", staging
    )
    assert mounted.commit("data", "--force") == "data:v2"
    assert mounted("diff", "data:v1", "data:v2").stdout == "A\tmine\n"


def test_discard_puts_back_and_the_kernel_sees_it_at_once(mounted, data):
    """Old bytes and names never come back, whatever the kernel had cached or a program has open."""
    staging = data / "staging"
    names = sorted(os.listdir(staging))
    for turn in range(3):
        (staging / "words.txt").write_text(f"changed {turn}")
        (staging / "new").write_text(f"new {turn}")
        (staging / "large.bin").write_bytes(b"x" * (1 << 20))
        succeeds("rm -r images; mv run walk; mkdir empty/below", staging)
        reader = (staging / "words.txt").open("rb", buffering=0)
        assert reader.read() == f"changed {turn}".encode()
        assert (staging / "large.bin").stat().st_size == 1 << 20
        mounted("discard", "data")
        assert sorted(os.listdir(staging)) == names
        assert not (staging / "new").exists()
        assert not (staging / "walk").exists()
        assert not (staging / "images/none").exists()
        assert os.listdir(staging / "empty") == []
        assert content(staging) == content(data / "v0")
        assert os.pread(reader.fileno(), 7, 0) in {b"changed", b"word 0\n"}
        reader.close()
        assert mounted("diff", "data").stdout == ""
    assert mounted.commit("data") == "data:v0"


def test_discard_while_a_file_is_mapped(mounted, data):
    """A program that may still write keeps discard from it; one that reads sees one moment or the other."""
    script = """
import mmap, subprocess, sys
mode, *command = sys.argv[1:]
with open("words.txt", mode) as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
    before = mapped[:]
    done = subprocess.run(command, capture_output=True, text=True)
    now = open("words.txt", "rb").read()
    print(done.returncode, now[:6], done.stderr)
    assert mapped[:] in (before, now), "a mixture"
assert open("words.txt", "rb").read() == now
"""
    staging = data / "staging"
    (staging / "words.txt").write_text("MINE 0" + "x" * ((data / "v0/words.txt").stat().st_size - 6))
    command = f'"$PYTHON" -c \'{script}\' %s "$PYTHON" -m artifactfs discard data'
    environment = {key: mounted.cli.env[key] for key in ("HOME", "PYTHONPATH")}
    refused = succeeds(command % "r+b", staging, **environment)
    assert refused.startswith("1 b'MINE 0'")
    assert "words.txt" in refused
    assert succeeds(command % "rb", staging, **environment).startswith("0 b'word 0'")
    assert content(staging) == content(data / "v0")


def test_stage_chooses_where_to_begin(mounted, data):
    staging = data / "staging"
    (staging / "only-in-v1").write_text("x")
    mounted.commit("data")
    assert mounted("stage", "data:v0").stdout.strip() == str(staging)
    assert content(staging) == content(data / "v0")
    (staging / "mine").write_text("mine")
    assert "--force" in mounted.refuses("stage", "data:v1")
    assert (staging / "mine").exists()
    assert "rebase" in mounted.refuses("commit", "data")
    mounted("stage", "data", "--force")
    assert content(staging) == content(data / "v1")
    mounted("stage", "data", "--empty")
    assert os.listdir(staging) == []
    (staging / "alone").write_text("alone")
    assert mounted.commit("data") == "data:v2"
    assert os.listdir(data / "v2") == ["alone"]
    mounted("stage", "other", "--empty")
    assert os.listdir(mounted.root / "other/staging") == []


def test_a_new_artifact_begins_with_mkdir(mounted):
    (mounted.root / "model").mkdir()
    assert os.listdir(mounted.root / "model") == ["staging"]
    assert mounted("ls").stdout == ""
    assert "empty" in mounted.refuses("commit", "model")
    (mounted.root / "model/staging/weights").write_bytes(b"w" * 100_000)
    assert mounted.commit("model") == "model:v0"
    assert sorted(os.listdir(mounted.root / "model")) == ["latest", "staging", "v0"]
    assert (mounted.root / "model/latest/weights").read_bytes() == b"w" * 100_000
    (mounted.root / "mistake").mkdir()
    (mounted.root / "mistake").rmdir()
    assert not (mounted.root / "mistake").exists()
    with pytest.raises(OSError, match="Invalid argument"):
        (mounted.root / "not a name").mkdir()


# Refusals.


def test_a_file_that_is_open_for_writing_refuses_the_commit(mounted, data):
    path = data / "staging/images/020.png"
    with path.open("ab") as file:
        file.write(b"half")
        file.flush()
        refusal = mounted.refuses("commit", "data")
        assert "images/020.png" in refusal
        assert str(os.getpid()) in refusal
        assert "--allow-open" in refusal
        assert os.listdir(data).count("v1") == 0
        assert mounted.commit("data", "--allow-open") == "data:v1"
        assert (data / "v1/images/020.png").read_bytes() == (data / "v0/images/020.png").read_bytes() + b"half"
        file.write(b"rest")
    assert mounted("diff", "data").stdout == "M\timages/020.png\n"
    with path.open("rb"):
        assert mounted.commit("data") == "data:v2"
    assert (data / "v2/images/020.png").read_bytes().endswith(b"halfrest")


def test_what_is_stored_in_a_mapping_is_committed(mounted, data):
    """The kernel holds such bytes back until it is asked for them; a commit asks."""
    script = """
import mmap, time
with open("large.bin", "r+b") as file:
    mapped = mmap.mmap(file.fileno(), 0)
mapped[5_000_000:5_000_006] = b"MAPPED"
print("ready", flush=True)
time.sleep(600)
"""
    with running(sys.executable, "-c", script, cwd=data / "staging", stdout=subprocess.PIPE) as user:
        assert user.stdout.readline() == b"ready\n"
        refusal = mounted.refuses("commit", "data")
        assert "large.bin" in refusal
        assert str(user.pid) in refusal
        assert mounted.commit("data", "--allow-open") == "data:v1"
        user.stdout.close()
    expected = bytearray((data / "v0/large.bin").read_bytes())
    expected[5_000_000:5_000_006] = b"MAPPED"
    assert (data / "v1/large.bin").read_bytes() == expected
    assert mounted.commit("data") == "data:v1"


def test_symlinks_that_leave_the_artifact_are_named(mounted, data):
    staging = data / "staging"
    succeeds("ln -s /etc/hostname out; ln -s ../../x images/up-and-out; ln -s ../run images/fine; echo x > x", staging)
    refusal = mounted.refuses("commit", "data")
    assert "out points to '/etc/hostname'" in refusal
    assert "images/up-and-out" in refusal
    assert "images/fine" not in refusal
    succeeds("rm out images/up-and-out", staging)
    assert mounted.commit("data") == "data:v1"
    assert os.readlink(data / "v1/images/fine") == "../run"


def test_a_read_only_mount_has_nothing_to_commit(unmounted, tmp_path):
    unmounted.put("data", sample(tmp_path / "source"))
    unmounted.mount("--read-only")
    for command in ("commit", "discard", "rebase", "diff", "stage"):
        assert "read-only" in unmounted.refuses(command, "data")


# At the same time.


def test_two_commits_at_once(mounted, data):
    """Each artifact takes its own; of two for one artifact, both make a version, or one is told why not."""
    other = mounted.staging("other")
    for turn in range(4):
        (data / "staging/turn").write_bytes(os.urandom(200_000))
        (other / "turn").write_bytes(os.urandom(200_000))
        started = [mounted.cli.start("commit", name) for name in ("data", "data", "other")]
        ends = [(process, *process.communicate(timeout=60)) for process in started]
        assert ends[2][0].returncode == 0, ends[2]
        assert ends[2][1] == f"other:v{turn}\n"
        for process, stdout, stderr in ends[:2]:
            assert stdout == f"data:v{turn + 1}\n" if process.returncode == 0 else "being committed" in stderr, stderr
        assert f"data:v{turn + 1}\n" in [stdout for _, stdout, _ in ends[:2]]
        assert content(data / f"v{turn + 1}") == content(data / "staging")
    assert [version for version, _ in shown(mounted, "data")] == [f"v{number}" for number in range(5)]


def test_nothing_written_during_commits_is_lost(mounted, data):
    """Promise 4: each acknowledged record is in the version that was made meanwhile, or still in staging."""
    staging = data / "staging"
    stop = threading.Event()
    logs = ("log0", "log1", "log2")
    acknowledged: dict[str, list[int]] = {name: [] for name in (*logs, "replaced")}

    def append(name: str) -> None:
        number = 0
        while not stop.is_set():
            # Opened for each record: the commit need not refuse.
            with (staging / name).open("ab") as file:
                file.write(b"%08d\n" % number)
            acknowledged[name].append(number)
            number += 1

    def replace() -> None:
        number = 0
        while not stop.is_set():
            (staging / "replaced.tmp").write_bytes(b"%08d\n" % number * 1000)
            (staging / "replaced.tmp").replace(staging / "replaced")
            acknowledged["replaced"].append(number)
            number += 1

    threads = [threading.Thread(target=append, args=(name,)) for name in logs]
    threads.append(threading.Thread(target=replace))
    for thread in threads:
        thread.start()
    made: list[tuple[dict[str, int], dict[str, int], int]] = []
    try:
        eventually(lambda: all(acknowledged.values()))
        for _ in range(6):
            before = {name: len(records) for name, records in acknowledged.items()}
            version = int(mounted.commit("data", "--allow-open").partition(":v")[2])
            after = {name: len(records) for name, records in acknowledged.items()}
            made.append((before, after, version))
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    for before, after, version in made:
        for name in logs:
            records = (data / f"v{version}" / name).read_bytes()
            count = len(records) // 9
            assert records == b"".join(b"%08d\n" % number for number in range(count)), (version, name)
            # Everything acknowledged before the command, and at most one record that was being written at its end.
            assert before[name] <= count <= after[name] + 1, (version, name)
        replaced = (data / f"v{version}/replaced").read_bytes()
        assert len(replaced) == 9000
        assert replaced == replaced[:9] * 1000
        assert before["replaced"] - 1 <= int(replaced[:8]) <= after["replaced"]
    assert len({version for _, _, version in made}) == len(made)
    for name, records in acknowledged.items():
        if name != "replaced":
            assert (staging / name).read_bytes() == b"".join(b"%08d\n" % number for number in records)
    last = mounted.commit("data").partition(":")[2]
    assert content(data / last) == content(staging)


def test_a_second_mount_of_the_same_repository(mounted, data, tmp_path):
    """Each mount has its own staging; versions made in one appear in the other."""
    second = tmp_path / "second"
    mounted("mount", second, "--binding", mounted.binding)
    (data / "staging/first").write_text("first")
    assert not (second / "data/staging/first").exists()
    (second / "data/staging/other").write_text("other")
    assert mounted("commit", data / "staging").stdout == "data:v1\n"
    assert (second / "data/latest/first").read_text() == "first"
    assert "rebase" in mounted.refuses("commit", second / "data/staging")
    assert "several mounts" in mounted.refuses("commit", "data", status=2)
    mounted("rebase", second / "data/staging")
    assert mounted("commit", cwd=second / "data/staging").stdout == "data:v2\n"
    assert sorted(set(os.listdir(data / "v2")) - set(os.listdir(data / "v0"))) == ["first", "other"]
    eventually(lambda: followed(data / "staging/other", "other"))
    mounted("unmount", second)
