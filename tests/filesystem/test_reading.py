"""What a program sees through ``artifactfs://``: listings, files, versions; and what it is told when it is wrong."""

from __future__ import annotations

import errno
import gzip
import io
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from datetime import UTC, datetime

import fsspec
import pytest

from artifactfs.errors import InvalidInput
from artifactfs.filesystem.adapter import ArtifactFileSystem
from artifactfs.filesystem.opened import repository_of
from artifactfs.model.names import parse_address
from artifactfs.repository import Repository
from tests.conftest import TESTS
from tests.web import web_server

LARGE = 9 << 20  # several chunks
FILES = 20


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


# -- looking ---------------------------------------------------------------------------------------------------------


def test_a_url_is_enough(logged, guide):
    logged(guide)
    with fsspec.open("artifactfs://data:latest/images/cat.png", **logged.options) as file:
        assert file.read() == b"images/cat.png" * 100
    fs, path = fsspec.url_to_fs("artifactfs://data:v0/images", **logged.options)
    assert (type(fs), path) == (ArtifactFileSystem, "data:v0/images")


def test_listings(either, guide):
    version = either(guide)
    either(guide, "other")
    fs = either.fs()
    assert fs.ls("", detail=False) == ["data", "other"]
    assert fs.ls("artifactfs://data:latest/", detail=False) == [
        "data:latest/checkpoints", "data:latest/images", "data:latest/model.h5"
    ]  # fmt: skip
    assert fs.ls("data/images", detail=False) == ["data/images/cat.png", "data/images/dog.png"]
    assert fs.ls("data:v0/model.h5", detail=False) == ["data:v0/model.h5"]
    (known,) = fs.ls("data:latest/model.h5")
    assert known == fs.info("data:latest/model.h5")
    assert (known["type"], known["size"], known["version"]) == ("file", 800, "data:v0")
    assert known["digest"].startswith("blake3:")
    assert known["created"] == version.created / 1e9
    assert fs.created("data:latest/model.h5") == datetime.fromtimestamp(version.created / 1e9, UTC)
    assert fs.info("data:latest/images")["type"] == "directory"
    assert fs.info("")["type"] == "directory"
    assert fs.du("data:latest") == 100 * sum(
        map(len, ("images/cat.png", "images/dog.png", "checkpoints/model.h5", "model.h5"))
    )


def test_walk_find_and_glob(either, guide):
    either(guide)
    fs = either.fs()
    assert [(where, sorted(dirs), sorted(files)) for where, dirs, files in fs.walk("data:latest")] == [
        ("data:latest", ["checkpoints", "images"], ["model.h5"]),
        ("data:latest/checkpoints", [], ["model.h5"]),
        ("data:latest/images", [], ["cat.png", "dog.png"]),
    ]
    files = ["checkpoints/model.h5", "images/cat.png", "images/dog.png", "model.h5"]
    assert fs.find("data:v0") == [f"data:v0/{path}" for path in files]
    assert fs.find("data:v0", maxdepth=1) == ["data:v0/model.h5"]
    assert fs.glob("data:latest/*/*.png") == ["data:latest/images/cat.png", "data:latest/images/dog.png"]
    assert fs.glob("artifactfs://data:latest/**/model.h5") == [
        "data:latest/checkpoints/model.h5", "data:latest/model.h5"
    ]  # fmt: skip
    assert fs.glob("*") == ["data"]


def test_a_pattern_may_be_one_of_versions_and_aliases(logged, guide):
    logged(guide, aliases=("best",))
    write(guide / "images/new.png", "new")
    logged(guide)
    logged(guide, "other", project="bikes")
    fs = logged.fs()
    assert fs.glob("data:v*/images/*.png") == [
        "data:v0/images/cat.png", "data:v0/images/dog.png",
        "data:v1/images/cat.png", "data:v1/images/dog.png", "data:v1/images/new.png",
    ]  # fmt: skip
    assert fs.glob("d*:best/model.h5") == ["data:best/model.h5"]
    assert fs.glob("artifactfs://data:[bl]*/images/new.png") == ["data:latest/images/new.png"]
    assert fs.glob("bikes/o*:v0/model.h5", detail=True).keys() == {"bikes/other:v0/model.h5"}
    assert fs.glob("none*:v0/*") == []


def test_every_form_of_address(logged, guide):
    version = logged(guide, aliases=("best",))
    logged(guide, "other", project="bikes")
    fs = logged.fs()
    for head in (
        "data",
        "data:v0",
        "data:best",
        "default/data:latest",
        "bikes/other:v0",
        f"data@blake3:{version.digest.hex()}",
    ):
        assert fs.cat_file(f"{head}/model.h5") == b"model.h5" * 100, head
    with fs.open("bikes/other:latest/model.h5") as file:
        assert (file.path, file.full_name) == ("bikes/other:v0/model.h5", "artifactfs://bikes/other:v0/model.h5")
        assert file.read(5) == b"model"
    assert logged.fs(project="bikes").ls("", detail=False) == ["other"]


def test_symlinks(logged, tmp_path):
    root = tmp_path / "linked"
    write(root / "real/deep/file.txt", "here")
    (root / "to-file").symlink_to("real/deep/file.txt")
    (root / "to-directory").symlink_to("real")
    (root / "real/up").symlink_to("../to-file")
    (root / "to-nowhere").symlink_to("real/none")
    (root / "loop").symlink_to("loop")
    (root / "real/around").symlink_to("../real")
    logged(root)
    fs = logged.fs()
    for path in (
        "to-file",
        "to-directory/deep/file.txt",
        "real/up",
        "to-directory/up",
        "to-directory/around/around/up",
    ):
        assert fs.cat_file(f"data:latest/{path}") == b"here", path
    kinds = {info["name"].rpartition("/")[2]: (info["type"], info.get("destination")) for info in fs.ls("data:latest")}
    assert kinds == {
        "real": ("directory", None),
        "to-file": ("file", "real/deep/file.txt"),
        "to-directory": ("link", "real"),
        "to-nowhere": ("link", "real/none"),
        "loop": ("link", "loop"),
    }
    assert fs.isdir("data:latest/to-directory")
    assert fs.ls("data:latest/to-directory/deep", detail=False) == ["data:latest/to-directory/deep/file.txt"]
    for path in ("loop", "to-nowhere", "loop/x", "to-file/x"):
        assert not fs.exists(f"data:latest/{path}"), path
    # A walk ends, and does not go through links to directories.
    assert len(fs.find("data:latest")) == 7


# -- reading ---------------------------------------------------------------------------------------------------------


def test_a_file_reads_as_one_on_the_disk(either, tmp_path):
    content = os.urandom(LARGE)
    (tmp_path / "large.bin").write_bytes(content)
    either(tmp_path / "large.bin")
    disk = io.BytesIO(content)
    with either.fs().open("data:latest/large.bin") as file:
        assert file.readable()
        assert file.seekable()
        assert not file.writable()
        assert file.size == LARGE
        for place, length in (
            (0, 10),
            (5 << 20, 3 << 20),
            (LARGE - 5, 100),
            (17, 0),
            (LARGE + 5, 1),
            (4 << 20, 200_000),
        ):
            assert file.seek(place) == disk.seek(place)
            assert file.read(length) == disk.read(length), (place, length)
            assert file.tell() == disk.tell()
        assert file.seek(-100, io.SEEK_END) == LARGE - 100
        assert file.read() == content[-100:]
        assert file.seek(-50, io.SEEK_CUR) == LARGE - 50
        buffer = bytearray(20)
        assert file.readinto(buffer) == 20
        assert buffer == content[-50:-30]
        with pytest.raises(OSError, match="before the start"):
            file.seek(-1)
        with pytest.raises(io.UnsupportedOperation):
            file.write(b"x")
    with pytest.raises(ValueError, match="closed"):
        file.read()


def test_text_lines_and_compression(logged, tmp_path):
    root = tmp_path / "root"
    write(root / "words.txt", "".join(f"größe {number}\r\n" for number in range(30_000)))
    (root / "words.gz").write_bytes(gzip.compress((root / "words.txt").read_bytes()))
    logged(root)
    fs = logged.fs()
    with fs.open("data/words.txt", "rt", encoding="utf-8") as file:
        assert sum(1 for line in file if line.startswith("größe ") and line.endswith("\n")) == 30_000
    with fs.open("data/words.txt", "r", encoding="utf-8", newline="") as file:
        assert file.readline() == "größe 0\r\n"
    with fs.open("data/words.gz", compression="infer") as file:
        assert file.read() == (root / "words.txt").read_bytes()
    assert fs.read_block("data/words.txt", 3, 20, b"\n").decode() == "größe 1\r\ngröße 2\r\n"
    assert fs.head("data/words.txt", 4) == "grö".encode()
    assert fs.tail("data/words.txt", 7) == b"29999\r\n"


def test_ranges(either, tmp_path):
    content = os.urandom(LARGE)
    root = tmp_path / "root"
    root.mkdir()
    (root / "large").write_bytes(content)
    (root / "small").write_bytes(b"0123456789")
    (root / "empty").touch()
    either(root)
    fs = either.fs()
    for start, end in (
        (None, None),
        (2, None),
        (None, 3),
        (2, 5),
        (-3, None),
        (None, -3),
        (-5, -2),
        (8, 100),
        (20, 30),
        (5, 2),
    ):
        assert fs.cat_file("data/small", start, end) == b"0123456789"[start:end], (start, end)
    assert fs.cat_file("data/empty") == b""
    places = [(start, start + 1000) for start in range(0, LARGE, 1 << 20)]
    assert fs.cat_ranges(["data/large"] * len(places), [s for s, _ in places], [e for _, e in places]) == [
        content[start:end] for start, end in places
    ]
    assert fs.cat_ranges(["data/small", "data/large"], 1, 3) == [b"12", content[1:3]]
    good, bad = fs.cat_ranges(["data/small", "data/none"], 0, 1)
    assert (good, type(bad)) == (b"0", FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges(["data/small", "data/none"], 0, 1, on_error="raise")
    with pytest.raises(InvalidInput, match="2 paths have 1 starts"):
        fs.cat_ranges(["data/small"] * 2, [0], [1, 2])
    assert fs.cat_ranges([], [], []) == []
    assert fs.cat("data:v0/[se]*") == {"data:v0/empty": b"", "data:v0/small": b"0123456789"}


def test_an_open_file_keeps_its_version(either, tmp_path):
    write(tmp_path / "root/file", "old" * 100_000)
    either(tmp_path / "root")
    fs = either.fs()
    file = fs.open("data:latest/file", block_size=1000)
    assert file.read(3) == b"old"
    write(tmp_path / "root/file", "new" * 100_000)
    either(tmp_path / "root")
    assert set(file.read()) == set(b"old")
    assert fs.cat_file("data:latest/file")[:3] == b"new"
    assert fs.cat_file("data:v0/file")[:3] == b"old"


def test_one_operation_sees_one_version(logged, tmp_path, monkeypatch):
    """An alias that moves while a directory is walked or copied is looked up once."""
    for number in range(FILES):
        write(tmp_path / f"root/{number}/file", "old")
    logged(tmp_path / "root")
    fs = logged.fs()
    walking = fs.walk("data:latest", detail=True)
    next(walking)
    asked = []
    resolve = Repository.resolve

    def counted(self, address):
        asked.append(address)
        return resolve(self, address)

    monkeypatch.setattr(Repository, "resolve", counted)
    for number in range(FILES):
        write(tmp_path / f"root/{number}/file", "new")
    logged(tmp_path / "root")
    assert {info["version"] for _, _, files in fs.walk("data:v0", detail=True) for info in files.values()} == {
        "data:v0"
    }
    assert len(asked) == 1
    assert {info["version"] for _, _, files in walking for info in files.values()} == {"data:v0"}
    assert len(asked) == 1
    fs.get("data:latest", str(tmp_path / "copy"), recursive=True)
    assert {path.read_text() for path in (tmp_path / "copy").rglob("file")} == {"new"}
    assert fs.cat("data:latest/*/file").keys() == {f"data:latest/{number}/file" for number in range(FILES)}
    # By fsspec, once for each step of an operation, such as whether its path is a directory; never for each file.
    assert asked.count(parse_address("data:latest")) < 10 < FILES


def test_many_threads_read_one_file(either, tmp_path):
    content = os.urandom(LARGE)
    (tmp_path / "large").write_bytes(content)
    either(tmp_path / "large")
    fs = either.fs()
    wrong = []

    def read(number):
        places = range(number, LARGE - 5000, LARGE // 7)
        wrong.extend(at for at in places if fs.cat_file("data/large", at, at + 5000) != content[at : at + 5000])

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    # Instances are made for each thread; what they read through is one.
    other = []
    thread = threading.Thread(target=lambda: other.append(logged_repository(either.fs())))
    thread.start()
    thread.join(60)
    assert other == [logged_repository(fs)]


def logged_repository(fs):
    return repository_of(fs._settings)


# -- other processes -------------------------------------------------------------------------------------------------


def child(queue, fs, file, path):
    try:
        queue.put((fs.cat_file(path)[:4], file.read(4) if file is not None else b"", os.getpid()))
    except BaseException as error:
        queue.put(repr(error))
        raise


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_workers_read_on(either, tmp_path, method):
    """What was open before a fork reads on in the child; what is sent to a spawned process reads the same repository."""
    write(tmp_path / "root/file", "abcdefgh" * 100_000)
    either(tmp_path / "root")
    fs = either.fs()
    file = fs.open("data:latest/file", block_size=1000)
    assert file.read(4) == b"abcd"
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    # daemon: one that hangs is ended with this process, which else waited for it.
    processes = [
        context.Process(target=child, args=(queue, fs, file, "data:latest/file"), daemon=True) for _ in range(2)
    ]
    for process in processes:
        process.start()
    answers = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert {answer[:2] for answer in answers} == {(b"abcd", b"efgh")}
    assert file.read(4) == b"efgh"


def test_an_instance_that_is_sent_means_the_same_repository(logged, guide, tmp_path, monkeypatch):
    logged(guide)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARTIFACTFS_PROJECT", "default")
    sent = pickle.dumps((ArtifactFileSystem(repository="repository"), None))
    file = pickle.dumps(ArtifactFileSystem(repository="repository").open("data:latest/model.h5"))
    write(guide / "model.h5", "changed")
    logged(guide)
    code = (
        "import pickle, sys\n"
        "fs, _ = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "file = pickle.loads(bytes.fromhex(sys.argv[2]))\n"
        "print(fs.cat_file('data:v0/model.h5')[:8].decode(), fs.cat_file('data:latest/model.h5').decode(), file.read(5).decode())"
    )
    (tmp_path / "elsewhere").mkdir()
    env = {**os.environ, "ARTIFACTFS_PROJECT": "another", "PYTHONPATH": str(TESTS.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code, sent.hex(), file.hex()],
        cwd=tmp_path / "elsewhere", env=env, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.stdout == "model.h5 changed model\n", done.stderr


def test_as_json(logged, guide):
    logged(guide)
    fs = logged.fs()
    again = ArtifactFileSystem.from_json(fs.to_json())
    assert again.exists("data:latest/model.h5")
    assert json.loads(fs.to_json())["protocol"] == "artifactfs"
    assert fs.fsid == f"artifactfs:{logged.location}"
    before = fs.ukey("data:latest/model.h5")
    write(guide / "new", "new")
    logged(guide)
    assert fs.ukey("data:latest/model.h5") == before
    assert fs.ukey("data:latest/new") != before


# -- what is wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "write",
    [
        lambda fs, here: fs.open("data:latest/new", "wb"),
        lambda fs, here: fs.open("data:latest/model.h5", "ab"),
        lambda fs, here: fs.open("data:latest/model.h5", "r+b"),
        lambda fs, here: fs.open("data:latest/new", "xb"),
        lambda fs, here: fs.open("data:latest/new", "w"),
        lambda fs, here: fs.touch("data:latest/new"),
        lambda fs, here: fs.pipe("data:latest/new", b"x"),
        lambda fs, here: fs.pipe_file("data:latest/new", b"x"),
        lambda fs, here: fs.write_text("data:latest/new", "x"),
        lambda fs, here: fs.write_bytes("data:latest/new", b"x"),
        lambda fs, here: fs.mkdir("data:latest/new"),
        lambda fs, here: fs.makedirs("data:latest/new"),
        lambda fs, here: fs.mkdirs("data:latest/new", exist_ok=True),
        lambda fs, here: fs.rm("data:latest/none"),
        lambda fs, here: fs.rm("data:latest", recursive=True),
        lambda fs, here: fs.rm_file("data:latest/model.h5"),
        lambda fs, here: fs.rmdir("data:latest/images"),
        lambda fs, here: fs.delete("data:latest/model.h5"),
        lambda fs, here: fs.cp("data:latest/model.h5", "data:latest/new"),
        lambda fs, here: fs.mv("data:latest/model.h5", "data:latest/new"),
        lambda fs, here: fs.rename("data:latest/model.h5", "data:latest/new"),
        lambda fs, here: fs.put(here, "data:latest/new"),
        lambda fs, here: fs.put_file(here, "data:latest/new"),
        lambda fs, here: fs.upload(here, "data:latest/new"),
        lambda fs, here: fs.start_transaction(),
    ],
)
def test_writing_is_refused(logged, guide, write):
    logged(guide)
    with pytest.raises(
        OSError, match="artifactfs:// is read-only, as versions never change; log a new version"
    ) as refused:
        write(logged.fs(), str(guide / "model.h5"))
    assert refused.value.errno == errno.EROFS
    assert len(logged.fs().find("data:latest")) == 4


def test_what_is_not_there(either, guide):
    either(guide)
    fs = either.fs()
    for path, said in (
        ("date:latest/model.h5", "did you mean data?"),
        ("data:v7/model.h5", "it has v0, aliases latest"),
        ("data:latest/nothing", "data:v0 has no 'nothing'"),
        ("data:latest/model.h5/x", "data:v0 has no 'model.h5/x'"),
    ):
        for ask in (fs.open, fs.info, fs.ls, fs.cat_file):
            with pytest.raises(FileNotFoundError) as missing:
                ask(path)
            assert said in str(missing.value)
        assert not fs.exists(path)
        assert not fs.isfile(path)
        assert not fs.isdir(path)
    assert fs.glob("data:latest/none*") == []
    assert fs.find("data:v9") == []
    with pytest.raises(FileNotFoundError):
        fs.get("data:latest/none", "/nowhere")


def test_what_is_no_path(logged, guide):
    logged(guide)
    fs = logged.fs()
    for path in ("my data:latest/x", "data:latest/../x", "data:latest//x"):
        with pytest.raises(OSError, match="not a") as wrong:
            fs.open(path)
        assert wrong.value.errno == errno.EINVAL
        assert not fs.exists(path)
    with pytest.raises(IsADirectoryError, match="data:latest/images is a directory; name a file in it"):
        fs.open("data:latest/images")
    with pytest.raises(IsADirectoryError):
        fs.cat_file("data:latest")


def test_wrong_options(logged, tmp_path):
    with pytest.raises(InvalidInput, match="artifactfs:// has no option 'repositry'; it has repository, project"):
        ArtifactFileSystem(repositry="x")
    with pytest.raises(InvalidInput, match="not a timeout: 'soon'"):
        ArtifactFileSystem(timeout="soon")
    with pytest.raises(FileNotFoundError, match="no repository at"):
        ArtifactFileSystem(repository=str(tmp_path / "none")).ls("")
    assert not (tmp_path / "none").exists()


def test_damaged_data_is_an_error_that_names_the_file(logged, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "bad").write_bytes(os.urandom(100_000))
    (root / "good").write_bytes(os.urandom(100))
    logged(root)
    for pack in (logged.location / "store").rglob("*"):
        if pack.is_file() and pack.stat().st_size > 100_000:
            data = bytearray(pack.read_bytes())
            data[50_000] ^= 1
            pack.chmod(0o600)
            pack.write_bytes(data)
    fs = logged.fs()
    for read in (lambda: fs.cat_file("data:latest/bad"), lambda: fs.open("data:latest/bad").read()):
        with pytest.raises(OSError, match=r"data:\w+/bad: ") as damaged:
            read()
        assert damaged.value.errno == errno.EIO
    assert fs.cat_file("data:latest/good") == (root / "good").read_bytes()


# -- References --------------------------------------------------------------------------------------------------------


def test_references_read_like_files(either, tmp_path):
    with web_server() as web:
        web.put("raw/day.csv", b"day,rented\n1,985\n")
        web.put("raw/other.csv", b"day,rented\n")
        (tmp_path / "local").write_bytes(b"on a disk")
        either.refer(
            {
                "day.csv": web.uri("raw/day.csv"),
                "other.csv": web.uri("raw/other.csv"),
                "local": (tmp_path / "local").as_uri(),
                "unknown": "hdfs://cluster/raw",
            }
        )
        fs = either.fs()
        known = fs.info("data:latest/day.csv")
        assert (known["type"], known["size"], known["uri"]) == ("file", 17, web.uri("raw/day.csv"))
        assert known["etag"]
        assert fs.info("data:latest/local")["checksum"].startswith("blake3:")
        asked = web.asked.total()
        assert fs.cat_file("data:latest/day.csv") == b"day,rented\n1,985\n"
        assert web.asked.total() > asked
        asked = web.asked.total()
        with fs.open("data:latest/day.csv", "rt") as file:
            assert file.readlines()[1] == "1,985\n"
        assert web.asked.total() == asked  # from the cache
        assert fs.cat_file("data:latest/local", 3, 7) == b"a di"
        # One that changed, and one that nobody here can read; others are not affected.
        web.put("raw/other.csv", b"changed!!!\n")
        with pytest.raises(OSError, match=r"data:latest/other\.csv: the source .* has changed: recorded ") as changed:
            fs.cat_file("data:latest/other.csv")
        assert changed.value.errno == errno.EIO
        assert fs.info("data:latest/unknown")["type"] == "other"
        assert fs.info("data:latest/unknown")["uri"] == "hdfs://cluster/raw"
        with pytest.raises(OSError, match="hdfs") as unknown:
            fs.open("data:latest/unknown")
        assert unknown.value.errno == errno.EINVAL
        assert fs.cat_file("data:latest/day.csv") == b"day,rented\n1,985\n"


def test_a_directory_is_copied_without_what_nobody_here_can_read(either, tmp_path):
    (tmp_path / "source").write_text("here")
    either.refer({"known": (tmp_path / "source").as_uri(), "raw/unknown": "hdfs://cluster/raw"})
    fs = either.fs()
    assert fs.du("data:latest") == 4
    assert fs.du("data:latest", total=False) == {"data:latest/known": 4, "data:latest/raw/unknown": 0}
    with pytest.warns(UserWarning, match="data:latest/raw/unknown -> hdfs://cluster/raw is left out"):
        fs.get("data:latest", str(tmp_path / "copy"), recursive=True)
    assert [path.name for path in (tmp_path / "copy").rglob("*") if path.is_file()] == ["known"]
    with pytest.raises(OSError, match="hdfs"):  # asked for by its name
        fs.get("data:latest/raw/unknown", str(tmp_path / "alone"))


def test_neither_it_nor_prefetch_needs_fuse(logged, guide, tmp_path):
    logged(guide)
    code = (
        "import sys, artifactfs, fsspec\n"
        f"options = {logged.options!r}\n"
        "artifactfs.prefetch(['artifactfs://data:latest/model.h5'], **options)\n"
        "print(fsspec.open('artifactfs://data:latest/model.h5', **options).open().read(8))\n"
        "print(sorted({'mfusepy', 'artifactfs.mount.kernel', 'artifactfs.cli.main'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "b'model.h5'\n[]\n", done.stderr
