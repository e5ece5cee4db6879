"""Unmounted: the staging areas of a workspace that no mount has, opened by a command itself.

For what was forgotten: the mount point may be gone, and so may the repository. The same staging code as in a mount answers the same
requests as there (mount/commands.py), but there is no kernel to tell. The workspace's lock is held meanwhile, so that a mount cannot
begin on it, and a workspace that a mount has is refused. What needs a repository that cannot be opened fails with that reason;
discarding, undoing that, and exporting what is local do not need it. On one thread.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from artifactfs.content.reader import ContentReader
from artifactfs.credentials import NONE, Credentials
from artifactfs.errors import ArtifactFSError, Conflict, NotFound
from artifactfs.model.names import LATEST
from artifactfs.model.records import VersionRecord
from artifactfs.model.tree import RefEntry, Trees
from artifactfs.mount import control
from artifactfs.mount.commands import StagingCommands
from artifactfs.mount.export import Exported, failed
from artifactfs.mount.inodes import Area
from artifactfs.mount.sources import Sources
from artifactfs.mount.staging import Staging
from artifactfs.mount.workspace import Place, Workspace
from artifactfs.repository import Repository

if TYPE_CHECKING:
    from artifactfs.content.cache import CacheSettings
    from artifactfs.content.reader import FileReader


class Unmounted:
    """A workspace in this process. A context manager. Conflict, naming the mount, when one has it.

    ``place`` is whose workspace it is, None when nobody knows: then there is no repository. The rest is as for a mount.
    """

    def __init__(
        self,
        path: Path,
        place: Place | None,
        *,
        cache: CacheSettings | None = None,
        seconds: float = 30.0,
        credentials: Credentials = NONE,
    ) -> None:
        self._path = path
        self._place = place
        self._cache = cache
        self._seconds = seconds
        self._credentials = credentials

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as resources:
            try:
                workspace = Workspace(self._path, place=self._place)
            except Conflict as error:
                raise self._taken(error) from None
            resources.callback(workspace.close)
            try:
                repository = resources.enter_context(self._open())
            except ArtifactFSError as error:
                self._fill(workspace, None, error)
            else:
                self._fill(workspace, repository, None)
            resources.callback(self._staging.sync)
            self._resources = resources.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()

    def _taken(self, error: Conflict) -> Conflict:
        pid = control.daemon_of(self._path)
        if pid is None or self._place is None:
            return error
        return Conflict(
            f"{self._path.name} belongs to the mount at {self._place.mountpoint} (process {pid}), which is running: "
            "use the command without --workspace, or unmount it first"
        )

    def _open(self) -> Repository:
        place = self._place
        if place is None:
            raise NotFound(f"which repository the workspace {self._path.name} belongs to is not known")
        return Repository.open(
            place.repository,
            project=place.project,
            cache=self._cache,
            seconds=self._seconds,
            credentials=self._credentials,
        )

    def _fill(self, workspace: Workspace, repository: Repository | None, reason: ArtifactFSError | None) -> None:
        if repository is not None:
            trees, reader, sources = repository.trees, repository.reader, Sources(repository)
        else:
            assert reason is not None  # noqa: S101 - the one or the other
            fail = failed(reason)
            trees, reader, sources = Trees(fail), _NoReader(fail), _NoSources()
        self._staging = staging = Staging(
            workspace, trees, reader, sources, uid=os.getuid(), gid=os.getgid(), unseen=True
        )

        def opened() -> Repository:
            if repository is None:
                assert reason is not None  # noqa: S101 - as above
                raise reason
            return repository

        def latest(name: str) -> VersionRecord | None:
            return None if repository is None else repository.registry.resolve(name, LATEST)

        self._commands = StagingCommands(
            opened,
            staging,
            latest=latest,
            tell_kernel=lambda _name, _stale: None,
            run_of=lambda _pid: None,
            place=str(self._path),
        ).handlers()

    def names(self) -> list[str]:
        """Artifacts that have an area."""
        return self._staging.names()

    def request(
        self, op: str, fields: Mapping[str, Any], *, note: Callable[[Mapping[str, Any]], None] | None = None
    ) -> Mapping[str, Any]:
        """Carry out what :func:`control.request` would ask a mount for."""
        return self._commands[op](fields, note if note is not None else lambda _: None)

    def export(self, name: str, directory: Path, *, progress: Callable[[Exported], None]) -> Exported:
        """Write what was changed of an artifact into an absent or empty directory."""
        return self._staging.export(self._known(name), directory, progress=progress)

    def _known(self, name: str) -> Area:
        if name not in self._staging.names():
            raise NotFound(f"{self._path.name} has no staging of {name}; see: artifactfs status --all")
        return self._staging.area(name, None)


class _NoReader(ContentReader):
    """Reads nothing, for a reason."""

    def __init__(self, fail: Callable[..., bytes]) -> None:
        self._fail = fail

    def open(self, name: bytes, size: int, neighbours: Callable[[], Collection[bytes]] | None = None) -> FileReader:
        """Raise the reason."""
        self._fail()
        raise AssertionError


class _NoSources(Sources):
    """References are symlinks to what they refer to."""

    def __init__(self) -> None:
        pass

    def readable(self, entry: RefEntry) -> bool:
        """None is."""
        del entry
        return False

    def target(self, entry: RefEntry) -> bytes:
        """The URI."""
        return entry.uri.encode()
