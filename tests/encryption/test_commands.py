"""``init --encrypt`` and ``rekey`` as a person runs them, and every other command on what they made."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from artifactfs import keys, sealing
from tests.conftest import Cli
from tests.encryption.conftest import KEY, NOISE, TEXT, found_below

ID = sealing.key_id(KEY)


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    home = tmp_path / "home"
    home.mkdir()
    made = Cli(home)
    made.env["ARTIFACTFS_REPOSITORY"] = str(tmp_path / "repository")
    return made


def test_a_key_is_made_kept_and_found_without_being_shown(cli, files, tmp_path):
    made = cli("init", "--encrypt")
    (path,) = (cli.home / ".config/artifactfs/keys").iterdir()
    key = keys.read_key(path)
    assert path.name == f"{sealing.key_id(key)}.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert made.lines == [str(tmp_path / "repository")]
    assert (
        f"project default is encrypted with the key {sealing.key_id(key)} from {path}; keep a copy of it elsewhere"
        in made.stderr
    )
    assert path.read_text().strip() not in made.stderr
    cli("put", "ward", files)
    assert cli("get", "ward", "out").status == 0
    assert (cli.home / "out/noise.bin").read_bytes() == NOISE
    assert found_below(tmp_path / "repository/store") == []
    assert "is here and opens it" in cli.run("doctor").stdout
    assert f"encryption   key {sealing.key_id(key)}" in cli("show", "ward").stdout
    assert cli("verify").status == 0
    message = cli.refuses("init", "--encrypt")
    assert "is encrypted already, with the key" in message
    assert list((cli.home / ".config/artifactfs/keys").iterdir()) == [path]  # the one that was made in vain is gone


def test_a_lost_key_fails_each_command_in_one_line(cli, files, tmp_path):
    cli("init", "--encrypt")
    cli("put", "ward", files)
    (path,) = (cli.home / ".config/artifactfs/keys").iterdir()
    path.rename(tmp_path / "elsewhere.key")
    for words in (("get", "ward", "out"), ("put", "more", files / "noise.bin"), ("ls", "ward:v0"), ("rekey",)):
        assert re.fullmatch(
            r"project 'default' is encrypted with the key [0-9a-f]{16}, which is not here; name the file that holds it: "
            r"ARTIFACTFS_KEY_FILE, or key_file in config\.toml",
            cli.refuses(*words),
        )
    doctor = cli.run("doctor")
    assert doctor.status == 1
    assert "which is not here" in doctor.stdout
    cli("get", "ward", "out", env={"ARTIFACTFS_KEY_FILE": str(tmp_path / "elsewhere.key")})
    cli("get", "ward", "again", env={"ARTIFACTFS_KEY": (tmp_path / "elsewhere.key").read_text()})
    program = f"print(open({str(tmp_path / 'elsewhere.key')!r}).read())"
    cli("get", "ward", "third", env={"ARTIFACTFS_KEY_COMMAND": f'{sys.executable} -c "{program}"'})
    assert "has the key" in cli.refuses("ls", "ward:v0", env={"ARTIFACTFS_KEY": KEY.hex()})
    assert "holds no key" in cli.refuses("ls", "ward:v0", env={"ARTIFACTFS_KEY": "rubbish"}, status=2)


def test_a_file_that_is_named_is_made_or_used(cli, tmp_path):
    first = cli("--project", "one", "init", "--encrypt", "--key-file", "my.key")
    assert f"use it with: export ARTIFACTFS_KEY_FILE={cli.home / 'my.key'}" in first.stderr
    before = (cli.home / "my.key").read_bytes()
    cli("--project", "two", "init", "--encrypt", "--key-file", "my.key")
    assert (cli.home / "my.key").read_bytes() == before
    (cli.home / "my.key").chmod(0o644)
    assert "others may read it; run: chmod 600" in cli.refuses(
        "--project", "three", "init", "--encrypt", "--key-file", "my.key"
    )
    assert cli.refuses("init", "--key-file", "my.key", status=2).startswith("--key-file is of --encrypt")


def test_each_project_of_a_repository_is_encrypted_or_not(cli, files, tmp_path):
    cli("put", "open", files)
    message = cli.refuses("init", "--encrypt")
    assert message.startswith(
        "project 'default' holds content that is not encrypted; encrypt a new project, and copy there"
    )
    assert not list((cli.home / ".config/artifactfs").glob("keys/*"))
    cli("--project", "patients", "init", "--encrypt")
    cli("copy", "open", "--all-versions", "--to", cli.env["ARTIFACTFS_REPOSITORY"], "--to-project", "patients")
    assert "encryption   key" in cli("--project", "patients", "show", "open").stdout
    assert cli("--project", "patients", "verify").status == 0
    assert cli("verify").status == 0
    assert "encryption" not in cli("show", "open").stdout


def test_rekey_exchanges_the_key(sealed_cli, files, key_file, tmp_path):
    sealed_cli("put", "ward", files)
    store = tmp_path / "sealed/store"
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    done = sealed_cli("rekey", "--new-key-file", tmp_path / "new.key")
    assert done.lines == ["2 packs of project default rekeyed"]
    assert f"use it with: export ARTIFACTFS_KEY_FILE={tmp_path / 'new.key'}" in done.stderr
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before
    assert f"but {key_file} has the key {ID}; give the right one" in sealed_cli.refuses("ls", "ward:v0")
    new = {"ARTIFACTFS_KEY_FILE": str(tmp_path / "new.key")}
    sealed_cli("get", "ward", "out", env=new)
    assert (sealed_cli.home / "out/noise.bin").read_bytes() == NOISE
    # Without a file: among the keys of this user, where it is found by its id.
    sealed_cli("rekey", env=new)
    sealed_cli("get", "ward", "again")
    assert (sealed_cli.home / "again/ward/name-of-a-patient.txt").read_bytes() == TEXT


def test_a_mount_reads_and_commits(sealed_cli, files, tmp_path):
    sealed_cli("put", "ward", files)
    sealed_cli("mount", sealed_cli.mountpoint)
    try:
        assert f"encryption  key {ID}" in sealed_cli("status").stdout
        place = sealed_cli.mountpoint / "ward/latest"
        assert (place / "noise.bin").read_bytes() == NOISE
        (sealed_cli.mountpoint / "ward/staging/new.txt").write_bytes(TEXT)
        sealed_cli("commit", "ward", cwd=sealed_cli.mountpoint)
        assert (sealed_cli.mountpoint / "ward/v1/new.txt").read_bytes() == TEXT
    finally:
        sealed_cli("unmount", sealed_cli.mountpoint)
    assert found_below(tmp_path / "sealed/store") == []


def test_without_cryptography_everything_else_works(cli, files, tmp_path):
    stub = tmp_path / "without/cryptography"
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text("raise ModuleNotFoundError('No module named cryptography')\n")
    cli.env["PYTHONPATH"] = f"{stub.parent}:{cli.env['PYTHONPATH']}"
    words = "encrypted projects need cryptography: pip install 'artifactfs[encryption]'"
    assert cli.refuses("init", "--encrypt", status=2) == words
    assert not (cli.home / ".config/artifactfs/keys").exists()
    cli("put", "ward", files)
    cli("get", "ward", "out")
    assert (cli.home / "out/noise.bin").read_bytes() == NOISE
    whole = cli.env["PYTHONPATH"].partition(":")[2]
    cli("--project", "sealed", "init", "--encrypt", env={"PYTHONPATH": whole})
    assert cli.refuses("--project", "sealed", "put", "ward", files).endswith(words)


def test_the_key_is_in_no_argument_list_and_no_file_but_its_own(cli, files, tmp_path):
    # A key of its own: tests that run beside this one show the usual one to programs of theirs.
    key, key_file = sealing.new_key(), tmp_path / "own.key"
    keys.write_key(key_file, key)
    cli.env["ARTIFACTFS_KEY_FILE"] = str(key_file)
    cli("init", "--encrypt")
    cli("put", "ward", files)
    cli("mount", cli.mountpoint)
    try:
        shown = {key.hex().encode(), key_file.read_bytes().strip()}
        for process in Path("/proc").iterdir():
            line = b""
            if process.name.isdigit():
                with suppress(OSError):  # it ended meanwhile
                    line = (process / "cmdline").read_bytes()
            assert not any(text in line for text in shown)
        for path in tmp_path.rglob("*"):
            if path.is_file() and path != key_file and not path.is_relative_to(cli.mountpoint):
                data = b""
                with suppress(FileNotFoundError):  # the mount replaces what it notes
                    data = path.read_bytes()
                assert key not in data, path
                assert not any(text in data for text in shown), path
    finally:
        cli("unmount", cli.mountpoint)
