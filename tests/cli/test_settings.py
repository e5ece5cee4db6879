"""Settings: where each value comes from, and the texts that people write for sizes, timeouts and addresses of servers."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from artifactfs import config
from artifactfs.cli.context import read_values
from artifactfs.errors import InvalidInput

WORD = "hunter2"


@pytest.fixture
def environ(tmp_path, monkeypatch) -> dict[str, str]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return {}


def write_config(tmp_path: Path, text: str) -> None:
    file = tmp_path / ".config/artifactfs/config.toml"
    file.parent.mkdir(parents=True)
    file.write_text(text)


def test_the_defaults(environ, tmp_path):
    settings = config.load(environ=environ)
    assert settings.cache_dir == tmp_path / ".cache/artifactfs"
    assert settings.cache_size is None
    assert settings.seconds == 30
    environ["XDG_CACHE_HOME"] = "/var/cache/me"
    assert config.load(environ=environ).cache_dir == Path("/var/cache/me/artifactfs")


def test_command_line_environment_and_file_in_this_order(environ, tmp_path):
    write_config(tmp_path, 'cache_dir = "~/file"\ncache_size = 5000\ntimeout = 2.5\n')
    settings = config.load(environ=environ)
    assert (settings.cache_dir, settings.cache_size, settings.seconds) == (tmp_path / "file", 5000, 2.5)
    environ |= {"ARTIFACTFS_CACHE_DIR": "env", "ARTIFACTFS_CACHE_SIZE": "1KiB", "ARTIFACTFS_TIMEOUT": "7"}
    settings = config.load(environ=environ)
    assert (settings.cache_dir, settings.cache_size, settings.seconds) == (tmp_path / "env", 1024, 7)
    settings = config.load(environ=environ, cache_dir="/given", cache_size="0", timeout="0.5")
    assert (settings.cache_dir, settings.cache_size, settings.seconds) == (Path("/given"), 0, 0.5)
    environ["ARTIFACTFS_CACHE_SIZE"] = ""
    assert config.load(environ=environ).cache_size == 5000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cache_size = true", "cache_size in .* must be a number, or text in quotes"),
        ("timeout = [1]", "timeout in .* must be a number, or text in quotes"),
        ("cache_dir = 3", "cache_dir in .* must be text in quotes"),
        ('cache_size = "much"', "not a size: 'much'"),
        ("cache_size = -1", "not a size: '-1'"),
        ("direct = 1", "direct in .* must be true or false"),
        ('direct = "no"', "direct in .* must be true or false"),
        ("timeout = 0", "not a timeout: '0'"),
    ],
)
def test_a_wrong_value_in_the_file_is_named(environ, tmp_path, text, said):
    write_config(tmp_path, text)
    with pytest.raises(InvalidInput, match=said):
        config.load(environ=environ)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("123", 123),
        ("123 B", 123),
        ("50GB", 50 * 10**9),
        ("50 gb", 50 * 10**9),
        ("200MiB", 200 << 20),
        ("1.5G", 3 << 29),
        ("2k", 2048),
        ("1TB", 10**12),
        (" 1PiB ", 1 << 50),
    ],
)
def test_sizes(text, size):
    assert config.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1e3", "5 XB", "GB", "1.GB", ".5GB", "1,5GB", "9" * 400, "1 0"])
def test_what_is_no_size(text):
    with pytest.raises(InvalidInput, match="give bytes or a unit"):
        config.parse_size(text)


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "3601", "1 s", "soon"])
def test_what_is_no_timeout(text):
    with pytest.raises(InvalidInput, match="give seconds"):
        config.parse_seconds(text)


@pytest.mark.parametrize(
    ("given", "one"),
    [
        ("http://host:7420", "http://host:7420"),
        ("HTTP://Host:7420/", "http://host:7420"),
        ("http://host:80", "http://host"),
        ("http://host/", "http://host"),
        ("https://HOST:443//", "https://host"),
        ("https://host:80", "https://host:80"),
        ("http://[::1]:7420/", "http://[::1]:7420"),
        ("https://host/Artifacts/", "https://host/Artifacts"),
        ("s3://Bucket/Key", "s3://Bucket/Key"),
    ],
)
def test_a_server_has_one_spelling(given, one):
    assert config.location_of(given) == one


def test_mounts_of_one_server_share_a_workspace(environ):
    def workspace(url: str) -> Path:
        return config.load(repository=url, environ=environ).workspace(Path("/mnt/x"))

    assert workspace("http://HOST:80/") == workspace("http://host")
    assert workspace("http://host") != workspace("https://host")


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http:///x",
        "http://h:x",
        "http://h:99999",
        "http://h h",
        "http://h\\x",
        "http://h\n",
        "https://?",
        "http://h#x",
    ],
)
def test_what_is_no_address_of_a_server(url):
    with pytest.raises(InvalidInput, match="URL"):
        config.location_of(url)


@pytest.mark.parametrize(
    "url",
    [
        f"http://me:{WORD}@host",
        f"https://{WORD}@host:1/x",
        f"http://me:a/{WORD}@host",
        f"http://me:a?{WORD}@host",
        f"s3://key:{WORD}@bucket",
        f"http://host?token={WORD}",
        f"http://host/#{WORD}",
    ],
)
def test_secrets_in_an_address_are_refused_and_not_repeated(url, cli):
    with pytest.raises(InvalidInput) as caught:
        config.location_of(url)
    assert WORD not in str(caught.value)
    assert WORD not in cli.refuses("--repository", url, "ls", status=2)


@pytest.mark.parametrize("value", ['{"b":1', "[wip]", '"a', " {'a': 1}"])
def test_metadata_that_begins_like_json_and_is_none_is_told(value):
    with pytest.raises(InvalidInput) as caught:
        read_values((f"note={value}",), "--metadata")
    said = str(caught.value)
    assert said.startswith("--metadata note: begins like JSON and is none (")
    # What it says to give instead is that text.
    (suggested,) = shlex.split(said.rpartition("give text as ")[2])
    assert read_values((suggested,), "--metadata") == {"note": value}


def test_metadata_is_json_or_text():
    pairs = ("rows=17", "note=a [b]", "ok=true", 'list=[1, "x"]', "empty=", "date=2026-01-31")
    assert read_values(pairs, "--metadata") == {
        "rows": 17, "note": "a [b]", "ok": True, "list": [1, "x"], "empty": "", "date": "2026-01-31"
    }  # fmt: skip


def test_whether_to_read_from_an_object_store(environ, tmp_path):
    assert config.load(environ=environ).credentials.direct
    assert not config.load(environ=environ, direct=False).credentials.direct
    write_config(tmp_path, "direct = false\n")
    assert not config.load(environ=environ).credentials.direct
    environ["ARTIFACTFS_DIRECT"] = "1"
    assert config.load(environ=environ).credentials.direct
    environ["ARTIFACTFS_DIRECT"] = "0"
    assert not config.load(environ=environ).credentials.direct
