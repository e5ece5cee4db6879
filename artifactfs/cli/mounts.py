"""Which mount and which staging area a command means: from where one stands, from a path, or from a name.

Asks the control sockets of this user's workspaces, and the mount one stands in. Runs on the main thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from artifactfs.config import Settings
from artifactfs.errors import InvalidInput, NotFound, Unavailable
from artifactfs.model.names import STAGING, check_name
from artifactfs.mount import control
from artifactfs.mount.reach import Live, around, ask


@dataclass(frozen=True)
class Area:
    """An artifact's staging area in a mount."""

    mount: Live
    artifact: str

    @property
    def path(self) -> str:
        """Its directory."""
        return f"{self.mount.mountpoint}/{self.artifact}/{STAGING}"


def listening(settings: Settings) -> list[Path]:
    """Workspaces of this user in which a mount's process listens, or one that was killed did."""
    try:
        workspaces = sorted(settings.workspaces.iterdir())
    except OSError:
        return []
    return [workspace for workspace in workspaces if (workspace / control.SOCKET).exists()]


def live_mounts(settings: Settings) -> list[Live]:
    """Every mount of this user whose process answers, by mount point."""
    answers = map(ask, listening(settings))
    return sorted((live for live in answers if live is not None), key=lambda live: live.mountpoint)


def area(settings: Settings, target: str | None) -> Area:
    """The staging area that an argument means: a path, an artifact's name, or (None) the one stood in."""
    here = around(Path.cwd())
    if target is None:
        if here is None or not here[1]:
            raise InvalidInput("not inside a staging directory; name an artifact, or give its staging directory")
        return _staging(here[0], here[1], ".")
    if "/" in target or target in {".", ".."}:
        found = around(Path(target))
        if found is None:
            raise NotFound(f"{target} is not below a mount; give an artifact's name, or a path like MOUNT/NAME/staging")
        return _staging(*found, target)
    name = check_name(target)
    return Area(here[0] if here is not None else chosen(settings), name)


def _staging(live: Live, parts: tuple[str, ...], shown: str) -> Area:
    if not parts:
        raise InvalidInput(f"{shown} is the root of a mount; name an artifact or its staging directory")
    if len(parts) > 1 and parts[1] != STAGING:
        raise InvalidInput(
            f"{shown} is in {parts[0]}/{parts[1]}, which is no staging directory; name the artifact instead"
        )
    return Area(live, check_name(parts[0]))


def chosen(settings: Settings) -> Live:
    """The mount that a bare name means: the one at the default mount point, else the only one."""
    from artifactfs.mount import attach

    default = attach.resolve(str(settings.mountpoint))
    mounts = live_mounts(settings)
    matching = [
        live
        for live in mounts
        if settings.repository_is_default
        or (live.status.get("repository"), live.status.get("project")) == (settings.repository, settings.project)
    ]
    at_default = [live for live in matching if live.mountpoint == default]
    if at_default:
        return at_default[0]
    if len(matching) == 1:
        return matching[0]
    if not matching:
        raise Unavailable("nothing of this repository is mounted; start with: artifactfs mount")
    places = ", ".join(live.mountpoint for live in matching)
    raise InvalidInput(f"several mounts are meant by a bare name; stand in one or give a path below one of: {places}")
