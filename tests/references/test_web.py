"""References to the web: what is recorded, what is asked, and what a source that changed or fails leads to."""

from __future__ import annotations

import contextlib
import random
import threading
from pathlib import Path

import pytest

from artifactfs.errors import Access, ArtifactFSError, Integrity, InvalidInput, NotFound, Unavailable
from artifactfs.model.digest import DATA, digest, format_digest
from artifactfs.references.http import ATTEMPTS
from artifactfs.references.reading import BLOCK
from artifactfs.references.references import resolve
from artifactfs.repository import Repository
from tests.conftest import eventually
from tests.content.stores import noise
from tests.references.conftest import Opening, add, log, whole
from tests.references.site import Site

MEBI = 1 << 20


def digest_in_version(repository: Repository, data: bytes) -> str:
    """The digest that a file of these bytes has in a version."""
    with repository.writing("put") as writing:
        return format_digest(writing.writer.add_bytes(data).digest)


# -- what is recorded -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("etag", ['"abc"', 'W/"abc"'])
def test_a_source_with_an_etag_is_recorded_without_being_read(repository: Repository, site: Site, etag: str):
    uri = site.put("data/a.csv", b"hello", etag=etag)
    entry = add(repository, uri)
    assert (entry.name, entry.uri, entry.size, entry.etag, entry.checksum) == ("a.csv", uri, 5, etag, None)
    assert [request.method for request in site.log] == ["HEAD"]


@pytest.mark.parametrize("size", [0, 5, 4 * MEBI, 4 * MEBI + 1, 13 * MEBI])
def test_a_source_without_an_etag_is_read_once_and_has_the_digest_of_a_file(
    repository: Repository, site: Site, opening: Opening, size: int
):
    data = noise(1, size)
    entry = add(repository, site.put("a.bin", data))
    assert (entry.size, entry.etag) == (size, None)
    assert len(site.asked("GET")) == 1
    assert whole(repository, entry) == data
    assert entry.checksum == digest_in_version(repository, data)


def test_a_source_that_refuses_head_is_asked_by_get(repository: Repository, site: Site):
    entry = add(repository, site.put("a", b"x" * MEBI, etag='"1"', head=403))
    assert (entry.size, entry.etag) == (MEBI, '"1"')
    assert add(repository, site.put("b", b"12345", head=405)).checksum == format_digest(digest(DATA, b"12345"))


def test_a_source_that_does_not_say_its_length_is_read(repository: Repository, site: Site):
    entry = add(repository, site.put("a", b"12345", etag='"1"', length=False))
    assert (entry.size, entry.checksum) == (5, format_digest(digest(DATA, b"12345")))
    assert whole(repository, entry) == b"12345"


def test_a_name_that_is_given_is_used_and_one_that_cannot_be_made_is_asked_for(repository: Repository, site: Site):
    uri = site.put("", b"12345", etag='"1"')
    with pytest.raises(InvalidInput, match="give one with name="):
        add(repository, uri)
    assert add(repository, uri, name="index.html").name == "index.html"
    assert add(repository, site.put("a%20b.csv", b"", etag='"1"')).name == "a b.csv"


def test_no_network_is_needed_without_checksum(repository: Repository):
    uri = "http://host.invalid/a.csv"
    entry = add(repository, uri, checksum=False)
    assert (entry.uri, entry.size, entry.etag, entry.checksum) == (uri, None, None, None)


def test_an_unknown_scheme_is_kept_as_it_is(repository: Repository):
    (found,) = resolve("weird+1://some/thing?x#y")
    assert (found.entry.uri, found.entry.name, found.entry.size) == ("weird+1://some/thing?x#y", "thing?x#y", None)
    assert not repository.references.knows(found.entry.uri)
    with pytest.raises(InvalidInput, match="nothing is known of the scheme"):
        repository.open_reference(found.entry)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("data.csv", "not a URI"),
        ("https://user:secret@host/a", "user name or password"),
        ("https://token@host/a", "user name or password"),
        ("ftp://user:secret@host/a", "user name or password"),
        ("https://host/a?X-Amz-Signature=secret", "signed"),
        ("https://host/a?se=1&sig=secret", "signed"),
        ("https://host/a b?X-Amz-Signature=secret", "signed"),
        ("az://container/a?se=1&sig=secret", "signed"),
        (f"s3://bucket/{'a' * 20_000}?X-Amz-Signature=secret", "signed"),
        ("https://host/a b", "blanks"),
        ("https:///a", "names no host"),
        ("https://host:x/a", "not a URI"),
        ("s3://bucket/a\nb", "control characters"),
        ("https://host/" + "a" * 20_000, "longer than"),
    ],
)
@pytest.mark.parametrize("checksum", [True, False])
def test_a_uri_that_cannot_be_kept_is_refused_without_repeating_a_secret(uri: str, words: str, checksum: bool):
    with pytest.raises(InvalidInput, match=words) as caught:
        list(resolve(uri, checksum=checksum))
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, NotFound), (410, NotFound), (401, Access), (403, Access), (400, Unavailable), (500, Unavailable)],
)
def test_a_source_that_cannot_be_had_is_an_error_that_names_it(site: Site, status: int, kind: type[ArtifactFSError]):
    uri = site.put("a.csv", b"hello", etag='"1"', status=status)
    with pytest.raises(kind) as caught:
        list(resolve(uri))
    assert uri in str(caught.value)
    assert str(status) in str(caught.value)


def test_a_source_that_cannot_be_reached_is_unavailable(site: Site):
    uri = site.put("a", b"")
    site.close()
    with pytest.raises(Unavailable, match="cannot reach"):
        list(resolve(uri))


def test_a_source_that_comes_compressed_only_is_refused(site: Site):
    uri = site.put("a", b"zip", etag='"1"', headers={"Content-Encoding": "gzip"})
    with pytest.raises(Unavailable, match="compressed"):
        list(resolve(uri))


def test_redirects_are_followed_and_a_loop_is_none(repository: Repository, site: Site):
    site.put("real", b"hello", etag='"1"')
    entry = add(repository, site.put("moved", b"", status=302, location="/real"))
    assert (entry.uri, entry.etag) == (f"{site.url}/moved", '"1"')
    assert whole(repository, entry) == b"hello"
    with pytest.raises(Unavailable):
        add(repository, site.put("loop", b"", status=302, location="/loop"))


def test_a_password_comes_from_netrc(
    repository: Repository, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    uri = site.put("a", b"hello", etag='"1"', wants="Basic bWU6c2VjcmV0")
    with pytest.raises(Access, match="netrc"):
        add(repository, uri)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert whole(repository, add(repository, uri)) == b"hello"


# -- what is asked ----------------------------------------------------------------------------------------------------------


def test_a_few_bytes_are_one_request_of_one_block(repository: Repository, site: Site):
    data = noise(2, 20 * MEBI)
    entry = add(repository, site.put("a", data, etag='"1"'))
    site.forget()
    file = repository.open_reference(entry)
    assert not site.log
    assert not file.ready(7 * MEBI, 100)
    assert file.read(7 * MEBI + 5, 100) == data[7 * MEBI + 5 : 7 * MEBI + 105]
    assert [request.range for request in site.log] == [f"bytes={7 * MEBI}-{8 * MEBI - 1}"]
    assert file.ready(7 * MEBI, BLOCK)
    assert file.read(7 * MEBI, BLOCK) == data[7 * MEBI : 8 * MEBI]
    assert len(site.log) == 1


def test_a_sequential_reader_gets_everything_once_by_large_requests(repository: Repository, site: Site):
    data = noise(3, 40 * MEBI + 17)
    entry = add(repository, site.put("a", data, etag='"1"'))
    site.forget()
    assert whole(repository, entry, 128 << 10) == data
    assert site.bytes_sent == len(data)
    assert len(site.log) < 25


@pytest.mark.parametrize("etag", ['"1"', None])
@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("cached", [True, False])
def test_random_reads_give_the_bytes(opening: Opening, site: Site, etag: str | None, ranges: bool, cached: bool):
    repository = opening(cached=cached)
    data = noise(4, 9 * MEBI + 3)
    entry = add(repository, site.put("a", data, etag=etag, ranges=ranges))
    file = repository.open_reference(entry)
    rng = random.Random(4)
    for _ in range(60):
        offset, length = rng.randrange(len(data) + 10), rng.choice([1, 100, 5000, MEBI, 5 * MEBI])
        assert file.read(offset, length) == data[offset : offset + length]
        assert b"".join(file.read_parts(offset, length)) == data[offset : offset + length]


@pytest.mark.parametrize("etag", ['"1"', None])
def test_what_was_read_is_there_without_the_source(opening: Opening, site: Site, etag: str | None):
    data = noise(5, 9 * MEBI)
    first = opening()
    entry = add(first, site.put("a", data, etag=etag))
    assert whole(first, entry) == data
    first.close()
    site.close()
    second = opening()
    assert whole(second, entry) == data
    assert second.references.bytes_fetched == 0


def test_a_source_without_ranges_is_read_once_for_all_readers(repository: Repository, site: Site):
    data = noise(6, 24 * MEBI)
    entry = add(repository, site.put("a", data, etag='"1"', ranges=False))
    site.forget()
    file = repository.open_reference(entry)
    for offset in (5 * MEBI, 20 * MEBI, 2 * MEBI, 23 * MEBI, 0):
        assert file.read(offset, 1000) == data[offset : offset + 1000]
    assert len(site.log) == 1


def test_a_whole_answer_of_another_size_is_no_answer(repository: Repository, site: Site):
    entry = add(repository, site.put("a", noise(7, 3 * MEBI), etag='"1"'))
    site.put("a", noise(7, 2 * MEBI), etag='"1"', ranges=False)
    with pytest.raises(Integrity, match=f"recorded size {3 * MEBI}, found {2 * MEBI}"):
        repository.open_reference(entry).read(MEBI, 5)


def test_many_readers_of_one_block_are_one_request(repository: Repository, site: Site):
    data = noise(8, 2 * MEBI)
    entry = add(repository, site.put("a", data, etag='"1"'))
    site.forget()
    site.gate.clear()
    got: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: got.append(bytes(repository.open_reference(entry).read(5, 10))))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    references = repository.references
    try:
        # The first of them makes the fetcher.
        eventually(lambda: references._fetcher is not None and references._fetcher.memory.waiting == 15)
    finally:
        site.gate.set()
    for thread in threads:
        thread.join(60)
    assert got == [data[5:15]] * 16
    assert len(site.log) == 1


def test_two_processes_fetch_a_block_once(opening: Opening, site: Site):
    # Two caches in one process claim against each other as two processes do.
    data = noise(9, MEBI)
    one, two = opening(), opening()
    entry = add(one, site.put("a", data, etag='"1"'))
    site.forget()
    site.gate.clear()
    got: list[bytes] = []
    threads = [
        threading.Thread(target=lambda each=each: got.append(whole(each, entry)))  # type: ignore[misc]
        for each in (one, two)
    ]
    threads[0].start()
    eventually(lambda: site.log)
    threads[1].start()
    site.gate.set()
    for thread in threads:
        thread.join(60)
    assert got == [data, data]
    assert len(site.log) == 1


@pytest.mark.parametrize("etag", ['"1"', None])
def test_a_damaged_cache_is_a_miss(opening: Opening, site: Site, tmp_path: Path, etag: str | None):
    data = noise(10, 3 * MEBI)
    first = opening()
    entry = add(first, site.put("a", data, etag=etag))
    assert whole(first, entry) == data
    first.close()
    damaged = 0
    for path in (tmp_path / "cache").rglob("*"):
        if path.is_file() and path.stat().st_size > MEBI and ".db" not in path.name:
            with path.open("r+b") as file:
                for offset in range(1000, path.stat().st_size, 4096):
                    file.seek(offset)
                    file.write(b"\0\1\2\3")
            damaged += 1
    assert damaged
    site.forget()
    second = opening()
    assert whole(second, entry) == data
    assert site.bytes_sent == len(data)


# -- sources that change --------------------------------------------------------------------------------------------------------


def test_a_changed_etag_is_an_error_that_names_both(repository: Repository, site: Site):
    entry = add(repository, site.put("raw/a.csv", b"hello", etag='"old"'))
    other = add(repository, site.put("raw/b.csv", b"other", etag='"b"'))
    site.put("raw/a.csv", b"HELLO", etag='"new"')
    with pytest.raises(Integrity, match='has changed: recorded etag "old", found "new"') as caught:
        repository.open_reference(entry).read(0, 5)
    assert entry.uri in str(caught.value)
    assert whole(repository, other) == b"other"


def test_a_source_that_gives_no_etag_any_more_cannot_be_told_to_be_the_same(repository: Repository, site: Site):
    entry = add(repository, site.put("a", b"hello", etag='"old"'))
    site.put("a", b"hello")
    with pytest.raises(Integrity, match='recorded etag "old", found none'):
        repository.open_reference(entry).read(0, 5)


def test_changed_bytes_without_an_etag_are_an_error_that_names_both_checksums(repository: Repository, site: Site):
    entry = add(repository, site.put("a", b"hello"))
    for now in (b"hellO", b"hello!"):
        site.put("a", now)
        with pytest.raises(Integrity) as caught:
            repository.open_reference(entry).read(0, 5)
        assert str(entry.checksum) in str(caught.value)
        assert format_digest(digest(DATA, now)) in str(caught.value)


def test_a_change_within_a_large_source_is_found_where_it_is_read(repository: Repository, site: Site):
    data = noise(11, 12 * MEBI)
    entry = add(repository, site.put("a", data))
    site.put("a", data[: 8 * MEBI] + b"!" + data[8 * MEBI + 1 :])
    file = repository.open_reference(entry)
    assert file.read(0, MEBI) == data[:MEBI]
    with pytest.raises(Integrity, match="recorded checksum of the bytes from"):
        file.read(8 * MEBI, 10)


def test_a_source_that_has_gone_is_not_found_and_others_are_read(repository: Repository, site: Site):
    entry = add(repository, site.put("a", b"hello", etag='"1"'))
    other = add(repository, site.put("b", b"other", etag='"2"'))
    del site.pages["/a"]
    with pytest.raises(NotFound, match="is not there"):
        repository.open_reference(entry).read(0, 5)
    assert whole(repository, other) == b"other"


def test_without_checksum_a_file_is_what_it_was_when_it_was_first_asked(repository: Repository, site: Site):
    data = noise(12, 3 * MEBI)
    entry = add(repository, site.put("a", data, etag='"1"'), checksum=False)
    file = repository.open_reference(entry)
    assert file.size == len(data)
    assert repository.references.size(entry) == len(data)
    assert file.read(0, 5) == data[:5]
    site.put("a", b"changed", etag='"2"')
    with pytest.raises(Integrity, match="has changed"):
        file.read(2 * MEBI, 5)
    assert whole(repository, entry) == b"changed"


def test_without_checksum_and_etag_the_time_of_change_tells(repository: Repository, site: Site):
    data = noise(13, 3 * MEBI)
    entry = add(repository, site.put("a", data, modified=1e9), checksum=False)
    file = repository.open_reference(entry)
    assert file.read(0, 5) == data[:5]
    site.put("a", data[::-1], modified=1.1e9)
    with pytest.raises(Integrity, match="recorded time of change"):
        file.read(2 * MEBI, 5)


# -- sources that fail -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("etag", "ranges"), [('"1"', True), (None, True), ('"1"', False)])
@pytest.mark.parametrize("fault", ["drop", "cut", "503", "500"])
@pytest.mark.parametrize("when", [0, 1, 3, 6])
def test_what_passes_is_got_over(opening: Opening, site: Site, fault: str, when: int, etag: str | None, ranges: bool):
    repository = opening(cached=False)
    data = noise(14, 9 * MEBI)
    entry = add(repository, site.put("a", data, etag=etag, ranges=ranges))
    site.script.extend(["ok"] * when + [fault])
    assert whole(repository, entry) == data


def test_bytes_that_were_damaged_on_the_way_are_asked_for_again(repository: Repository, site: Site):
    data = noise(15, 9 * MEBI)
    entry = add(repository, site.put("a", data))
    site.script.extend(["ok", "corrupt", "ok", "corrupt"])
    assert whole(repository, entry) == data


def test_a_source_that_fails_for_good_is_unavailable_and_comes_back(opening: Opening, site: Site):
    repository = opening()
    entry = add(repository, site.put("a", b"hello", etag='"1"'))
    site.script.extend(["503"] * 20)
    with pytest.raises(Unavailable, match="503"):
        repository.open_reference(entry).read(0, 5)
    assert len(site.asked("GET")) == ATTEMPTS
    site.script.clear()
    # Who comes within a second is told what was found out a moment ago.
    came: list[bytes] = []

    def read() -> bool:
        with contextlib.suppress(Unavailable):
            came.append(whole(repository, entry))
        return bool(came)

    eventually(read)
    assert came == [b"hello"]
    assert whole(repository, entry) == b"hello"


@pytest.mark.parametrize("fault", ["stall", "slow"])
def test_a_source_that_stalls_ends_within_the_bound_and_holds_up_nobody(opening: Opening, site: Site, fault: str):
    repository = opening(seconds=2.0)
    entry = add(repository, site.put("a", noise(16, MEBI), etag='"1"', fault=fault))
    other = add(repository, site.put("b", b"other", etag='"2"'))
    failed: list[Exception] = []

    def read() -> None:
        try:
            repository.open_reference(entry).read(0, 5)
        except ArtifactFSError as error:
            failed.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    eventually(lambda: site.asked("GET"))
    assert whole(repository, other) == b"other"
    reader.join(60)
    assert not reader.is_alive()
    assert [type(error) for error in failed] == [Unavailable]


def test_another_range_than_asked_for_is_refused(repository: Repository, site: Site):
    entry = add(repository, site.put("a", noise(17, 3 * MEBI), etag='"1"', content_range="bytes 5-10/3145728"))
    with pytest.raises(Unavailable, match="another range"):
        repository.open_reference(entry).read(MEBI, 5)


def test_a_negative_offset_is_refused(repository: Repository, site: Site):
    entry = add(repository, site.put("a", b"hello", etag='"1"'))
    with pytest.raises(InvalidInput, match="offset -1"):
        repository.open_reference(entry).read(-1, 5)


def test_a_repository_that_is_closed_leaves_no_thread(opening: Opening, site: Site):
    repository = opening()
    entry = add(repository, site.put("a", noise(18, 30 * MEBI), etag='"1"', ranges=False))
    assert repository.open_reference(entry).read(20 * MEBI, 5)
    repository.close()
    # Who has no job is woken to end, and is not waited for.
    eventually(lambda: not [each for each in threading.enumerate() if each.name.startswith(("fetch-", "cache-keeper"))])


# -- verify ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def three(site: Site) -> dict[str, str]:
    return {
        "etag": site.put("etag", b"hello", etag='"1"'),
        "plain": site.put("plain", b"hello"),
        "bare": site.put("bare", b"hello", etag='"1"'),
    }


def test_checking_reads_only_what_has_no_etag(repository: Repository, site: Site, three: dict[str, str]):
    entries = {name: add(repository, uri, checksum=name != "bare") for name, uri in three.items()}
    whole(repository, entries["plain"])
    site.forget()
    for entry in entries.values():
        repository.references.check(entry)
    assert [(request.method, request.path) for request in site.log] == [
        ("HEAD", "/etag"),
        ("GET", "/plain"),
        ("HEAD", "/bare"),
    ]
    site.forget()
    repository.references.check(entries["etag"], content=True)
    assert site.bytes_sent == 5


def test_checking_says_what_was_recorded_and_what_is_found(repository: Repository, site: Site, three: dict[str, str]):
    entries = {name: add(repository, uri, checksum=name != "bare") for name, uri in three.items()}
    site.put("etag", b"hello", etag='"2"')
    site.put("plain", b"HELLO")
    with pytest.raises(Integrity, match='recorded etag "1", found "2"'):
        repository.references.check(entries["etag"])
    with pytest.raises(Integrity, match=f"found {format_digest(digest(DATA, b'HELLO'))}"):
        repository.references.check(entries["plain"])
    del site.pages["/bare"]
    with pytest.raises(NotFound):
        repository.references.check(entries["bare"])


def test_what_was_logged_is_resolved_once_for_all(repository: Repository, site: Site):
    found = log(repository, repository.references.resolve(site.put("x/y.csv", b"hello", etag='"1"')))
    assert list(found) == ["y.csv"]
