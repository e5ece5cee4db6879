"""RecordedRun: what the repository knows of a Run, whoever does or did it.

Used by Api and Artifact, and by Run, which adds what only the running one can do. Any thread.
"""

from __future__ import annotations

from typing import Any

from artifactfs.model.lineage import RunRecord
from artifactfs.model.records import VersionRecord
from artifactfs.python.artifact import Artifact, instant
from artifactfs.python.project import Project


class RecordedRun:
    """A Run as it was when it was looked up: a process, or a command with all that it starts, that used and logged versions."""

    def __init__(self, project: Project, record: RunRecord) -> None:
        self._where = project
        self._record = record

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} ({self.job_type or 'no job type'}, {self.state})>"

    @property
    def id(self) -> str:
        """What no other Run of the project has: 1 to 64 letters, digits, ``_`` and ``-``."""
        return self._record.id

    @property
    def name(self) -> str:
        """For people; need not be unique."""
        return self._record.name

    @property
    def project(self) -> str:
        """The project that it is recorded in."""
        return self._where.name

    @property
    def job_type(self) -> str:
        """The step of a pipeline; empty when none was given."""
        return self._record.job_type

    @property
    def state(self) -> str:
        """``running``, ``finished``, ``failed`` or ``crashed`` (it was not heard of for two minutes, and did not end)."""
        return self._record.state

    @property
    def config(self) -> Any:
        """Its configuration, a dict."""
        return self._record.config

    @property
    def host(self) -> str:
        """The name of the machine that it was started on."""
        return self._record.host

    @property
    def command(self) -> tuple[str, ...]:
        """The command line that started it; empty when that is not known."""
        return self._record.command

    @property
    def commit_hash(self) -> str:
        """The git commit of the working directory, ``+`` behind it when files differed from it; empty when git did not know."""
        return self._record.commit_hash

    @property
    def exit_status(self) -> int | None:
        """What it ended with, where that is known; negative: the signal that ended it."""
        return self._record.exit_status

    @property
    def started_at(self) -> str:
        """When it was started: UTC in ISO 8601, to the second, as ``2026-01-31T12:00:00Z``."""
        return instant(self._record.started)

    @property
    def ended_at(self) -> str | None:
        """When it ended, likewise; of a crashed Run, when it was last heard of; None while it runs."""
        return instant(self._record.ended) if self._record.ended is not None else None

    def logged_artifacts(self) -> list[Artifact]:
        """The versions that it made or logged again, the first one first. Deleted ones are left out."""
        return [Artifact._of(self._where, version) for version in self._linked(output=True)]  # noqa: SLF001 - one package

    def used_artifacts(self) -> list[Artifact]:
        """The versions that it used, the first one first. Deleted ones are left out."""
        return [Artifact._of(self._where, version) for version in self._linked(output=False)]  # noqa: SLF001 - one package

    def _linked(self, *, output: bool) -> list[VersionRecord]:
        links = self._where.repository.registry.links(runs=[self._record.id])
        versions = {version.id: version for version in links.versions}
        wanted = sorted((link.at, link.version) for link in links.links if link.output == output)
        return [versions[number] for _, number in wanted if number in versions]
