"""Stores: one Store for each project, in a directory or in a bucket.

Used by embedded repositories and by the server. Any thread. Nothing is made or asked for before a project's Store is used.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

from artifactfs.buckets.bucket import Bucket
from artifactfs.buckets.places import is_bucket, place_of
from artifactfs.content.local import LocalStore, check_key
from artifactfs.content.objects import ObjectStore
from artifactfs.content.spool import Kept
from artifactfs.content.store import Store
from artifactfs.errors import InvalidInput, translate_os
from artifactfs.model.names import check_project

PROJECTS: Final = 64
"""Projects whose Store is at hand: one of a directory has up to 128 descriptors."""


class Stores(Protocol):
    """The Stores of all projects."""

    @property
    def local(self) -> bool:
        """Whether reads are answered from a local disk."""

    def of_project(self, name: str) -> Store:
        """The Store of a project, whether it holds anything or not. InvalidInput for what is no name."""

    def check(self) -> None:
        """Ask where the objects are, once. NotFound, Access, InvalidInput, Unavailable when they could not be read."""

    def close(self) -> None:
        """Close them all. Idempotent."""


Kind = TypeVar("Kind", bound=Store)


class _Opened(Generic[Kind]):
    """Stores by project, the latest of them: anybody may name a project. One that is forgotten closes with its last reader."""

    def __init__(self, opening: Callable[[str], Kind]) -> None:
        self._opening = opening
        self._lock = threading.Lock()
        self._stores: OrderedDict[str, Kind] = OrderedDict()

    def of_project(self, name: str) -> Kind:
        with self._lock:
            store = self._stores.get(name)
            if store is None:
                store = self._stores[name] = self._opening(check_project(name))
                if len(self._stores) > PROJECTS:
                    self._stores.popitem(last=False)
            self._stores.move_to_end(name)
            return store

    def close(self) -> None:
        with self._lock:
            for store in self._stores.values():
                store.close()


class LocalStores:
    """The directories ``root/<project>``, each made when something is uploaded first."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._opened = _Opened(lambda name: LocalStore(root / name, absent=True))

    @property
    def local(self) -> bool:
        """Always."""
        return True

    def of_project(self, name: str) -> LocalStore:
        """The Store of a project."""
        return self._opened.of_project(name)

    def check(self) -> None:
        """Look into the directory, if it is there."""
        try:
            with contextlib.suppress(FileNotFoundError):
                os.scandir(self._root).close()
        except OSError as error:
            raise translate_os(error, f"cannot read the store {self._root}") from error

    def close(self) -> None:
        """Let go of the descriptors. Idempotent."""
        self._opened.close()


class ObjectStores:
    """The keys ``<prefix>/<project>/…`` of a bucket: ``s3://bucket/prefix``, ``gs://…``, ``az://container/prefix``.

    ``spool``: directory for what is being uploaded; None: the system's. ``seconds`` bounds a request with its repetitions.
    InvalidInput for a URL that names no bucket, or a prefix that is no key. All projects share the connections.
    """

    def __init__(self, url: str, *, spool: Path | None, seconds: float) -> None:
        if not is_bucket(url):
            raise InvalidInput("the URL of an object store looks like s3://bucket/prefix, gs://… or az://…")
        if set("?#") & set(url) or (url[:2] != "ab" and "@" in url.partition("://")[2].partition("/")[0]):
            # What stands there may be a secret, so it is not repeated.
            raise InvalidInput(
                "the URL of an object store has neither a user, a query nor a fragment: s3://bucket/prefix; "
                "credentials come from the environment and profiles"
            )
        place = place_of(url)
        prefix = place.key.rstrip("/")
        if prefix:
            check_key(prefix)
        self._bucket = Bucket(place, seconds=seconds)
        self._kept = Kept()
        self._prefix = prefix
        self._opened = _Opened(
            lambda name: ObjectStore(self._bucket, f"{prefix}/{name}" if prefix else name, kept=self._kept, spool=spool)
        )

    @property
    def local(self) -> bool:
        """Never."""
        return False

    def of_project(self, name: str) -> ObjectStore:
        """The Store of a project."""
        return self._opened.of_project(name)

    def check(self) -> None:
        """Ask for a page of the listing: whether there is such a bucket, and whether it may be read."""
        next(self._bucket.list(self._prefix), None)

    def close(self) -> None:
        """Let the connections go, and what was spooled. Idempotent."""
        self._opened.close()
        self._kept.clear()
        self._bucket.close()
