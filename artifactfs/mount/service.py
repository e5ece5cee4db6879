"""Everything that a mount's process holds, put together and taken apart: repository, staging, view, binding, socket.

Used by daemon.py, which owns the process around it. Requests of the control socket are answered here, each on a thread of its own;
they touch the tree by way of the view and the staging areas alone, never by way of the mount.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import msgspec

from artifactfs import __version__
from artifactfs.credentials import NONE, Credentials
from artifactfs.errors import ArtifactFSError, Conflict, InvalidInput, NotFound, ReadOnly
from artifactfs.model.names import Address, check_name, is_run
from artifactfs.model.tree import Change, DirEntry, difference, size_of
from artifactfs.mount.areas import Invalidation
from artifactfs.mount.attach import MountOptions
from artifactfs.mount.commit import commit_area, settle_all
from artifactfs.mount.contract import Notifier
from artifactfs.mount.control import ControlServer, Handler, Note
from artifactfs.mount.inodes import Area
from artifactfs.mount.keeping import Keeper
from artifactfs.mount.prefetch import Prefetcher
from artifactfs.mount.sources import Sources
from artifactfs.mount.staging import Staging
from artifactfs.mount.view import View
from artifactfs.mount.witness import Witness
from artifactfs.mount.workspace import Workspace
from artifactfs.repository import Progress, Repository

if TYPE_CHECKING:
    from artifactfs.content.cache import CacheSettings

LOCK_SECONDS: Final = 5.0  # for a process that was unmounted by hand to let its workspace go
COMMIT_SECONDS: Final = 60.0  # that the end of the process waits for a running commit
SETTLE_SECONDS: Final = 10.0  # for what a Run has read to be recorded, when it ends
_BATCH: Final = 1000  # changes in a line of the socket


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to mount where. ``mountpoint`` is as :func:`attach.resolve` gives it; ``workspace`` is made when absent.

    ``cache`` and ``seconds`` (the bound of every request) are for what is on another machine: a repository, and References, which
    other users than the mounting one may read only with ``share_references``.
    """

    repository: str
    project: str
    mountpoint: str
    workspace: str
    read_only: bool = False
    allow_other: bool = False
    share_references: bool = False
    pins: dict[str, int] = {}
    binding: str = "kernel"
    cache: CacheSettings | None = None
    seconds: float = 30.0
    credentials: Credentials = NONE


class Started(msgspec.Struct, frozen=True):
    """What is ready: the process, and whether the repository was made just now."""

    pid: int
    created: bool


class Binding(Notifier, Protocol):
    """What both bindings are to the process."""

    @property
    def counts(self) -> dict[str, int]: ...
    def mount(self) -> None: ...
    def serve(self) -> None: ...
    def unmount(self) -> None: ...


def _keep_freed_memory() -> None:
    """Have malloc reuse freed buffers of chunks instead of giving them back to the kernel and asking for new pages each time.

    mallopt(3): M_TRIM_THRESHOLD is -1, M_MMAP_THRESHOLD -3. Reading 1 GiB cold took 57,000 page faults and 0.94 s without,
    24,000 and 0.60 s with it (medians of 3). Another libc than glibc may not have the call, and loses only this.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-3, 32 << 20)
        mallopt(-1, 64 << 20)


class Service:
    """A mount in this process, from opening the repository to closing it. A context manager."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._since = datetime.now(UTC)
        self._commits = _Running()
        self._resources = contextlib.ExitStack()
        self._control: ControlServer | None = None
        self.created = False

    def __enter__(self) -> Self:
        _keep_freed_memory()
        with contextlib.ExitStack() as resources:
            self._repository = resources.enter_context(self._open())
            self._sources = Sources(
                self._repository,
                self._plan.mountpoint,
                shared=self._plan.allow_other,
                lent=self._plan.share_references,
            )
            # A read-only mount is not told of opens (or of the first of many alone), so it is no witness.
            self._witness = None if self._plan.read_only else Witness(self._repository.registry)
            if self._witness is not None:
                resources.callback(self._witness.close)
            # A server that cannot be reached must have been seen before: then what it said to these two questions is remembered.
            self._repository.registry.revision()
            self._repository.registry.artifacts()
            for name, number in self._plan.pins.items():
                self._repository.resolve(Address(None, name, f"v{number}"))
            self._staging = (
                None if self._plan.read_only else resources.enter_context(contextlib.closing(self._open_staging()))
            )
            if self._staging is not None:
                settle_all(self._repository, self._staging)
            self._view = View(
                self._repository,
                self._staging,
                pins=self._plan.pins,
                uid=os.getuid(),
                gid=os.getgid(),
                status=self.brief_status,
                sources=self._sources,
                witness=self._witness,
            )
            self._keeper = Keeper(self._repository.registry, self._kept_versions)
            self._prefetcher = Prefetcher(self._repository, self._sources, self._view.files_at, self._view.listen)
            self._binding = self._bind()
            self._view.notifier = self._binding
            self._resources = resources.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._control is not None:
            self._control.close(seconds=COMMIT_SECONDS if self._commits.any() else 1.0)
        self._resources.close()

    def mount(self) -> None:
        """Attach the tree and begin to answer commands. Raises what :meth:`Binding.mount` does."""
        self._binding.mount()
        self._view.start()
        self._keeper.start()
        self._resources.callback(self._stop_keeping)
        self._resources.callback(self._view.stop)
        self._resources.callback(self._prefetcher.close)
        self._control = ControlServer(Path(self._plan.workspace), self._handlers())
        self._control.start()

    def serve(self) -> None:
        """Block until the mount is removed, by whomever."""
        self._binding.serve()

    def unmount(self) -> None:
        """Remove the mount; lazily after some seconds. Idempotent, from any thread."""
        self._binding.unmount()

    def _kept_versions(self) -> list[tuple[str, int]]:
        """What staging builds on, and what is pinned."""
        bases = self._staging.bases() if self._staging is not None else []
        return sorted({*bases, *self._plan.pins.items()})

    def _stop_keeping(self) -> None:
        staging = self._staging
        changed = staging is not None and any(
            staging.is_dirty(area) for name in staging.names() if (area := staging.find(name)) is not None
        )
        self._keeper.close(lasting=changed)

    # -- parts -----------------------------------------------------------------------------------------------------

    def _open(self) -> Repository:
        plan = self._plan
        try:
            return Repository.open(
                plan.repository,
                project=plan.project,
                cache=plan.cache,
                seconds=plan.seconds,
                credentials=plan.credentials,
            )
        except NotFound:
            repository = Repository.open_or_create(
                plan.repository,
                project=plan.project,
                cache=plan.cache,
                seconds=plan.seconds,
                credentials=plan.credentials,
            )
            self.created = True
            return repository

    def _open_staging(self) -> Staging:
        """The staging areas of the workspace, once this process owns it."""
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                workspace = Workspace(Path(self._plan.workspace))
                break
            except Conflict:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        try:
            repository = self._repository
            return Staging(
                workspace,
                repository.trees,
                repository.reader,
                self._sources,
                uid=os.getuid(),
                gid=os.getgid(),
            )
        except BaseException:
            workspace.abandon()
            raise

    def _bind(self) -> Binding:
        plan = self._plan
        options = MountOptions(
            read_only=plan.read_only,
            allow_other=plan.allow_other,
            fsname=plan.repository,
            no_open=plan.read_only,
        )
        if plan.binding == "fusepy":
            # Here and not above: it loads libfuse, which need not be installed for the other binding.
            from artifactfs.mount.fusepy import FusepyMount  # noqa: PLC0415

            return FusepyMount(self._view, plan.mountpoint, options)
        from artifactfs.mount.kernel import KernelMount  # noqa: PLC0415

        return KernelMount(self._view, plan.mountpoint, options)

    # -- requests --------------------------------------------------------------------------------------------------

    def brief_status(self) -> dict[str, Any]:
        """What ``.artifactfs/status.json`` says; cheap, as it is asked by requests of the mount."""
        plan = self._plan
        outage, cache = self._view.outage(), plan.cache
        return {
            "pid": os.getpid(),
            "version": __version__,
            "repository": plan.repository,
            "project": plan.project,
            "mountpoint": plan.mountpoint,
            "workspace": plan.workspace,
            "online": outage is None,
            **({} if outage is None else {"offline_since": _iso(outage.since), "offline_reason": outage.reason}),
            "since": self._since.isoformat(timespec="seconds"),
            "read_only": plan.read_only,
            "allow_other": plan.allow_other,
            "share_references": plan.share_references,
            "pins": plan.pins,
            "binding": plan.binding,
            **({} if cache is None else {"cache": str(cache.directory)}),
            "counts": {
                "requests": self._binding.counts,
                **self._view.counters(),
            },
        }

    def _handlers(self) -> dict[str, Handler]:
        return {
            "status": self._status,
            "unmount": self._may_unmount,
            "stage": self._stage,
            "commit": self._commit,
            "diff": self._diff,
            "discard": self._discard,
            "rebase": self._rebase,
            "prefetch": self._prefetch,
            "adopt": self._adopt,
            "settle": self._settle,
        }

    def _status(self, fields: Mapping[str, Any], note: Note) -> dict[str, Any]:
        del fields, note
        staging = self._staging
        areas = [] if staging is None else [self._area_status(name) for name in sorted(staging.names())]
        return {**self.brief_status(), "staging": areas, "prefetch": self._prefetcher.status()}

    def _area_status(self, name: str) -> dict[str, Any]:
        staging = self._writable()
        area = staging.area(name, None)
        base = None if area.base_number is None else f"v{area.base_number}"
        try:
            status = staging.status(area)
        except ArtifactFSError:  # what the changes are compared with cannot be had now
            return {"name": name, "base": base, "changes": None, "local_bytes": None}
        return {"name": name, "base": base, "changes": status.changed, "local_bytes": status.local_bytes}

    def _may_unmount(self, fields: Mapping[str, Any], note: Note) -> dict[str, Any]:
        del fields, note
        running = self._commits.names()
        if running:
            raise Conflict(f"a commit of {', '.join(running)} is running; wait for it, or use --force")
        return {}

    def _stage(self, fields: Mapping[str, Any], note: Note) -> dict[str, Any]:
        del note
        staging, name, selector = self._writable(), check_name(fields["artifact"]), fields["selector"]
        latest = self._view.latest(name)
        if latest is None and not fields["empty"]:
            self._repository.resolve(Address(None, name, selector))  # NotFound with near misses
        version = latest if selector is None else self._repository.resolve(Address(None, name, selector))
        area = staging.area(name, latest)
        if not fields["force"] and staging.is_dirty(area):
            raise Conflict(f"{name}/staging has changes; commit or discard them first, or give them up with --force")
        following = selector is None and not fields["empty"]
        self._tell_kernel(name, staging.reset(area, version, empty=fields["empty"], following=following))
        return _base_of(area)

    def _commit(self, fields: Mapping[str, Any], note: Note) -> dict[str, Any]:
        staging, area = self._area(fields)

        def progress(progress: Progress) -> None:
            note({"files": progress.files, "bytes_read": progress.bytes_read, "bytes_stored": progress.bytes_stored})

        latest = self._view.latest(area.name)
        run = fields.get("run") or (self._witness.run_of(fields["peer"]) if self._witness is not None else None)
        known = run is not None and self._repository.registry.run(run) is not None
        with self._commits.during(area.name):
            outcome = commit_area(
                self._repository,
                staging,
                area.name,
                aliases=tuple(fields["aliases"]),
                description=fields["description"],
                metadata=fields["metadata"],
                type=fields["type"],
                force=fields["force"],
                allow_open=fields["allow_open"],
                progress=progress,
                run=run if known else None,
            )
        return {
            "number": outcome.version.number,
            "created": outcome.created,
            "latest_before": latest.number if latest is not None else None,
            "dropped": list(outcome.dropped),
            "unknown_run": None if known else run,
            "stats": msgspec.to_builtins(outcome.stats),
        }

    def _diff(self, fields: Mapping[str, Any], note: Note) -> dict[str, Any]:
        staging, area = self._area(fields)
        changes = staging.changes(area)
        while batch := list(itertools.islice(changes, _BATCH)):
            note({"changes": [_change_fields(change) for change in batch]})
        return _base_of(area)

    def _discard(self, fields: Mapping[str, Any], note: Note) -> dict[str, Any]:
        del note
        staging, area = self._area(fields)
        self._tell_kernel(area.name, staging.discard(area))
        return _base_of(area)

    def _rebase(self, fields: Mapping[str, Any], note: Note) -> dict[str, Any]:
        del note
        staging, area = self._area(fields)
        latest = self._view.latest(area.name)
        if latest is None:
            raise Conflict(f"{area.name} has no version yet, so there is nothing to rebase onto; commit it")
        self._tell_kernel(area.name, staging.rebase(area, latest))
        return _base_of(area)

    def _prefetch(self, fields: Mapping[str, Any], note: Note) -> dict[str, Any]:
        """Fetch files ahead of a program that will read them.

        ``paths`` are below the mountpoint, in the order in which they will be read; they follow those that came before in the same
        ``plan``, and end any other plan of the same ``program``. ``stop`` ends the plan.
        """
        del note
        plan, paths, program = fields.get("plan"), fields.get("paths", []), fields.get("program", "")
        if not isinstance(plan, str) or not isinstance(paths, list) or not isinstance(program, str):
            raise InvalidInput("a prefetch needs the name of a plan, and a list of paths")
        if fields.get("stop"):
            self._prefetcher.stop(plan)
            return {"plan": plan}
        return self._prefetcher.add(plan, paths, program=program)

    def _adopt(self, fields: Mapping[str, Any], note: Note) -> dict[str, Any]:
        """Let processes (``pids``) and who descends from them belong to a Run, if it is one of this mount's project."""
        del note
        plan, run, pids = self._plan, fields.get("run"), fields.get("pids")
        if not isinstance(run, str) or not is_run(run) or not isinstance(pids, list):
            raise InvalidInput("an adoption needs the id of a run, and a list of processes")
        ours = (fields.get("repository"), fields.get("project")) == (plan.repository, plan.project)
        if ours and self._witness is not None:
            self._witness.adopt([pid for pid in pids if isinstance(pid, int)], run)
        return {"ours": ours, "witness": self._witness is not None, "mountpoint": plan.mountpoint}

    def _settle(self, fields: Mapping[str, Any], note: Note) -> dict[str, Any]:
        """Have what Runs have opened so far recorded; says how many inputs wait because the registry cannot be reached."""
        del fields, note
        return {"waiting": self._witness.settle(seconds=SETTLE_SECONDS) if self._witness is not None else 0}

    def _writable(self) -> Staging:
        if self._staging is None:
            raise ReadOnly(
                f"the mount at {self._plan.mountpoint} is read-only and has no staging; mount without --read-only"
            )
        return self._staging

    def _area(self, fields: Mapping[str, Any]) -> tuple[Staging, Area]:
        """The area that a request names; NotFound when there is neither an area nor an artifact of this name."""
        staging, name = self._writable(), check_name(fields["artifact"])
        latest = self._view.latest(name)
        if latest is None and name not in staging.names():
            self._repository.resolve(Address(None, name))
        return staging, staging.area(name, latest)

    def _tell_kernel(self, name: str, stale: Iterable[Invalidation]) -> None:
        """Make the kernel forget what staging showed, before the command replies."""
        self._view.notify(stale)
        self._view.forget_staging(name)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _base_of(area: Area) -> dict[str, Any]:
    number = area.base_number
    return {"base": None if number is None or area.base_digest is None else f"{area.name}:v{number}"}


def _change_fields(change: Change) -> dict[str, Any]:
    entry = change.new if change.new is not None else change.old
    assert entry is not None  # noqa: S101 - a change has at least one side
    if isinstance(entry, DirEntry):
        return {"kind": change.kind, "path": f"{change.path}/", "size": 0}
    what = difference(change)
    return {
        "kind": change.kind,
        "path": change.path,
        "size": size_of(entry),
        **({"what": what} if what is not None else {}),
    }


class _Running:
    """Names of what is running."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """A copy."""
        with self._lock:
            return list(self._names)

    def any(self) -> bool:
        """Whether something runs."""
        return bool(self.names())

    @contextlib.contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Count something while it runs."""
        with self._lock:
            self._names.append(name)
        try:
            yield
        finally:
            with self._lock:
                self._names.remove(name)
