"""Errors of the Python API, for those who handle them one by one. Each is one of the tree in :mod:`artifactfs.errors`."""

from __future__ import annotations

from artifactfs.errors import Conflict, Unavailable


class ArtifactNotLoggedError(Conflict):
    """What was asked for exists once the Artifact is logged."""


class ArtifactFinalizedError(Conflict):
    """The contents of an Artifact that was logged or finalized were to be changed."""


class WaitTimeoutError(Unavailable):
    """What was waited for did not come in the time that was given."""
