"""The command line of the product, but for one thing: its mounts do not ask whose opens they answer.

What lineage costs is measured against it.
"""

from __future__ import annotations

from typing import Any

from artifactfs.cli.main import main
from artifactfs.mount import service
from artifactfs.mount.view import View


def unwatched(*arguments: Any, **named: Any) -> View:
    """A View without a witness."""
    return View(*arguments, **{**named, "witness": None})


if __name__ == "__main__":
    service.View = unwatched  # type: ignore[assignment, misc]
    main()
