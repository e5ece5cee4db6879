"""Errors of the Python API, for those who handle them one by one. Each is one of the tree in :mod:`artifactfs.errors`."""

from __future__ import annotations

from artifactfs.errors import Conflict, Unavailable


class ArtifactNotLoggedError(Conflict):
    """What was asked for exists only once the Artifact is logged."""


class ArtifactFinalizedError(Conflict):
    """The contents of an Artifact were to be changed that was logged or finalized."""


class WaitTimeoutError(Unavailable):
    """What was waited for did not come in the time that was given."""
