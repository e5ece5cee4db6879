"""Where a project's key comes from: a variable, a file, a command, the directory of keys; and what is said when it does not."""

from __future__ import annotations

import base64
import os
import re
import resource
import sys
import threading
from pathlib import Path

import pytest

from artifactfs import config, keys, sealing
from artifactfs.credentials import Credentials
from artifactfs.errors import Access, Integrity, InvalidInput
from artifactfs.keys import ProjectKeys, given_key, parse_key, read_key, write_key
from tests.conftest import eventually
from tests.encryption.conftest import KEY

OTHER = bytes(32)
ID = sealing.key_id(KEY)


def printing(*words: object) -> tuple[str, ...]:
    return (sys.executable, "-c", *map(str, words))


@pytest.mark.parametrize(
    "text",
    [
        KEY.hex(),
        KEY.hex().upper(),
        base64.b64encode(KEY).decode(),
        base64.b64encode(KEY).decode().rstrip("="),
        f"\n{base64.urlsafe_b64encode(KEY).decode()}\n",
    ],
)
def test_a_key_is_written_as_base64_or_hexadecimal(text):
    assert parse_key(text, "here") == KEY


@pytest.mark.parametrize(
    "text", ["", "password", KEY.hex()[:-2], KEY.hex() + "00", base64.b64encode(KEY[:-1]).decode(), "é" * 32, "?" * 44]
)
def test_what_is_no_key_is_not_quoted(text):
    with pytest.raises(InvalidInput) as caught:
        parse_key(text, "here")
    assert str(caught.value) == "here holds no key: one is 32 bytes as base64 or as hexadecimal digits"


def test_a_new_file_is_for_its_owner_alone_and_never_overwritten(tmp_path):
    path = tmp_path / "new" / "a.key"
    write_key(path, KEY)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert read_key(path) == KEY
    with pytest.raises(InvalidInput, match="is there already, and a key is never overwritten"):
        write_key(path, OTHER)
    link = tmp_path / "link.key"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidInput):
        write_key(link, OTHER)
    assert not (tmp_path / "elsewhere").exists()
    assert read_key(path) == KEY


def test_a_file_that_others_may_read_is_refused(tmp_path):
    path = tmp_path / "a.key"
    write_key(path, KEY)
    path.chmod(0o640)
    with pytest.raises(Access, match=re.escape(f"others may read it; run: chmod 600 {path}")):
        read_key(path)


def test_a_variable_comes_before_a_file_and_a_file_before_a_command(tmp_path):
    path = tmp_path / "a.key"
    write_key(path, OTHER)
    command = printing(f"print('{KEY.hex()}')")
    both = Credentials(key=KEY.hex(), key_file=path, key_command=command)
    assert given_key(both, "p") == (KEY, "ARTIFACTFS_KEY")
    assert given_key(Credentials(key_file=path, key_command=command), "p") == (OTHER, str(path))
    assert given_key(Credentials(key_command=command), "p") == (KEY, f"the key_command {sys.executable}")
    assert given_key(Credentials(), "p") is None


def test_each_project_has_its_own_where_the_place_says_so(tmp_path):
    for project, key in (("one", KEY), ("two", OTHER)):
        write_key(tmp_path / f"{project}.key", key)
    found = ProjectKeys(Credentials(key_file=tmp_path / "{project}.key"))
    assert found.find("one", ID) == KEY
    assert found.find("two", sealing.key_id(OTHER)) == OTHER
    command = printing("import sys; print(open(sys.argv[1]).read())", tmp_path / "{project}.key")
    assert ProjectKeys(Credentials(key_command=command)).find("two", sealing.key_id(OTHER)) == OTHER


def test_a_key_that_was_made_here_is_found_by_its_id(tmp_path):
    write_key(keys.kept_at(tmp_path, ID), KEY)
    assert ProjectKeys(Credentials(key_directory=tmp_path)).find("p", ID) == KEY
    assert ProjectKeys(Credentials(key=OTHER.hex(), key_directory=tmp_path)).find("p", ID) == KEY
    (tmp_path / f"{ID}.key").write_text(OTHER.hex())
    with pytest.raises(Access, match=f"holds another key, {sealing.key_id(OTHER)}; put the key {ID} there"):
        ProjectKeys(Credentials(key_directory=tmp_path)).find("p", ID)


def test_a_lost_key_and_a_wrong_one_each_have_their_words():
    with pytest.raises(Access) as lost:
        ProjectKeys(Credentials()).find("bikes", ID)
    assert str(lost.value) == (
        f"project 'bikes' is encrypted with the key {ID}, which is not here; name the file that holds it: "
        "ARTIFACTFS_KEY_FILE, or key_file in config.toml"
    )
    with pytest.raises(Access) as wrong:
        ProjectKeys(Credentials(key=OTHER.hex())).find("bikes", ID)
    assert str(wrong.value) == (
        f"project 'bikes' is encrypted with the key {ID}, but ARTIFACTFS_KEY has the key {sealing.key_id(OTHER)}; give the right one"
    )
    assert OTHER.hex() not in str(wrong.value)


def test_an_id_from_a_damaged_registry_names_no_file(tmp_path):
    with pytest.raises(Integrity, match="names no key"):
        ProjectKeys(Credentials(key_directory=tmp_path)).find("p", "../../etc/passwd")


def test_a_file_is_read_again_when_another_key_is_asked_for(tmp_path):
    path = tmp_path / "a.key"
    write_key(path, OTHER)
    found = ProjectKeys(Credentials(key_file=path))
    assert found.find("p", sealing.key_id(OTHER)) == OTHER
    path.write_text(KEY.hex())
    assert found.find("p", ID) == KEY
    assert found.find("p", sealing.key_id(OTHER)) == OTHER  # known still


def test_a_key_that_cannot_be_had_is_not_looked_for_by_every_request(tmp_path, monkeypatch):
    asked = tmp_path / "asked"
    command = printing("import sys; open(sys.argv[1], 'a').write('x'); sys.exit(3)", asked)
    found = ProjectKeys(Credentials(key_command=command))
    for _ in range(5):
        with pytest.raises(Access, match="failed with status 3"):
            found.find("p", ID)
    assert asked.read_text() == "x"
    monkeypatch.setattr(keys, "REST_SECONDS", 0.0)
    found._failed.clear()
    with pytest.raises(Access):
        found.find("p", ID)
    assert asked.read_text() == "xx"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("/nowhere/kms",), "the key_command /nowhere/kms cannot be run: no such file or directory; mend key_command"),
        (printing("import sys; sys.exit(7)"), "failed with status 7; run it by hand to see why"),
        (printing("import os; os.kill(os.getpid(), 9)"), "failed with status -9; run it by hand to see why"),
        (printing("print('not a key at all')"), "holds no key: one is 32 bytes as base64 or as hexadecimal digits"),
        (printing("import sys; sys.stdout.buffer.write(bytes(range(128, 200)))"), "prints no key"),
        (printing("while True: print('y' * 1000)"), "prints too much to be a project's key"),
        (printing("pass"), "holds no key"),
    ],
)
def test_a_command_that_gives_no_key_is_told(command, words):
    with pytest.raises((Access, InvalidInput)) as caught:
        given_key(Credentials(key_command=command), "p")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "not a key at all" not in str(caught.value)


def test_a_command_that_hangs_is_ended_with_all_that_it_started(tmp_path):
    ids = tmp_path / "ids"
    # A shell begins much faster than Python: within these seconds it must have come as far as its last line.
    program = 'sleep 600 & echo $$ $! > "$1"; sleep 600'
    with pytest.raises(Access, match=r"did not end within 3 s; run it by hand to see why"):
        given_key(Credentials(key_command=("sh", "-c", program, "sh", str(ids))), "p", seconds=3)
    for number in ids.read_text().split():
        # The signal was sent; on a busy machine the process may not have had its turn to die of it.
        eventually(lambda stat=Path(f"/proc/{number}/stat"): ended(stat))


def ended(stat: Path) -> bool:
    try:
        return stat.read_text().split(")")[-1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_many_threads_run_a_command_once(tmp_path):
    asked = tmp_path / "asked"
    program = "import sys, time; open(sys.argv[1], 'a').write('x'); time.sleep(0.3); print(sys.argv[2])"
    found = ProjectKeys(Credentials(key_command=printing(program, asked, KEY.hex())))
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(found.find("p", ID))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [KEY] * 8
    assert asked.read_text() == "x"


def test_a_descriptor_above_1023_is_no_obstacle():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1200:
        raise AssertionError("this test needs 1,200 descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        assert given_key(Credentials(key_command=printing(f"print('{KEY.hex()}')")), "p").key == KEY
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_settings_take_the_key_from_the_environment_and_the_configuration(tmp_path):
    place = tmp_path / "artifactfs"
    place.mkdir()
    (place / "config.toml").write_text(
        'key_file = "/keys/{project}.key"\nkey_command = ["kms", "open it", "{project}"]\n'
    )
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    found = config.load(environ=environ).credentials
    assert found.key_file == Path("/keys/{project}.key")
    assert found.key_command == ("kms", "open it", "{project}")
    assert found.key_directory == place / "keys"
    told = {"ARTIFACTFS_KEY": KEY.hex(), "ARTIFACTFS_KEY_FILE": "/a.key", "ARTIFACTFS_KEY_COMMAND": "kms 'open it'"}
    found = config.load(environ=environ | told).credentials
    assert (found.key, found.key_file, found.key_command) == (KEY.hex(), Path("/a.key"), ("kms", "open it"))
    assert KEY.hex() not in repr(found)
    (place / "config.toml").write_text("key_command = [1]\n")
    with pytest.raises(InvalidInput, match=r"key_command in .* must be text in quotes"):
        config.load(environ=environ)
