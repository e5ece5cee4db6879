"""The checks of ``doctor``: what ArtifactFS needs on this machine, what was found, and what to do about it.

Looks only; makes nothing but, in an existing repository, what opening it makes. Every check ends by itself: a mount that does
not answer is given five seconds, a server the timeout. Runs on the main thread.
"""

from __future__ import annotations

import ctypes.util
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from artifactfs import config
from artifactfs.cli.context import Context
from artifactfs.cli.printing import many, size
from artifactfs.config import Settings
from artifactfs.credentials import is_loopback
from artifactfs.errors import ArtifactFSError, NotFound

if TYPE_CHECKING:
    from artifactfs.registry.contract import Registry

_LITTLE_SPACE: Final = 1 << 30  # bytes free below which a warning is due
_SLOW_SECONDS: Final = 0.5  # a round trip beyond which reading files one by one is no joy
_SOON_SECONDS: Final = 3 * 86_400  # a token that ends within it is worth a warning
_OLDEST_KERNEL: Final = (5, 4)  # FUSE protocol 7.31


@dataclass(frozen=True)
class Finding:
    """One check: ``state`` says whether it stands in the way, ``advice`` what to do (empty when nothing)."""

    check: str
    state: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""


def examine(context: Context) -> list[Finding]:
    """Every check, in the order in which to mend things."""
    findings = [_python(), _chunker(), *_fuse()]
    try:
        settings = context.settings
    except ArtifactFSError as error:
        return [*findings, Finding("configuration", "fail", str(error))]
    where = _server(context) if config.is_url(settings.repository) else _repository(settings)
    places = (_workspaces(settings), _cache(settings))
    return [*findings, _configuration(settings), *where, *places, *_mounts(settings)]


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} ({sys.executable})")


def _chunker() -> Finding:
    from artifactfs.content.chunks import accelerated

    if accelerated():
        return Finding("chunking", "ok", "compiled")
    return Finding(
        "chunking",
        "warn",
        "in pure Python: storing files above 4 MiB is slow",
        "install a wheel of pyfastcdc with its compiled part: pip install --force-reinstall --only-binary :all: pyfastcdc",
    )


def _fuse() -> Iterator[Finding]:
    yield _kernel()
    yield _device()
    yield _fusermount()
    yield _allow_other()
    yield _libfuse()


def _kernel() -> Finding:
    release = platform.release()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    if numbers >= _OLDEST_KERNEL:
        return Finding("kernel", "ok", f"Linux {release}")
    return Finding("kernel", "fail", f"{platform.system()} {release}", "mounts need Linux 5.4 or newer")


def _device() -> Finding:
    path = "/dev/fuse"
    if not Path(path).exists():
        advice = "load the module: modprobe fuse; in a container, start it with --device /dev/fuse --cap-add SYS_ADMIN"
        return Finding("/dev/fuse", "fail", "is not there", advice)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        return Finding("/dev/fuse", "fail", f"cannot be opened: {reason}", "as root: chmod 666 /dev/fuse")
    return Finding("/dev/fuse", "ok", "can be opened")


def _fusermount() -> Finding:
    program = shutil.which("fusermount3") or shutil.which("fusermount")
    if program is None:
        state: Literal["warn", "fail"] = "warn" if os.geteuid() == 0 else "fail"
        return Finding("fusermount3", state, "is not there", "install it: apt-get install fuse3")
    if os.geteuid() != 0 and not _is_setuid_root(Path(program)):
        return Finding("fusermount3", "fail", f"{program} is not set-uid root", f"as root: chmod u+s {program}")
    return Finding("fusermount3", "ok", program)


def _is_setuid_root(program: Path) -> bool:
    status = program.stat()
    return bool(status.st_mode & 0o4000) and status.st_uid == 0


def _allow_other() -> Finding:
    if os.geteuid() == 0:
        return Finding("allow-other", "ok", "allowed, as this is root")
    try:
        lines = Path("/etc/fuse.conf").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    if any(line.split("#")[0].strip() == "user_allow_other" for line in lines):
        return Finding("allow-other", "ok", "allowed")
    advice = "only for mount --allow-other: as root, add the line user_allow_other to /etc/fuse.conf"
    return Finding("allow-other", "ok", "not allowed", advice)


def _libfuse() -> Finding:
    name = ctypes.util.find_library("fuse3") or ctypes.util.find_library("fuse")
    if name is None:
        advice = "only for mount --binding fusepy: apt-get install libfuse3-3 (newer systems: libfuse3-4)"
        return Finding("libfuse", "ok", "not installed", advice)
    return Finding("libfuse", "ok", name)


def _configuration(settings: Settings) -> Finding:
    path = settings.config_file
    values = config.read_config(path)
    if not path.exists():
        return Finding("configuration", "ok", f"none ({path})")
    return Finding("configuration", "ok", f"{path}: {', '.join(sorted(values)) or 'empty'}")


def _repository(settings: Settings) -> Iterator[Finding]:
    from artifactfs.repository import Repository

    where = settings.repository
    try:
        with Repository.open(where, project=settings.project, credentials=settings.credentials) as repository:
            artifacts = len(repository.registry.artifacts())
            sealed = list(_sealed(repository.registry))
    except NotFound:
        yield Finding("repository", "ok", f"none yet at {where}", "the first put or mount makes it")
        yield _space("free space", Path(where))
        return
    except ArtifactFSError as error:
        yield Finding("repository", "fail", str(error))
        return
    yield Finding("repository", "ok", f"{where} (project {settings.project}: {many(artifacts, 'artifact')})")
    yield from sealed
    if not os.access(where, os.W_OK):
        yield Finding("repository", "warn", "is read-only for this user", f"to put and commit: chown {where}")
    yield _space("free space", Path(where))


def _server(context: Context) -> Iterator[Finding]:
    """Whether a server answers, to this release's protocol, and how fast once connected."""
    where, project = context.settings.repository, context.settings.project
    try:
        with context.open() as repository:
            registry = repository.registry
            artifacts = len(registry.artifacts())
            asked = time.monotonic()
            registry.changed(0, seconds=0.0)  # never answered from memory
            seconds = time.monotonic() - asked
            token = _token(context.settings, registry)
            sealed = list(_sealed(registry))
    except ArtifactFSError as error:
        yield Finding("repository", "fail", str(error))
        yield _encryption(context.settings)
        return
    found = f"{where} (project {project}: {many(artifacts, 'artifact')}), answers within {1000 * seconds:.0f} ms"
    if seconds > _SLOW_SECONDS:
        yield Finding("repository", "warn", found, "every directory that is opened the first time takes about as long")
    else:
        yield Finding("repository", "ok", found)
    yield token
    yield from sealed
    yield _encryption(context.settings)


def _sealed(registry: Registry) -> Iterator[Finding]:
    """Which key the project is encrypted with, if it is, and whether it is here; through a server it need not be."""
    from artifactfs.registry.sql import SQLRegistry

    identity = registry.key_id()
    if not identity:
        return
    if not isinstance(registry, SQLRegistry):
        yield Finding("encryption", "ok", f"encrypted with the key {identity}, which the server has")
        return
    try:
        registry.check_key()
    except ArtifactFSError as error:
        yield Finding("encryption", "fail", str(error), "see: artifactfs help encryption")
    else:
        yield Finding("encryption", "ok", f"encrypted with the key {identity}, which is here and opens it")


def _token(settings: Settings, registry: Registry) -> Finding:
    """Which token the server took. Of the token itself nothing but its id is shown."""
    from artifactfs.cli.tokens import told
    from artifactfs.remote.registry import RemoteRegistry

    credentials = settings.credentials
    assert isinstance(registry, RemoteRegistry)  # noqa: S101 - of a server
    try:
        own = registry.tokens.own()
    except NotFound:
        return Finding("token", "ok", "the server asks for none")
    where = "ARTIFACTFS_TOKEN" if credentials.token else str(credentials.token_file)
    soon = own.expires is not None and own.expires / 1e9 - time.time() < _SOON_SECONDS
    return Finding(
        "token", "warn" if soon else "ok", f"{told(own)}; from {where}", "ask an admin for a new one" if soon else ""
    )


def _encryption(settings: Settings) -> Finding:
    """Whether what goes to the server can be read on the way."""
    if not settings.repository.startswith("https:"):
        if is_loopback(settings.repository):
            return Finding("tls", "ok", "not used, and not needed within this machine")
        return Finding("tls", "warn", "not used: others on the way can read what goes there", "use https://")
    ca_file = settings.credentials.ca_file
    return Finding("tls", "ok", f"certificates are checked with {ca_file or 'those that requests brings (certifi)'}")


def _space(check: str, path: Path) -> Finding:
    path = _present(path)
    try:
        usage = os.statvfs(path)
    except OSError as error:
        return Finding(check, "warn", f"unknown: {(error.strerror or str(error)).lower()}")
    free = usage.f_bavail * usage.f_frsize
    if free < _LITTLE_SPACE:
        return Finding(check, "warn", f"{size(free)} at {path}", "free some space, or move the repository")
    return Finding(check, "ok", f"{size(free)} at {path}")


def _workspaces(settings: Settings) -> Finding:
    """Staging lives here."""
    place = settings.workspaces
    return _local("workspaces", place, "the workspaces of mounts", "XDG_STATE_HOME") or Finding(
        "workspaces", "ok", str(place)
    )


def _cache(settings: Settings) -> Finding:
    """What comes from servers is kept here."""
    place, limit = settings.cache_dir, settings.cache_size
    wrong = _local("cache", place, "the cache", "--cache-dir")
    if wrong is not None:
        return wrong
    room = _space("cache", place)
    share = "a tenth of the disk, at most 50 GB" if limit is None else size(limit)
    advice = "free some space, or set --cache-dir" if room.advice else ""
    return Finding("cache", room.state, f"{place} (takes {share}; free: {room.found})", advice)


def _local(check: str, place: Path, what: str, setting: str) -> Finding | None:
    """What keeps a directory, which need not be there yet, from being a local one that can be written."""
    from artifactfs.registry.netfs import refuse_network_filesystem

    try:
        refuse_network_filesystem(place, what=what)
    except ArtifactFSError as error:
        return Finding(check, "fail", str(error), f"set {setting} to a directory on a local disk")
    present = _present(place)
    if not present.is_dir() or not os.access(present, os.W_OK | os.X_OK):
        return Finding(check, "fail", f"{present} cannot be written", f"mend its permissions, or set {setting}")
    return None


def _present(path: Path) -> Path:
    """A directory, or the nearest one above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _mounts(settings: Settings) -> Iterator[Finding]:
    from artifactfs.cli.mounts import live_mounts
    from artifactfs.mount import attach, ending

    alive = {live.mountpoint: live for live in live_mounts(settings)}
    for path, live in alive.items():
        yield Finding("mount", "ok", f"{path} (process {live.status.get('pid')})")
    for entry in attach.mounts():
        if entry.kind == ending.KIND and entry.mountpoint not in alive:
            yield _foreign(entry.mountpoint, attach.is_dead, attach.bounded)
    if not alive:
        yield Finding("mount", "ok", "none of this user")


def _foreign(
    path: str, is_dead: Callable[[str], bool], bounded: Callable[[float, Callable[[], object]], bool]
) -> Finding:
    """A mount of ours whose process does not answer to this user."""
    answer: list[bool] = []
    if not bounded(5.0, lambda: answer.append(is_dead(path))):
        return Finding("mount", "fail", f"{path} does not answer", f"artifactfs unmount --force {path}")
    if answer == [True]:
        return Finding(
            "mount", "fail", f"{path} is dead: its process has ended", f"artifactfs mount {path}, or unmount"
        )
    return Finding("mount", "ok", f"{path} (another user's, or with another state directory)")
