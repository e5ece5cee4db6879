"""Lost chunks of data come from the sources of references that have them: only these bytes are asked for, and only when lost."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.checkup import NAMED, SILENT, Repaired, check_whole, repair
from artifactfs.health.pace import Pace
from artifactfs.model.digest import CHUNKS
from artifactfs.model.tree import Entry, FileEntry, RefEntry, build_tree
from artifactfs.references.contract import Resolved
from artifactfs.repository import Repository
from tests.conftest import Cli
from tests.references.site import Site, serving

SMALL = random.Random("small").randbytes(30_000)
LARGE = random.Random("large").randbytes(9_000_000)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as found:
        yield found


def put(
    repository: Repository, artifact: str, files: dict[str, bytes], references: list[Resolved] | None = None
) -> None:
    """A version with these files, and with references whose chunk lists are kept, in order of their names."""
    with repository.writing("put") as writing:
        entries: list[Entry] = []
        for name, data in files.items():
            content = writing.writer.add_bytes(data)
            entries.append(FileEntry(name, content.size, content.digest, False))
        for resolved in references or []:
            entries.append(resolved.entry)
            for node in resolved.nodes:
                writing.writer.add_node(CHUNKS, node)
        entries.sort(key=lambda entry: entry.name)
        writing.commit(artifact, build_tree(entries, writing.writer.add_node))


def refer(repository: Repository, artifact: str, *uris: str) -> None:
    """A version of references to these, which are called 0, 1, …"""
    found = [next(iter(repository.references.resolve(uri, name=f"{number:04}"))) for number, uri in enumerate(uris)]
    put(repository, artifact, {}, found)


def lose(repository: Repository, name: str, data: bytes, *, which: list[int] | None = None) -> list[int]:
    """Damage chunks of a file (all, or those of these numbers); their offsets in the file."""
    version = repository.registry.versions("data")[-1]
    entry = repository.entry(version, name)
    assert isinstance(entry, FileEntry)
    pieces = repository.open_file(entry).pieces()
    begin, offsets = 0, []
    for number, piece in enumerate(pieces):
        if which is None or number in which:
            place = repository.registry.locate([piece.digest])[piece.digest]
            (pack,) = Path(repository.location).glob(f"store/**/packs/*/{place.pack}.pack")
            with pack.open("r+b") as file:
                file.seek(place.offset + place.length // 2)
                byte = file.read(1)[0]
                file.seek(place.offset + place.length // 2)
                file.write(bytes([byte ^ 1]))
            offsets.append(begin)
        begin += piece.size
    assert begin == len(data)
    return offsets


def mend(repository: Repository) -> Repaired:
    return repair(repository, lambda: Repository.open(repository.location), [], pace=Pace())


def content(repository: Repository, name: str) -> bytes:
    with Repository.open(repository.location) as opened:
        entry = opened.entry(opened.registry.versions("data")[-1], name)
        assert isinstance(entry, FileEntry)
        return bytes(opened.open_file(entry).read(0, entry.size))


def test_nothing_is_asked_for_unless_something_is_lost(repository: Repository, site: Site):
    put(repository, "data", {"small": SMALL, "large": LARGE})
    refer(repository, "far", site.put("small", SMALL), site.put("large", LARGE))
    site.forget()
    assert mend(repository).done == []
    # What other files lost is not what these have.
    put(repository, "data", {"other": b"other" * 1000})
    lose(repository, "other", b"other" * 1000)
    assert not mend(repository).left.sound
    assert site.log == []


def test_a_small_file_from_the_web(repository: Repository, site: Site):
    put(repository, "data", {"small": SMALL, "kept": b"kept"})
    uri = site.put("small", SMALL)
    refer(repository, "far", site.put("another", SMALL[:-1] + b"x"), uri)
    site.forget()
    lose(repository, "small", SMALL)
    result = mend(repository)
    assert result.done[-1] == f"1 lost chunk was restored from {uri}"
    assert (result.left.sound, result.unused) == (True, [])
    assert content(repository, "small") == SMALL
    assert site.bytes_sent == len(SMALL)
    assert [request.path for request in site.log] == ["/small"]


def test_only_the_range_of_a_lost_chunk_is_fetched(repository: Repository, site: Site):
    put(repository, "data", {"large": LARGE})
    uri = site.put("large", LARGE)
    refer(repository, "far", uri)
    site.forget()
    first, second = lose(repository, "large", LARGE, which=[1, 3])
    result = mend(repository)
    assert result.done[-1] == f"2 lost chunks were restored from {uri}"
    assert result.left.sound
    assert content(repository, "large") == LARGE
    asked = [request.range for request in site.asked("GET")]
    assert [word.partition("-")[0] for word in asked if word] == [f"bytes={first}", f"bytes={second}"]
    assert len(asked) == 2
    assert site.bytes_sent < len(LARGE) / 2


@pytest.mark.parametrize("which", [[0, 1, 2], [2, 4], None], ids=["from its beginning", "within", "all"])
def test_a_source_without_ranges_is_read_once(repository: Repository, site: Site, which: list[int] | None):
    put(repository, "data", {"large": LARGE, "kept": b"kept"})
    uri = site.put("large", LARGE, ranges=False)
    refer(repository, "far", uri)
    site.forget()
    lose(repository, "large", LARGE, which=which)
    result = mend(repository)
    assert result.left.sound
    assert content(repository, "large") == LARGE
    # Of the answer to a question for its beginning nobody can tell whether it will go on.
    assert len(site.asked("GET")) <= (1 if which == [2, 4] else 2)


def test_a_part_of_a_file_that_is_part_of_another(repository: Repository, site: Site):
    """The chunk list of a reference names the chunk, though the two files are different ones."""
    put(repository, "data", {"large": LARGE})
    uri = site.put("longer", b"something before it" * 1000 + LARGE + b"something after")
    refer(repository, "far", uri)
    lose(repository, "large", LARGE, which=[4])
    result = mend(repository)
    assert result.done[-1] == f"1 lost chunk was restored from {uri}"
    assert content(repository, "large") == LARGE


def test_a_file_of_this_machine(repository: Repository, tmp_path: Path):
    put(repository, "data", {"small": SMALL, "large": LARGE, "kept": b"kept"})
    (tmp_path / "far").mkdir()
    for name, data in (("small", SMALL), ("large", LARGE)):
        (tmp_path / "far" / name).write_bytes(data)
    uris = [f"file://{tmp_path}/far/{name}" for name in ("small", "large")]
    refer(repository, "far", *uris)
    lose(repository, "small", SMALL)
    lose(repository, "large", LARGE, which=[0, 5])
    result = mend(repository)
    assert f"1 lost chunk was restored from {uris[0]}" in result.done
    assert f"2 lost chunks were restored from {uris[1]}" in result.done
    assert (result.left.sound, result.unused) == (True, [])
    assert (content(repository, "small"), content(repository, "large")) == (SMALL, LARGE)


def test_a_file_that_was_changed_is_not_used_and_named(repository: Repository, tmp_path: Path):
    put(repository, "data", {"small": SMALL, "kept": b"kept"})
    (tmp_path / "far").write_bytes(SMALL)
    uri = f"file://{tmp_path}/far"
    refer(repository, "far", uri)
    lose(repository, "small", SMALL)
    (tmp_path / "far").write_bytes(SMALL[:-1] + b"x")
    result = mend(repository)
    assert [hit.path for hit in result.left.hits] == ["small"]
    (line,) = result.unused
    assert line.startswith(f"the source {uri} has changed: recorded checksum blake3:")
    (tmp_path / "far").unlink()
    assert f"cannot read {uri}" in mend(repository).unused[0]
    (tmp_path / "far").write_bytes(SMALL)
    assert mend(repository).left.sound


def test_a_lost_chunk_list_comes_first_and_then_what_it_names(repository: Repository, site: Site):
    put(repository, "data", {"large": LARGE, "kept": b"kept"})
    uri = site.put("large", LARGE)
    refer(repository, "far", uri)
    version = repository.registry.versions("data")[0]
    entry = repository.entry(version, "large")
    assert isinstance(entry, FileEntry)
    lose(repository, "large", LARGE, which=[2])
    place = repository.registry.locate([entry.digest])[entry.digest]
    (pack,) = Path(repository.location).glob(f"store/**/packs/*/{place.pack}.pack")
    data = bytearray(pack.read_bytes())
    data[place.offset + 5] ^= 1
    pack.write_bytes(bytes(data))
    result = mend(repository)
    assert result.done.count(f"1 lost chunk was restored from {uri}") == 2
    assert result.left.sound
    assert content(repository, "large") == LARGE


@pytest.mark.parametrize("how", ["changed", "longer", "gone", "refused", "broken"])
def test_a_source_that_is_not_what_was_recorded_is_not_used_and_named(repository: Repository, site: Site, how: str):
    put(repository, "data", {"large": LARGE, "kept": b"kept"})
    uri, good = site.put("large", LARGE), site.put("good", LARGE)
    refer(repository, "far", uri)
    (offset,) = lose(repository, "large", LARGE, which=[1])
    if how == "changed":
        site.put("large", LARGE[: offset + 7] + b"changed" + LARGE[offset + 14 :])
    elif how == "longer":
        site.put("large", LARGE + b"x")
    elif how == "gone":
        del site.pages["/large"]
    elif how == "refused":
        site.pages["/large"].wants = "Basic nothing"
    else:
        site.script.extend(["corrupt"] * 2)
    result = mend(repository)
    site.pages.pop("/large", None)
    assert [hit.path for hit in result.left.hits] == ["large"]
    (line,) = result.unused
    assert uri in line
    assert {"gone": "is not there", "refused": "may not be read"}.get(how, "has changed: recorded ") in line
    assert not any(uri in line for line in result.done)
    # Another one that has it is found all the same.
    refer(repository, "near", good)
    result = mend(repository)
    assert result.done == [f"1 lost chunk was restored from {good}"]
    assert content(repository, "large") == LARGE


@pytest.mark.parametrize("name", ["a-far", "far"])
def test_a_damaged_file_is_named_and_the_reference_with_its_list_is_not(repository: Repository, site: Site, name: str):
    """Also when the reference is met first: its chunks are none of this repository's."""
    put(repository, "data", {"large": LARGE, "kept": b"kept"})
    refer(repository, name, site.put("large", LARGE))
    lose(repository, "large", LARGE, which=[1])
    checked = check_whole(repository, content=True, pace=Pace())
    assert [(hit.version, hit.path) for hit in checked.hits] == [("data:v0", "large")]


def test_what_was_broken_on_the_way_is_asked_for_again(repository: Repository, site: Site):
    put(repository, "data", {"small": SMALL, "kept": b"kept"})
    refer(repository, "far", site.put("small", SMALL))
    lose(repository, "small", SMALL)
    site.script.extend(["corrupt"])
    result = mend(repository)
    assert (result.left.sound, result.unused) == (True, [])


def test_a_host_that_does_not_answer_is_left_alone(repository: Repository, site: Site):
    files = {f"{number:04}": random.Random(number).randbytes(5000) for number in range(2 * SILENT)}
    put(repository, "data", {**files, "kept": b"kept"})
    refer(repository, "far", *(site.put(name, data) for name, data in files.items()))
    for name, data in files.items():
        lose(repository, name, data)
        site.pages[f"/{name}"].status = 503
    site.forget()
    result = mend(repository)
    assert len({request.path for request in site.log}) == SILENT == len(result.unused)
    assert {hit.path for hit in result.left.hits} == set(files)


def test_of_many_sources_some_are_named(repository: Repository, tmp_path: Path):
    files = {f"{number:04}": random.Random(number).randbytes(200) for number in range(NAMED + 5)}
    put(repository, "data", files)
    put(repository, "kept", {"kept": b"kept"})
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    refer(repository, "far", *(f"file://{tmp_path}/{name}" for name in files))
    for name, data in files.items():
        lose(repository, name, data)
    result = mend(repository)
    assert len([line for line in result.done if "restored from" in line]) == NAMED + 1
    assert result.done[-1] == "5 lost chunks were restored from 5 more sources"
    assert result.left.sound


def test_references_that_tell_no_digest_are_no_source(repository: Repository, site: Site):
    put(repository, "data", {"small": SMALL, "kept": b"kept"})
    uri = site.put("small", SMALL, etag='"one"')
    refer(repository, "far", uri)
    entry = repository.entry(repository.registry.versions("far")[0], "0000")
    assert isinstance(entry, RefEntry)
    assert entry.checksum is None
    site.forget()
    lose(repository, "small", SMALL)
    assert not mend(repository).left.sound
    assert site.log == []


def test_by_the_command(cli: Cli, site: Site):
    (cli.home / "small").write_bytes(SMALL)
    cli("put", "data", "small")
    cli("put", "far", "--reference", site.put("small", SMALL))
    with Repository.open(str(cli.home / ".local/share/artifactfs/repository")) as repository:
        lose(repository, "small", SMALL)
    del site.pages["/small"]
    finished = cli.run("verify", "--repair")
    assert finished.status == 1
    assert "not taken from a reference: " in finished.stderr
    assert f"{site.url}/small is not there" in finished.stderr
    site.put("small", SMALL)
    finished = cli("verify", "--repair")
    assert finished.stdout == f"repaired: 1 lost chunk was restored from {site.url}/small\n"
