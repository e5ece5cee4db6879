"""Where things are unless said otherwise: repository, project, mount point, and this user's state directory.

Used by ``cli/`` alone, which hands plain values to everything below. The only module besides ``cli/`` that reads the
environment and the home directory. Values come, in this order, from the command line, from ARTIFACTFS_REPOSITORY and
ARTIFACTFS_PROJECT, from the configuration file, from the defaults. Settings are immutable; any thread may use them.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final

from artifactfs.errors import Access, InvalidInput
from artifactfs.model.names import check_name

CONFIG_KEYS: Final = ("mountpoint", "project", "repository")
DEFAULT_PROJECT: Final = "default"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a command works on. Paths are absolute."""

    repository: str  # a directory
    project: str
    mountpoint: Path  # where `mount` and `unmount` work without an argument
    config_file: Path  # need not exist
    data_dir: Path  # this user's data: the default repository lives below
    state_dir: Path  # workspaces of mounts, error logs
    repository_is_default: bool  # nobody named a repository

    @property
    def workspaces(self) -> Path:
        """Directory that holds one workspace per mount point, repository and project."""
        return self.state_dir / "mounts"

    def workspace(self, mountpoint: Path) -> Path:
        """The workspace of a mount: the same whenever the same mount point, repository and project meet."""
        identity = "\0".join((str(mountpoint), self.repository, self.project))
        label = "".join(c if c.isalnum() or c in "-_." else "-" for c in mountpoint.name)[:40] or "root"
        return self.workspaces / f"{label}-{blake2b(os.fsencode(identity), digest_size=8).hexdigest()}"


def load(
    *,
    repository: str | None = None,
    project: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Settings of this user and process. Raises InvalidInput (with the file's name) for a broken configuration file."""
    environ = os.environ if environ is None else environ
    config_file = _xdg(environ, "XDG_CONFIG_HOME", ".config") / "artifactfs" / "config.toml"
    data_dir = _xdg(environ, "XDG_DATA_HOME", ".local/share") / "artifactfs"
    configured = read_config(config_file)
    chosen = repository or environ.get("ARTIFACTFS_REPOSITORY") or configured.get("repository")
    mountpoint = configured.get("mountpoint")
    return Settings(
        repository=_location(chosen) if chosen else str(data_dir / "repository"),
        project=check_name(
            project or environ.get("ARTIFACTFS_PROJECT") or configured.get("project") or DEFAULT_PROJECT
        ),
        mountpoint=Path.cwd() / Path(mountpoint).expanduser() if mountpoint else _default_mountpoint(),
        config_file=config_file,
        data_dir=data_dir,
        state_dir=_xdg(environ, "XDG_STATE_HOME", ".local/state") / "artifactfs",
        repository_is_default=not chosen,
    )


def read_config(path: Path) -> dict[str, str]:
    """The configuration file's values; empty when there is no file."""
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
        if not isinstance(value, str):
            raise InvalidInput(f"{key} in {path} must be text in quotes")
    return values


def _location(text: str) -> str:
    if "://" in text:
        return text  # Repository says which schemes it opens
    return os.path.realpath(Path(text).expanduser())


def _xdg(environ: Mapping[str, str], variable: str, below_home: str) -> Path:
    """A base directory by the XDG rules: relative values are ignored."""
    value = environ.get(variable, "")
    return Path(value) if value.startswith("/") else Path.home() / below_home


def _default_mountpoint() -> Path:
    return Path("/mnt/artifacts") if os.geteuid() == 0 else Path.home() / "artifacts"
