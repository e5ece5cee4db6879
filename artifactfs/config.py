"""Where things are unless said otherwise: repository, project, mount point, cache, and this user's state directory.

Used by ``cli/`` and by the Python API, which hand plain values to everything below. The only module besides ``cli/`` that reads the
environment, the command line and the home directory. Values come, in this order, from the command line, from the environment
(ARTIFACTFS_REPOSITORY and the like), from the configuration file, from the defaults. Settings are immutable; any thread
may use them.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from artifactfs.credentials import Credentials
from artifactfs.errors import Access, InvalidInput
from artifactfs.model.lineage import RUN_VARIABLE
from artifactfs.model.names import check_project

if TYPE_CHECKING:
    from artifactfs.content.cache import CacheSettings

CONFIG_KEYS: Final = (
    "ca_file",
    "cache_dir",
    "cache_size",
    "direct",
    "key_command",
    "key_file",
    "mountpoint",
    "project",
    "repository",
    "timeout",
    "token_file",
)
TOKEN_FILE: Final = "token"  # noqa: S105 - a name
"""Name of the file beside the configuration that holds a token, unless another one is named."""
DEFAULT_PROJECT: Final = "default"
DEFAULT_SECONDS: Final = 30.0
LONGEST_SECONDS: Final = 3600.0
"""A request that may take longer than this would look like a hang to whoever waits."""

_SWITCHES: Final = frozenset({"direct"})  # keys that are true or false
_NUMBERS: Final = frozenset({"cache_size", "timeout"})  # keys that need no quotes
# As in GNU's tools: GiB and G are powers of 1024, GB is one of 1000.
_SIZE: Final = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*(?:([kmgtp])(i?b)?|b)?", re.IGNORECASE)
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a command works on. Paths are absolute."""

    repository: str  # a directory, or the URL of a server
    project: str
    mountpoint: Path  # where `mount` and `unmount` work without an argument
    config_file: Path  # need not exist
    data_dir: Path  # this user's data: the default repository lives below
    state_dir: Path  # workspaces of mounts, error logs
    repository_is_default: bool  # nobody named a repository
    cache_dir: Path  # for what comes from servers; need not exist
    cache_size: int | None  # bytes that it may take
    seconds: float  # bound of a request to a server
    credentials: Credentials  # what opens servers and encrypted projects

    @property
    def workspaces(self) -> Path:
        """Directory that holds one workspace per mount point, repository and project."""
        return self.state_dir / "mounts"

    @property
    def cache(self) -> CacheSettings:
        """The cache of what comes from servers and, of References, from elsewhere."""
        # Here and not above: the cache takes 30 ms to import, which most commands need not pay.
        from artifactfs.content.cache import CacheSettings  # noqa: PLC0415

        return CacheSettings(self.cache_dir, limit=self.cache_size)

    def workspace(self, mountpoint: Path) -> Path:
        """The workspace of a mount: the same whenever the same mount point, repository and project meet."""
        identity = "\0".join((str(mountpoint), self.repository, self.project))
        label = "".join(c if c.isalnum() or c in "-_." else "-" for c in mountpoint.name)[:40] or "root"
        return self.workspaces / f"{label}-{blake2b(os.fsencode(identity), digest_size=8).hexdigest()}"


def load(
    *,
    repository: str | None = None,
    project: str | None = None,
    cache_dir: str | None = None,
    cache_size: str | None = None,
    timeout: str | None = None,
    direct: bool = True,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Settings of this user and process, as people write them. InvalidInput for what is none; it names a broken configuration file."""
    environ = os.environ if environ is None else environ
    config_file = _xdg(environ, "XDG_CONFIG_HOME", ".config") / "artifactfs" / "config.toml"
    data_dir = _xdg(environ, "XDG_DATA_HOME", ".local/share") / "artifactfs"
    configured = read_config(config_file)

    def first(given: str | None, key: str) -> str | None:
        return given or environ.get(f"ARTIFACTFS_{key.upper()}") or configured.get(key)

    chosen = first(repository, "repository")
    mountpoint = configured.get("mountpoint")
    size = first(cache_size, "cache_size")
    seconds = first(timeout, "timeout")
    kept = first(cache_dir, "cache_dir")
    return Settings(
        repository=location_of(chosen) if chosen else str(data_dir / "repository"),
        project=check_project(first(project, "project") or DEFAULT_PROJECT),
        mountpoint=_absolute(mountpoint) if mountpoint else _default_mountpoint(),
        config_file=config_file,
        data_dir=data_dir,
        state_dir=_xdg(environ, "XDG_STATE_HOME", ".local/state") / "artifactfs",
        repository_is_default=not chosen,
        cache_dir=_absolute(kept) if kept else _xdg(environ, "XDG_CACHE_HOME", ".cache") / "artifactfs",
        cache_size=parse_size(size) if size else None,
        seconds=parse_seconds(seconds) if seconds else DEFAULT_SECONDS,
        credentials=_credentials(environ, configured, config_file.parent, direct=direct),
    )


def _credentials(
    environ: Mapping[str, str], configured: Mapping[str, str], directory: Path, *, direct: bool
) -> Credentials:
    """Where secrets are: a variable of this process comes before a file that a variable names, and both before the configuration."""

    def named(key: str) -> Path | None:
        value = environ.get(f"ARTIFACTFS_{key.upper()}") or configured.get(key)
        return _absolute(value) if value else None

    token_file = named("token_file")
    if token_file is None and (directory / TOKEN_FILE).exists():
        token_file = directory / TOKEN_FILE
    try:
        command = tuple(shlex.split(environ.get("ARTIFACTFS_KEY_COMMAND") or configured.get("key_command") or ""))
    except ValueError as error:
        raise InvalidInput(f"the key_command cannot be taken apart into words: {error}; close its quotes") from error
    return Credentials(
        token=environ.get("ARTIFACTFS_TOKEN", ""),
        token_file=token_file,
        ca_file=named("ca_file"),
        direct=direct
        and (environ.get("ARTIFACTFS_DIRECT") or configured.get("direct", "")) not in {"0", "false", "no"},
        plain_http=environ.get("ARTIFACTFS_ALLOW_PLAIN_HTTP", "") not in {"", "0"},
        key=environ.get("ARTIFACTFS_KEY", ""),
        key_file=named("key_file"),
        key_command=command,
    )


def joined_run(environ: Mapping[str, str] | None = None) -> str | None:
    """The id of the Run that this process was started in, by its environment; None outside of one."""
    return (os.environ if environ is None else environ).get(RUN_VARIABLE) or None


def command_line() -> tuple[str, ...]:
    """The command that this process was started with, interpreter and all."""
    return tuple(sys.orig_argv)


def read_config(path: Path) -> dict[str, str]:
    """The configuration file's values as text; empty when there is no file."""
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise Access(f"cannot read the configuration file {path}: {error.strerror}; mend its permissions") from error
    try:
        values = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the configuration file {path} is not valid TOML: {error}; correct it") from error
    for key, value in values.items():
        if key not in CONFIG_KEYS:
            raise InvalidInput(f"unknown key {key!r} in {path}; known keys are {', '.join(CONFIG_KEYS)}")
        if key in _NUMBERS and isinstance(value, int | float) and not isinstance(value, bool):
            values[key] = str(value)
        elif key in _SWITCHES and isinstance(value, bool):
            values[key] = "true" if value else "false"
        elif key in _SWITCHES or not isinstance(value, str):
            kind = "a number, or text in quotes" if key in _NUMBERS else "text in quotes"
            kind = "true or false" if key in _SWITCHES else kind
            raise InvalidInput(f"{key} in {path} must be {kind}")
    return values


def parse_size(text: str) -> int:
    """Bytes of ``50GB``, ``200MiB``, ``1.5G`` or a plain number. Raises InvalidInput."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise InvalidInput(f"not a size: {text!r}; give bytes or a unit, for example 50GB, 200MiB or 0")
    number, unit, suffix = found.groups()
    factor = 1000 if (suffix or "").lower() == "b" else 1024
    return int(float(number) * factor ** (" kmgtp".index(unit.lower()) if unit else 0))


def parse_seconds(text: str) -> float:
    """A timeout. Raises InvalidInput."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST_SECONDS:
        raise InvalidInput(f"not a timeout: {text!r}; give seconds, more than 0 and at most {LONGEST_SECONDS:.0f}")
    return seconds


def location_of(text: str) -> str:
    """A repository's location as given by a person: a directory absolute; a URL in its one spelling. Raises InvalidInput."""
    scheme, mark, rest = text.partition("://")
    if not mark:
        return os.path.realpath(Path(text).expanduser())
    if (
        "@" in rest
    ):  # a password may hold any character, so it is not looked for more closely; nor quoted, as logs keep it
        raise InvalidInput("the repository's URL holds a user name or password, which others could see; leave it out")
    if scheme.lower() not in _PORTS:
        return text  # Repository says which schemes it opens
    return _one_spelling(text)


def is_url(location: str) -> bool:
    """Whether a location is none of a directory."""
    return "://" in location


def _one_spelling(url: str) -> str:
    """Of URLs that mean the same server, one: mounts, workspaces and caches go by it."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidInput(f"not a URL: {url!r}: {error}; it looks like http://host:7420") from error
    if not host or any(c in " \\" or not c.isprintable() for c in url):
        raise InvalidInput(f"not the URL of a server: {url!r}; it looks like http://host:7420")
    if parts.query or parts.fragment:
        raise InvalidInput("the repository's URL goes on with '?' or '#'; give it up to there")
    shown = f"[{host}]" if ":" in host else host
    where = f":{port}" if port not in {None, _PORTS[parts.scheme]} else ""
    return f"{parts.scheme}://{shown}{where}{parts.path.rstrip('/')}"


def _absolute(path: str) -> Path:
    return Path.cwd() / Path(path).expanduser()


def _xdg(environ: Mapping[str, str], variable: str, below_home: str) -> Path:
    """A base directory by the XDG rules: relative values are ignored."""
    value = environ.get(variable, "")
    return Path(value) if value.startswith("/") else Path.home() / below_home


def _default_mountpoint() -> Path:
    return Path("/mnt/artifacts") if os.geteuid() == 0 else Path.home() / "artifacts"
