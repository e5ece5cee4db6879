"""Sources: references as files of a mount: which can be read here, and how large those are whose size nobody recorded.

Used by reading.py for versions and by staging. Any thread; the table is only touched by single, atomic operations.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

from artifactfs.errors import Access, InvalidInput, Unavailable
from artifactfs.model.tree import RefEntry
from artifactfs.references.contract import ReferenceFile, digest_of
from artifactfs.references.files import path_of
from artifactfs.references.uris import scheme_of
from artifactfs.repository import Repository

MAX_SIZES: Final = 100_000
"""References of unrecorded size whose size is remembered, about 100 bytes each."""
LINKS: Final = 40
"""Symlinks followed on a path, as by the kernel."""


class Sources:
    """The references of a repository, seen from a mount at ``mountpoint`` (as :func:`attach.resolve` gives it; "" for none).

    ``shared``: other users see the mount. It would read them files of this machine with its own user's rights, which they may not
    have, so a ``file://`` reference is a symlink to its path then, and the kernel asks for the rights of who follows it. What is
    elsewhere it reads with its user's credentials, so only that user may read it (and root, who may become anybody), unless ``lent``.
    """

    def __init__(
        self, repository: Repository, mountpoint: str = "", *, shared: bool = False, lent: bool = False
    ) -> None:
        self._repository = repository
        self._mountpoint = mountpoint
        self._shared = shared
        self._lent = lent
        self._sizes: dict[int, int] = {}

    def readable(self, entry: RefEntry) -> bool:
        """Whether a reference is a file here; otherwise it is a symlink to :meth:`target`."""
        return self._repository.references.knows(entry.uri) and not self._is_of_others(entry)

    def target(self, entry: RefEntry) -> bytes:
        """Where the symlink of a reference that is no file leads: to its URI, or to the file of this machine that it names."""
        if self._is_of_others(entry):
            with suppress(InvalidInput):
                return os.fsencode(path_of(entry.uri))
        return entry.uri.encode()

    def mode(self, entry: RefEntry, mode: int) -> int:
        """The mode of a reference that is a file: without any rights of others where it is read with the mount's credentials.

        A mode and no check when it is opened: the kernel looks at it in every mount that others see (default_permissions), also where
        opens are not seen, and whoever is refused can see why.
        """
        return mode & ~0o077 if self._shared and self._is_own_alone(entry) else mode

    def _is_own_alone(self, entry: RefEntry) -> bool:
        """Whether others may not read a reference.

        One to another artifact whose digest was recorded is content of the repository. Without, it may lead to any reference, a
        ``file://`` one as well, and to another one tomorrow: so it is not lent either.
        """
        scheme = scheme_of(entry.uri)
        if scheme == "artifact":
            return digest_of(entry) is None or entry.size is None
        return scheme != "file" and not self._lent

    def _is_of_others(self, entry: RefEntry) -> bool:
        return self._shared and scheme_of(entry.uri) == "file"

    def open(self, entry: RefEntry) -> ReferenceFile:
        """Read a reference's bytes, checked; nothing is asked of its source yet.

        Unavailable when it lies in this mount: the process would wait for itself, and could not be killed meanwhile. Access for a
        file of this machine in a mount that others see.
        """
        if self._is_of_others(entry):
            raise Access(
                f"other users see this mount, so it does not read {entry.uri} with its own user's rights for them"
            )
        if self.is_own(entry):
            raise Unavailable(f"the source {entry.uri} lies in this mount itself; refer to it by artifact:// instead")
        return self._repository.open_reference(entry)

    def is_own(self, entry: RefEntry) -> bool:
        """Whether a reference's source lies in this mount. Nothing below the mountpoint is touched to find out."""
        if not self._mountpoint or scheme_of(entry.uri) != "file":
            return False
        return leads_into(path_of(entry.uri), self._mountpoint)

    def open_sized(self, node: int, entry: RefEntry) -> ReferenceFile:
        """As :meth:`open`; if only the URI was recorded, the source is asked for the size, which is remembered. May fail as a read."""
        source = self.open(entry)
        if entry.size is None:
            self._sizes[node] = source.size
            if len(self._sizes) > MAX_SIZES:
                self._sizes.pop(next(iter(self._sizes)), None)
        return source

    def found_size(self, node: int) -> int:
        """The size that :meth:`open_sized` found last; 0 when it was not asked."""
        return self._sizes.get(node, 0)


def leads_into(path: str, directory: str) -> bool:
    """Whether an absolute path, with its symlinks followed, is a directory or leads through it. Touches nothing below that."""
    reached, rest, links = "", path.split("/"), 0
    while rest:
        part = rest.pop(0)
        if part in {"", "."}:
            continue
        if part == "..":
            reached = reached.rpartition("/")[0]
            continue
        step = f"{reached}/{part}"
        if step == directory:
            return True
        try:
            target = os.readlink(step)  # noqa: PTH115 - text, as it came from the URI
        except OSError:
            reached = step  # no symlink, or not there
            continue
        links += 1
        if links > LINKS:
            return False  # opening it will fail
        reached = "" if target.startswith("/") else reached
        rest = target.split("/") + rest
    return False
