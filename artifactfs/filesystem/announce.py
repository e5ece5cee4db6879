"""``artifactfs.prefetch(paths)``: a program says which files it will read and in which order, and they are fetched ahead of it.

For files below a mount the mount's process does it, asked over its control socket; for ``artifactfs://`` URLs this process does, for
all that reads by the file system of fsspec. Any thread may call it; the last call of a process holds.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from artifactfs import config
from artifactfs.errors import ArtifactFSError, InvalidInput, Unavailable
from artifactfs.filesystem.opened import Opened, Versions, opened_of, pinned, version_of
from artifactfs.model.names import parse_address
from artifactfs.mount import control
from artifactfs.mount.reach import around

PROTOCOL: Final = "artifactfs://"
BATCH_BYTES: Final = 512 << 10
"""Of paths as JSON, in a request; a mount takes lines of 1 MiB."""

_logger = logging.getLogger(__name__)


class _Announced:
    """Who has an order of this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()  # one call at a time, so that the parts of one order are not mixed with another's
        self.program = uuid.uuid4().hex
        self.mounts: dict[Path, str] = {}  # by workspace: the plan's name
        self.here: dict[int, tuple[Opened, str]] = {}


_announced = _Announced()


def prefetch(
    paths: Iterable[str | os.PathLike[str]],
    *,
    repository: str | None = None,
    project: str | None = None,
    cache_dir: str | None = None,
    cache_size: str | int | None = None,
    timeout: str | float | None = None,
) -> None:
    """Have files fetched in the order in which they will be read, ahead of who reads them. Returns at once.

    ``paths`` are files or directories below a mount of artifacts, or ``artifactfs://`` URLs; for these the other arguments say of
    which repository, as for the file system of fsspec: ``cache_size`` in bytes or as ``50GB``, ``timeout`` in seconds. What is fetched
    and not read yet takes a part of the cache at most. Each call ends the order that the one before has told; without paths it does
    no more than that.

    Raises InvalidInput (a path that is neither), NotFound (a URL's artifact or version), Unavailable (the mount, or the server). A
    file that is not there is no error here: reading it will be one.
    """
    if isinstance(paths, str | bytes | os.PathLike):
        raise InvalidInput(f"paths must be a list of paths, not one path: give [{os.fsdecode(paths)!r}]")
    if not isinstance(paths, Iterable):
        raise InvalidInput(f"paths must be a list of paths; this is a {type(paths).__name__}")
    urls: list[str] = []
    files: list[str] = []
    for given in paths:
        path = os.fspath(given) if isinstance(given, str | os.PathLike) else None
        if not isinstance(path, str):
            raise InvalidInput(f"paths has {given!r} in it, a {type(given).__name__}; give texts or pathlib.Path")
        (urls if path.startswith(PROTOCOL) else files).append(path)
    with _announced.lock:
        plan = uuid.uuid4().hex
        mounts = _by_mount(files)
        here: dict[int, tuple[Opened, list[str]]] = {}
        if urls:
            settings = config.load(
                repository=repository,
                project=project,
                cache_dir=cache_dir,
                cache_size=None if cache_size is None else str(cache_size),
                timeout=None if timeout is None else str(timeout),
            )
            here = _by_repository(settings, urls)
        _end_others(mounts, here)
        for workspace, order in mounts.items():
            _announced.mounts[workspace] = plan
            _tell(workspace, plan, order)
        for number, (opened, addresses) in here.items():
            _announced.here[number] = opened, plan
            opened.prefetch(plan, addresses)


def _end_others(mounts: Iterable[Path], here: Iterable[int]) -> None:
    """End what was told before to those who are told nothing now."""
    for workspace in _announced.mounts.keys() - set(mounts):
        try:
            control.request(workspace, "prefetch", {"plan": _announced.mounts.pop(workspace), "stop": True})
        except ArtifactFSError as error:
            _logger.debug("ending an order of files: %s", error)  # the mount has gone, most likely
    for number in _announced.here.keys() - set(here):
        opened, plan = _announced.here.pop(number)
        opened.stop(plan)


def _by_mount(files: list[str]) -> dict[Path, list[str]]:
    """Paths below their mounts, by the mounts' workspaces. Looks at each directory once, and at no file."""
    found: dict[Path, list[str]] = {}
    mounts: dict[str, Path] = {}  # workspaces by mount point, with a slash at its end
    real: dict[str, str] = {}
    here = os.getcwd()  # noqa: PTH109 - names of 100,000 files as text; as Path objects they take ten times as long
    for path in files:
        absolute = (path if path[:1] == "/" else f"{here}/{path}").rstrip("/")
        directory, _, name = absolute.rpartition("/")
        if name in {".", ".."}:
            directory, name = absolute, ""
        if directory not in real:
            real[directory] = os.path.realpath(directory)
        place = f"{real[directory].rstrip('/')}/{name}".rstrip("/")
        root = next((root for root in mounts if place.startswith(root)), None)
        if root is None:
            mount = around(Path(place))
            if mount is None:
                raise InvalidInput(
                    f"{path} is not below a mount of artifacts; give such a path, or artifactfs://NAME:VERSION/PATH"
                )
            root = mount[0].mountpoint.rstrip("/") + "/"
            if not mount[1]:
                raise InvalidInput(f"{path} is the root of a mount; name files or directories of versions below it")
            mounts[root] = mount[0].workspace
        found.setdefault(mounts[root], []).append(place.removeprefix(root))
    return found


def _by_repository(settings: config.Settings, urls: list[str]) -> dict[int, tuple[Opened, list[str]]]:
    """Addresses by who reads them, aliases looked up once: versions by their numbers."""
    found: dict[int, tuple[Opened, list[str]]] = {}
    versions: Versions = {}
    for url in urls:
        address = parse_address(url.removeprefix(PROTOCOL).strip("/"))
        opened = opened_of(settings, address.project)
        order = found.setdefault(id(opened), (opened, []))[1]
        order.append(pinned(address, version_of(opened.repository, address, versions)))
    return found


def _tell(workspace: Path, plan: str, paths: list[str]) -> None:
    """Send a mount its order."""
    try:
        for batch in _batches(paths):
            control.request(workspace, "prefetch", {"program": _announced.program, "plan": plan, "paths": batch})
    except Unavailable as error:
        if "enough paths" not in str(error):
            raise
        _logger.info("%s", error)


def _batches(paths: list[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for path in paths:
        length = len(json.dumps(path)) + 2
        if batch and size + length > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(path)
        size += length
    if batch:
        yield batch


def _forked() -> None:
    """In a child: the orders are its parent's."""
    global _announced  # noqa: PLW0603 - a lock cannot be made free in place
    _announced = _Announced()


os.register_at_fork(after_in_child=_forked)
