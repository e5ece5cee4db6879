"""How another process reaches the daemon of a mount: from a path below it to the control socket in its workspace.

Used by commands and by the Python API. Every wait is bounded. Any thread may use it.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from artifactfs.errors import ArtifactFSError, Unavailable
from artifactfs.model.names import CONTROL_DIRECTORY
from artifactfs.mount import control

_SILENCE_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Live:
    """A mount whose process answers (or, ``status`` being empty, only listens)."""

    workspace: Path
    status: dict[str, Any]

    @property
    def mountpoint(self) -> str:
        """Where it is mounted."""
        return str(self.status.get("mountpoint", ""))


def ask(workspace: Path) -> Live | None:
    """The mount of a workspace, or None when no process answers."""
    try:
        return Live(workspace, control.request(workspace, "status", silence=_SILENCE_SECONDS))
    except ArtifactFSError:
        return None


def around(path: Path) -> tuple[Live, tuple[str, ...]] | None:
    """The mount that a path lies in, and the parts of the path below its root; None outside of our mounts."""
    place = Path(os.path.realpath(path))
    for root in (place, *place.parents):
        if not os.path.ismount(root):
            continue
        with contextlib.suppress(OSError, ValueError):
            status = json.loads((root / CONTROL_DIRECTORY / "status.json").read_bytes())
            live = ask(Path(status["workspace"]))
            if live is None:
                raise Unavailable(f"the mount at {root} does not answer; see {status['workspace']}/daemon.log")
            return live, place.relative_to(root).parts
        return None
    return None
