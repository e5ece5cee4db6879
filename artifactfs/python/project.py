"""Project: one project of one repository, open in this process, as all objects of the Python API share it.

Used by Run, Artifact and Api. Any thread. Objects that name the same project of the same repository, with the same settings, share
one; it is closed soon after the last of them is gone. A forked child opens its own at its first use: what the parent opened is left as
it is there, since closing it would end what the parent still uses.
"""

from __future__ import annotations

import atexit
import os
import weakref
from contextlib import suppress
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Final, NamedTuple

from artifactfs import config
from artifactfs.config import Settings
from artifactfs.errors import ArtifactFSError, InvalidInput
from artifactfs.model.names import Address
from artifactfs.repository import Repository

_open: Final[weakref.WeakValueDictionary[tuple[object, ...], Project]] = weakref.WeakValueDictionary()
_lock = Lock()
_inherited: Final[list[Repository]] = []
"""Repositories that a parent process opened: kept, so that nothing of them is closed here."""
_forgotten: SimpleQueue[_Held | None] = SimpleQueue()
EXIT_SECONDS: Final = 30.0
"""How long the end of the process waits for repositories to be closed."""


class Project:
    """Where names are looked up and versions are stored. Made by :func:`open_project`."""

    def __init__(self, settings: Settings, repository: Repository) -> None:
        self.settings = settings
        self._lock = Lock()
        self._held = _Held(repository)
        # The queue may be put to wherever garbage is collected; closing joins threads, which cannot be done everywhere.
        weakref.finalize(self, _forget, self._held).atexit = False

    @property
    def name(self) -> str:
        """The project's name."""
        return self.settings.project

    @property
    def location(self) -> str:
        """Where the repository is: a directory, or the URL of a server."""
        return self.settings.repository

    @property
    def repository(self) -> Repository:
        """The open repository of this process."""
        held = self._held
        if held.process != os.getpid():
            with self._lock:
                if held.process != os.getpid():
                    _inherited.append(held.repository)
                    held.repository = _open_repository(self.settings, create=False)
                    held.process = os.getpid()
        return held.repository

    def refuse_other(self, address: Address) -> None:
        """InvalidInput for an address of another project: what a Run uses and makes is recorded within one."""
        if address.project is not None and address.project != self.name:
            raise InvalidInput(
                f"{address} is in the project {address.project!r}, but the run is in {self.name!r}, and lineage stays within a "
                f"project; read it without a run: artifactfs.Api(project={address.project!r}).artifact(…)"
            )


class _Held:
    """What is closed in the end, by :class:`_Closer` or at the exit: not the Project itself, which is gone by then."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.process = os.getpid()

    def close(self) -> None:
        if self.process == os.getpid():
            with suppress(ArtifactFSError):  # there is nobody to tell, and nothing to do about it
                self.repository.close()
        else:
            _inherited.append(self.repository)


def _forget(held: _Held) -> None:
    _forgotten.put(held)


class _Closer:
    """Closes what nobody uses any more, in a thread of its own; the rest when the process ends."""

    def __init__(self) -> None:
        self._process = 0

    def watch(self) -> None:
        """Begin, once in each process."""
        if self._process != os.getpid():
            if not self._process:
                atexit.register(self._end)
            self._process = os.getpid()
            self._thread = Thread(target=self._run, name="repository-closer", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while (held := _forgotten.get()) is not None:
            held.close()

    def _end(self) -> None:
        if self._process == os.getpid():
            for project in list(_open.values()):
                _forgotten.put(project._held)  # noqa: SLF001 - of this module
            _forgotten.put(None)
            self._thread.join(EXIT_SECONDS)


class Activity(NamedTuple):
    """The project and the id of the Run that is active in a process."""

    process: int
    project: Project
    run: str


class _Active:
    activity: Activity | None = None


def set_activity(activity: Activity | None) -> None:
    """Say which Run is active now; None: none is."""
    _Active.activity = activity


def activity() -> Activity | None:
    """What is active in this process."""
    found = _Active.activity
    return found if found is not None and found.process == os.getpid() else None


def open_project(repository: str | None = None, project: str | None = None, *, create: bool) -> Project:
    """The project that these, the environment and the configuration file name; ``create`` makes an embedded repository."""
    settings = config.load(repository=repository, project=project)
    key = (
        settings.repository,
        settings.project,
        settings.cache_dir,
        settings.cache_size,
        settings.seconds,
        os.getpid(),
    )
    with _lock:
        found = _open.get(key)
        if found is None:
            _closer.watch()
            found = _open[key] = Project(settings, _open_repository(settings, create=create))
        return found


def _open_repository(settings: Settings, *, create: bool) -> Repository:
    make = Repository.open_or_create if create else Repository.open
    return make(
        settings.repository,
        project=settings.project,
        cache=settings.cache,
        seconds=settings.seconds,
        credentials=settings.credentials,
    )


_closer: Final = _Closer()


def _after_fork() -> None:
    global _lock, _forgotten  # noqa: PLW0603 - another thread of the parent may have held them
    _lock = Lock()
    _forgotten = SimpleQueue()
    for project in list(_open.values()):
        project._lock = Lock()  # noqa: SLF001 - as above


os.register_at_fork(after_in_child=_after_fork)
