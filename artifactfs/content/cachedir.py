"""The cache's directory: whose it is, of which format, who may change its parts, and what of it is thrown away.

::

    format          "artifactfs cache 1"
    lock            flock: shared by a process that changes parts, exclusive by one that makes, checks or replaces them
    claims          one byte a number (claims.py)
    catalog.db      SQLite: which chunk lies where (catalog.py)
    chunks/         extents of file chunks, a part kept by diskcache (vault.py)
    nodes/          extents of nodes of directories and chunk lists, likewise
    discarded-*/    damaged parts on their way out
    drafts/         files that Python programs write before they log them (python/spool.py)

Used by the shelf, from one thread at a time. Nothing here outlives its use elsewhere: all of it may be deleted at any time.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from artifactfs.errors import Access, Format, InvalidInput, Unavailable, translate_os
from artifactfs.registry.netfs import refuse_network_filesystem

FORMAT: Final = 1
CATALOG: Final = "catalog.db"
CLAIMS: Final = "claims"
CHUNK_PART: Final = "chunks"
NODE_PART: Final = "nodes"

LOCK_SECONDS: Final = 1.0
"""How long a change waits for another process that checks or replaces the parts."""

_FORMAT_FILE: Final = "format"
_LOCK_FILE: Final = "lock"
_DISCARDED: Final = "discarded-"
_DRAFTS: Final = "drafts"
_MARK: Final = re.compile(r"artifactfs cache (\d{1,9})\n")
# What may lie in a cache whose marker is missing, because somebody is deleting it: with SQLite's companions and what is made beside.
_OWN: Final = (_FORMAT_FILE, _LOCK_FILE, CATALOG, CLAIMS, CHUNK_PART, NODE_PART, _DISCARDED, _DRAFTS)
_ELSEWHERE: Final = "choose another one with --cache-dir"


class CacheDirectory:
    """A directory that is this user's cache, made when it is not there.

    Raises InvalidInput (a network file system, or a directory of other things), Access (another user's, no permission), Format (a
    newer cache), NoSpace, Unavailable.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        refuse_network_filesystem(path, what="the cache", instead=f"{_ELSEWHERE.capitalize()} on a local disk")
        if "$" in str(path):
            raise InvalidInput(
                f"the cache {path} cannot have a '$' in its name, which diskcache replaces; {_ELSEWHERE}"
            )
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_owner()
            self._check_format()
            self._lock = os.open(path / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileExistsError as error:
            raise InvalidInput(f"the cache {path} is no directory; {_ELSEWHERE}") from error
        except OSError as error:
            raise translate_os(error, f"cannot use the cache {path}") from error

    def close(self) -> None:
        """Let the lock go. Idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @contextmanager
    def shared(self) -> Iterator[None]:
        """While this process changes parts. Unavailable when another one keeps all of them."""
        with self._locked(fcntl.LOCK_SH):
            yield

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """While no other process changes parts. Unavailable when one goes on changing them."""
        with self._locked(fcntl.LOCK_EX):
            yield

    def discard(self) -> None:
        """Put all parts out of sight, under the exclusive lock; :meth:`empty` frees their space. OSError."""
        parts = [
            entry.name for entry in os.scandir(self.path) if entry.name.startswith((CATALOG, CHUNK_PART, NODE_PART))
        ]
        for _ in range(3):  # what was made to hold them may be emptied by another process before it holds them
            aside = self.path / f"{_DISCARDED}{secrets.token_hex(8)}"
            aside.mkdir(mode=0o700)
            with suppress(FileNotFoundError):
                # The catalog first: without it, whoever is killed here leaves parts that the next one discards.
                for name in sorted(parts):
                    (self.path / name).rename(aside / name)
                    parts = parts[1:]
                return

    def empty(self) -> None:
        """Delete what was discarded. Takes about 1 ms for each 8 MiB."""
        with suppress(OSError):
            for entry in os.scandir(self.path):
                if entry.name.startswith(_DISCARDED):
                    shutil.rmtree(entry.path, ignore_errors=True)

    @contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(self._lock, kind | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in {errno.EAGAIN, errno.EINTR}:
                    raise translate_os(error, f"cannot lock the cache {self.path}") from error
                if time.monotonic() >= deadline:
                    raise Unavailable(f"the cache {self.path} is being changed by another process; try again") from None
            time.sleep(0.005)
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _check_owner(self) -> None:
        found = self.path.stat()
        if found.st_uid != os.geteuid():
            raise Access(f"the cache {self.path} belongs to another user (number {found.st_uid}); {_ELSEWHERE}")
        if stat.S_IMODE(found.st_mode) & 0o077:
            # Who may read it reads what the repository's access control guards; who may write it chooses what is read.
            self.path.chmod(0o700)

    def _check_format(self) -> None:
        marker = self.path / _FORMAT_FILE
        try:
            found = _MARK.fullmatch(marker.read_text("ascii", "replace"))
        except FileNotFoundError:
            found = None
        if found is None:
            strange = [each.name for each in self.path.iterdir() if not each.name.startswith(_OWN)]
            if strange:
                raise InvalidInput(
                    f"{self.path} holds other things than a cache ({strange[0]!r}); {_ELSEWHERE}, or an empty directory"
                )
            beside = self.path / f"{_FORMAT_FILE}.{secrets.token_hex(8)}"
            beside.write_text(f"artifactfs cache {FORMAT}\n")
            beside.rename(marker)
        elif int(found[1]) != FORMAT:
            raise Format(
                f"the cache {self.path} has format {found[1]}, this release uses format {FORMAT}; "
                f"use a newer artifactfs, or {_ELSEWHERE}"
            )
