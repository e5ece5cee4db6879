"""ArtifactFS: versioned datasets, models and results as ordinary directories.

What is named here is the Python API; ``import artifactfs`` loads each name when it is used first. It needs no FUSE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from artifactfs.errors import (
        Access,
        ArtifactFSError,
        Conflict,
        Format,
        Integrity,
        InvalidInput,
        NoSpace,
        NotFound,
        ReadOnly,
        Unavailable,
    )
    from artifactfs.filesystem.announce import prefetch
    from artifactfs.python.api import Api
    from artifactfs.python.artifact import Artifact
    from artifactfs.python.errors import ArtifactFinalizedError, ArtifactNotLoggedError, WaitTimeoutError
    from artifactfs.python.run import Run, finish, init

__all__ = [
    "Access",
    "Api",
    "Artifact",
    "ArtifactFSError",
    "ArtifactFinalizedError",
    "ArtifactNotLoggedError",
    "Conflict",
    "Format",
    "Integrity",
    "InvalidInput",
    "NoSpace",
    "NotFound",
    "ReadOnly",
    "Run",
    "Unavailable",
    "WaitTimeoutError",
    "__version__",
    "finish",
    "init",
    "prefetch",
]

__version__ = "0.1.0"

_PLACES: Final = {
    "Api": "python.api",
    "Artifact": "python.artifact",
    "ArtifactFinalizedError": "python.errors",
    "ArtifactNotLoggedError": "python.errors",
    "Run": "python.run",
    "WaitTimeoutError": "python.errors",
    "finish": "python.run",
    "init": "python.run",
    "prefetch": "filesystem.announce",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'artifactfs' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - the command line imports this file, and uses none of it

    found = getattr(import_module(f"artifactfs.{_PLACES.get(name, 'errors')}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
