"""Catalog: which artifacts, versions and aliases a mount shows, at the registry's present revision.

Used by the View and by Explain. While nothing changes, an answer costs a call of ``Registry.revision`` and no other. After a change
the list of artifacts is read once. An artifact's versions are read again when somebody asks for what the list does not tell: it
names `latest`, and by how many versions were ever deleted it says whether the known ones still live.

Invariant *gone is told*: what was shown and is there no more waits in ``_gone`` until :meth:`Catalog.vanished` hands it out, whichever
thread saw it go. What was read while the registry could not be reached may be older than it says (:attr:`Series.certain`), and is read
again afterwards; so is, at most once, all that was read before such a time (:meth:`Catalog.doubt`).

Threads: any. ``_lock`` guards what is replaced and is not held during a call of the registry; of several threads that want the same
one asks, and the others wait for its answer.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from threading import Lock
from typing import Any, Final, NamedTuple, TypeVar

from artifactfs.errors import Unavailable
from artifactfs.model.names import LATEST
from artifactfs.model.records import ArtifactRecord, VersionRecord
from artifactfs.registry.contract import Registry

WAIT_SECONDS: Final = 120.0
"""How long a thread waits for what another one asks of the registry. The registry's own bound is shorter; this one holds if it is
broken."""

T = TypeVar("T")


class Series:
    """One artifact as the mount shows it: its living versions by number, and the number each alias names.

    ``certain`` is false when the registry could not be reached meanwhile, so that this may be older than ``revision``; ``epoch``
    is the catalog's when it was asked for.
    """

    __slots__ = ("aliases", "certain", "deleted", "epoch", "identity", "revision", "versions")

    def __init__(
        self,
        artifact: ArtifactRecord,
        versions: list[VersionRecord],
        pin: int | None,
        *,
        revision: int,
        epoch: int,
        certain: bool,
    ) -> None:
        self.versions = {version.number: version for version in versions}
        self.aliases = {alias: version.number for version in versions for alias in version.aliases}
        if pin is not None:
            self.aliases[LATEST] = pin
        self.identity = artifact.id
        self.deleted = artifact.deleted
        self.revision = revision
        self.epoch = epoch
        self.certain = certain

    def lives(self, artifact: ArtifactRecord) -> bool:
        """Whether all versions still live, by a later record of the artifact: deleted ones are counted and never come back."""
        return self.certain and artifact.id == self.identity and artifact.deleted == self.deleted


class _Names(NamedTuple):
    """All artifacts at a revision; ``epoch`` and ``certain`` as in :class:`Series`."""

    artifacts: Mapping[str, ArtifactRecord]
    revision: int
    epoch: int
    certain: bool


class Vanished(NamedTuple):
    """What is there no more: artifacts, and versions as name and number."""

    artifacts: list[str]
    versions: list[tuple[str, int]]


class Catalog:
    """Artifacts and their series; ``pins`` fix what `latest` names, by artifact."""

    def __init__(self, registry: Registry, pins: dict[str, int]) -> None:
        self._registry = registry
        self._pins = pins
        self._lock = Lock()
        self._names = _Names({}, -1, -1, certain=False)
        self._epoch = 0
        self._series: dict[str, Series] = {}
        self._records: dict[int, VersionRecord] = {}
        self._gone: dict[tuple[str, int | None], None] = {}  # in the order seen; without a number: the artifact
        self._asked: dict[tuple[str, int, int], Future[Any]] = {}

    def names(self) -> Mapping[str, ArtifactRecord]:
        """Artifacts by name."""
        return self._present().artifacts

    def series(self, name: str) -> Series | None:
        """An artifact with all its versions and aliases, or None when there is none."""
        names = self._present()
        artifact = names.artifacts.get(name)
        if artifact is None:
            return None
        series = self._series.get(name)
        if series is not None and series.revision == names.revision and self._holds(series):
            return series
        return self._once(name, names.revision, lambda: self._read_series(artifact, names))

    def version(self, name: str, number: int) -> VersionRecord | None:
        """A living version, or None. Aliases, description and metadata may be older than in :meth:`series`."""
        artifact = self.names().get(name)
        if artifact is None:
            return None
        known = self._series.get(name)
        if known is None or number not in known.versions or not known.lives(artifact):
            known = self.series(name)
        return known.versions.get(number) if known is not None else None

    def target(self, name: str, alias: str) -> int | None:
        """The number that an alias names in this mount, or None."""
        if alias == LATEST:
            artifact = self.names().get(name)
            return self._pins.get(name, artifact.latest) if artifact is not None else None
        series = self.series(name)
        return series.aliases.get(alias) if series is not None else None

    def latest(self, name: str) -> VersionRecord | None:
        """The version that `latest` names in this mount, or None."""
        number = self.target(name, LATEST)
        return self.version(name, number) if number is not None else None

    def record(self, version_id: int) -> VersionRecord:
        """A version by its id in the registry. OSError ESTALE when there is none."""
        record = self._records.get(version_id)
        if record is None:
            # A node number from before the daemon's restart (kept by an NFS server, say): look everywhere once.
            for name in self.names():
                self.series(name)
            record = self._records.get(version_id)
            if record is None:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return record

    def doubt(self) -> None:
        """The registry could not be reached until now: what was asked for before is asked for once more when it is wanted.

        Of a question that was under way nobody knows whether it was answered by the registry or from memory.
        """
        self._epoch += 1

    def vanished(self) -> Vanished:
        """Come up to date; what was shown since the last call, or before it, and is gone."""
        artifacts = self.names()
        for name, series in list(self._series.items()):
            artifact = artifacts.get(name)
            if artifact is not None and not series.lives(artifact):
                self.series(name)
        with self._lock:
            gone, self._gone = self._gone, {}
        return Vanished(
            [name for name, number in gone if number is None],
            [(name, number) for name, number in gone if number is not None],
        )

    def _present(self) -> _Names:
        revision = self._registry.revision()
        names = self._names
        if names.revision == revision and self._holds(names):
            return names
        return self._once("", revision, lambda: self._read_names(revision))

    def _holds(self, known: _Names | Series) -> bool:
        """Whether what is known at the present revision is right, or the best that can be had."""
        return (known.certain and known.epoch == self._epoch) or not self._registry.online

    def _read_names(self, revision: int) -> _Names:
        # The revision was read first: a change that comes in between is seen once more, never missed.
        epoch, online = self._epoch, self._registry.online
        artifacts = {artifact.name: artifact for artifact in self._registry.artifacts()}
        names = _Names(artifacts, revision, epoch, certain=online and self._registry.online)
        with self._lock:
            for name in self._names.artifacts:
                if name not in artifacts:
                    self._gone[name, None] = None
                    self._forget(name, self._series.pop(name, None), {})
            self._names = names
        return names

    def _read_series(self, artifact: ArtifactRecord, names: _Names) -> Series:
        name = artifact.name
        epoch, online = self._epoch, self._registry.online
        versions = self._registry.versions(name)
        certain = online and self._registry.online
        pin = self._pins.get(name)
        series = Series(artifact, versions, pin, revision=names.revision, epoch=epoch, certain=certain)
        with self._lock:
            self._forget(name, self._series.get(name), series.versions)
            self._series[name] = series
            self._records.update((version.id, version) for version in versions)
        return series

    def _forget(self, name: str, series: Series | None, present: Mapping[int, VersionRecord]) -> None:
        """Note which versions of a series are there no more."""
        if series is not None:
            self._gone.update(((name, number), None) for number in series.versions if number not in present)

    def _once(self, name: str, revision: int, ask: Callable[[], T]) -> T:
        """Ask about an artifact, or ("") about all, at a revision; or wait for the thread that does."""
        wanted = (name, revision, self._epoch)
        mine: Future[T] = Future()
        with self._lock:
            asked: Future[T] = self._asked.setdefault(wanted, mine)
        if asked is not mine:
            try:
                return asked.result(WAIT_SECONDS)
            except TimeoutError:
                raise Unavailable(f"the registry did not answer for {WAIT_SECONDS:.0f} s; try again later") from None
        try:
            answer = ask()
        except BaseException as error:
            mine.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._asked[wanted]
        mine.set_result(answer)
        return answer
