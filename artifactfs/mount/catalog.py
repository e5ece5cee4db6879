"""Catalog: which artifacts, versions and aliases a mount shows, at the registry's present revision.

Used by the View. Any thread; ``_lock`` guards a refresh, readers see whole dictionaries that are replaced, never changed.
"""

from __future__ import annotations

import errno
import os
from threading import RLock

from artifactfs.model.names import LATEST
from artifactfs.model.records import VersionRecord
from artifactfs.registry.contract import Registry


class Series:
    """One artifact as the mount shows it: its living versions by number, and the number each alias names."""

    def __init__(self, versions: list[VersionRecord], pin: int | None) -> None:
        self.versions = {version.number: version for version in versions}
        self.aliases = {alias: version.number for version in versions for alias in version.aliases}
        if pin is not None:
            self.aliases[LATEST] = pin

    @property
    def latest(self) -> VersionRecord | None:
        """The version that `latest` names here."""
        number = self.aliases.get(LATEST)
        return self.versions.get(number) if number is not None else None


class Catalog:
    """Artifacts and their series; ``pins`` fix what `latest` names, by artifact."""

    def __init__(self, registry: Registry, pins: dict[str, int]) -> None:
        self._registry = registry
        self._pins = pins
        self._lock = RLock()
        self._revision = -1
        self._names: dict[str, int] = {}
        self._series: dict[str, Series] = {}
        self._records: dict[int, VersionRecord] = {}

    def names(self) -> dict[str, int]:
        """Artifacts by name, with the time each was made (nanoseconds since the epoch)."""
        if self._registry.revision() != self._revision:
            self._load()
        return self._names

    def _load(self) -> None:
        with self._lock:
            # The revision is read first: a change that comes in between is seen once more, never missed.
            revision = self._registry.revision()
            names = {artifact.name: artifact.created for artifact in self._registry.artifacts()}
            self._names, self._series, self._revision = names, {}, revision

    def series(self, name: str) -> Series | None:
        """An artifact's series, or None when it has no version."""
        if name not in self.names():
            return None
        series = self._series.get(name)
        if series is None:
            with self._lock:
                table = self._series
                series = Series(self._registry.versions(name), self._pins.get(name))
                table[name] = series
                self._records.update((version.id, version) for version in series.versions.values())
        return series

    def latest(self, name: str) -> VersionRecord | None:
        """The version that `latest` names in this mount, or None."""
        series = self.series(name)
        return series.latest if series is not None else None

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

    def update(self) -> tuple[int, list[str], list[tuple[str, int]]]:
        """Come up to date: the revision, artifacts that vanished, and versions that vanished of those that were shown."""
        with self._lock:
            before, shown = self._names, self._series
            names = self.names()
            gone = [name for name in before if name not in names]
            versions: list[tuple[str, int]] = []
            for name, series in shown.items():
                present = self.series(name)
                numbers = present.versions if present is not None else {}
                versions += [(name, number) for number in series.versions if number not in numbers]
            return self._revision, gone, versions
