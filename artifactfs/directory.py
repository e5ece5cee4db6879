"""The directory of an embedded repository: its marker, how its parts lie, and the lock of whoever makes or changes that.

Used by ``repository.py`` and by ``serve``. Any thread, any process::

    repository.json   {"magic": "artifactfs-repository", "format": 2}
    registry.db       the Registry (SQLite)
    store/<project>/  the Store of a project
    spool/            only when the packs are in a bucket: what is sent there waits here
    unclaimed/        packs that no project named when a repository of format 1 with several projects was brought to this one

Format 1 had one Store for all projects, ``store/packs/…``. :func:`opened` brings a repository of it to this layout, once, under the
lock. Invariant *refused-first*: the marker says format 2 before the first pack moves, so that a release which knows format 1 alone
refuses what it would not find its packs in. Invariant *linked-before-unlinked*: a pack has its new names, durably, before its old one
goes; whoever comes after a kill does the same steps again.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from artifactfs.content.local import LocalStore, make_directory, sync_directory
from artifactfs.errors import Conflict, Format, Integrity, InvalidInput, NotFound, Unavailable, translate_os
from artifactfs.registry.holders import holder
from artifactfs.registry.sql import SQLRegistry

MAGIC: Final = "artifactfs-repository"
FORMAT: Final = 2
OLDEST: Final = 1  # format that can be brought to this one
MARKER: Final = "repository.json"
REGISTRY: Final = "registry.db"
STORE: Final = "store"
UNCLAIMED: Final = "unclaimed"
SPOOL: Final = "spool"
"""What is on its way to a bucket waits here, in files without a name."""

_BESIDE: Final = f".{MARKER}.new"
_HALF: Final = re.compile(r"[0-9a-f]{2}")
_OBJECT: Final = re.compile(r"([0-9a-f]{64})\.(?:pack|idx)")


class Marker(msgspec.Struct, frozen=True, omit_defaults=True):
    """What makes a directory a repository. ``moving``: packs are being brought to the layout of ``format``."""

    magic: str
    format: int
    moving: bool = False


def create(path: Path, *, project: str) -> None:
    """Make a repository in a directory that is absent or empty. Conflict when there is one already."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(path):
            present = sorted(item.name for item in path.iterdir())
            if MARKER in present:
                raise Conflict(f"{path} is a repository already")
            if not all(map(_is_part, present)):
                raise InvalidInput(f"{path} is not empty ({present[0]!r} is there); give an empty or a new directory")
            SQLRegistry(path / REGISTRY, project=project, create=True).close()
            make_directory(path / STORE)
            # Last, as it makes the directory a repository: a creation that was killed is simply made again.
            _write(path, Marker(MAGIC, FORMAT))
    except OSError as error:
        raise translate_os(error, f"cannot make a repository in {path}") from error


def opened(path: Path) -> Marker:
    """The marker of the repository in a directory, which is brought to this format first.

    NotFound (nothing there), InvalidInput (no repository), Format (a newer one), Access, Unavailable (a process of an older release
    has it open).
    """
    marker = _read(path)
    if marker.format != FORMAT or marker.moving:
        try:
            with _locked(path):
                marker = _bring(path)
        except OSError as error:
            raise translate_os(error, f"cannot bring the repository {path} to format {FORMAT}") from error
    return marker


def require_registry(path: Path) -> None:
    """Integrity when a repository has lost its registry: another one would take all packs that are here for garbage."""
    if not (path / REGISTRY).exists():
        raise Integrity(
            f"the repository {path} has lost its {REGISTRY}: restore that file from a backup, the packs below {STORE}/ may stay "
            "as they are; then run `artifactfs verify`"
        )


# -- the marker ------------------------------------------------------------------------------------------------------


def _read(path: Path) -> Marker:
    try:
        data = (path / MARKER).read_bytes()
    except FileNotFoundError:
        if not path.exists():
            raise NotFound(f"no repository at {path}; `artifactfs init {path}` makes one") from None
        # The marker itself may have come since.
        if all(item.name == MARKER or _is_part(item.name) for item in path.iterdir()):
            raise NotFound(f"no repository in {path} yet; `artifactfs init {path}` makes one") from None
        raise InvalidInput(f"{path} is not an ArtifactFS repository: it has no {MARKER}") from None
    except OSError as error:
        if isinstance(error, NotADirectoryError):
            raise InvalidInput(f"{path} is not a directory, so it is no ArtifactFS repository") from error
        raise translate_os(error, f"cannot open the repository {path}") from error
    try:
        marker = msgspec.json.decode(data, type=Marker)
    except msgspec.MsgspecError as error:
        raise Format(
            f"{path / MARKER} is damaged: {error}; restore it from another repository of format {FORMAT}"
        ) from error
    if marker.magic != MAGIC:
        raise InvalidInput(f"{path} is not an ArtifactFS repository: {MARKER} says {marker.magic!r}")
    if not OLDEST <= marker.format <= FORMAT:
        raise Format(f"{path} has format {marker.format}; this release reads format {FORMAT}: use a newer artifactfs")
    return marker


def _write(path: Path, marker: Marker) -> None:
    beside = path / _BESIDE
    with beside.open("wb") as file:
        file.write(msgspec.json.encode(marker) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path / MARKER)
    sync_directory(path)


def _is_part(name: str) -> bool:
    """What a creation that is under way, or was killed, may have left: none of it makes the directory something else."""
    return name.startswith(REGISTRY) or name in {STORE, _BESIDE}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One that makes or changes a repository at a time. The lock is the kernel's, so it goes with a process that is killed."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for _ in range(300):  # 30 s; a creation takes some 50 ms, and a thousand packs are moved in one
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.1)
        else:
            raise Unavailable(
                f"another process has been making or changing the repository in {path} for 30 s; try again later"
            )
        yield
    finally:
        os.close(directory)


# -- from format 1 ---------------------------------------------------------------------------------------------------


def _bring(path: Path) -> Marker:
    """Give each project its own packs, unless somebody else just did."""
    marker = _read(path)
    if marker.format == FORMAT and not marker.moving:
        return marker
    process = holder(path / REGISTRY)
    if process is not None:
        raise Unavailable(
            f"the process {process or 'of another container'} has the repository {path} open, and may be of an older release, which "
            "would lose sight of its packs; end it (unmount, or stop its serve) and repeat"
        )
    with closing(SQLRegistry(path / REGISTRY)) as registry:
        holders = registry.pack_holders()
        projects = registry.projects()
    _write(path, Marker(MAGIC, FORMAT, moving=True))
    # What dead writers left is removed by whoever opens a Store; this one is opened for the last time.
    LocalStore(path / STORE, absent=True).close()
    for half in _halves(path / STORE / "packs"):
        _move(path, half, holders, projects)
    for old in (path / STORE / "packs", path / STORE / "tmp"):
        with suppress(OSError):  # it holds something else: it is a project's of this name
            old.rmdir()
    done = Marker(MAGIC, FORMAT)
    _write(path, done)
    return done


def _move(path: Path, half: Path, holders: Mapping[str, Sequence[str]], projects: Sequence[str]) -> None:
    """Give the objects of one directory their new names, durably; then take the old ones away."""
    store = path / STORE
    moved = []
    targets = set()
    for item in sorted(half.iterdir()):
        named = _OBJECT.fullmatch(item.name)
        if named is None:
            continue
        owners: Iterable[str] = holders.get(named[1], projects if len(projects) == 1 else ())
        roots = [store / owner for owner in owners] or [path / UNCLAIMED]
        for root in roots:
            target = root / "packs" / half.name
            if target not in targets:
                make_directory(target)
                targets.add(target)
            _name(item, target / item.name)
        moved.append(item)
    for target in targets:
        sync_directory(target)
    for item in moved:
        item.unlink()
    with suppress(OSError):  # not empty: something of no name of ours is there, and stays
        half.rmdir()


def _name(item: Path, target: Path) -> None:
    """Give a file another name; where the disk knows one name a file, a copy."""
    try:
        os.link(item, target)
    except FileExistsError:
        return
    except OSError:
        beside = target.with_name(f".{target.name}.new")
        shutil.copyfile(item, beside)
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(target)


def _halves(packs: Path) -> list[Path]:
    try:
        return [item for item in sorted(packs.iterdir()) if _HALF.fullmatch(item.name)]
    except FileNotFoundError:
        return []
