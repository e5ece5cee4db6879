"""Where the packs of a registry are: in a directory beside it, or in a bucket of an object store.

Used by ``repository.py`` and by ``serve``. Any thread. The registry itself remembers the bucket (``meta``, key ``store``), so that no
process looks for packs where they are not: what lies elsewhere would look lost, and what came meanwhile would be in two places.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from artifactfs.content.stores import LocalStores, ObjectStores, Stores
from artifactfs.errors import Conflict, InvalidInput
from artifactfs.registry.sql import SQLRegistry

BESIDE: Final = "local"
"""What is said for the directory beside the registry."""


class Ground(NamedTuple):
    """What this machine gives to Stores."""

    beside: Path | None  # directory of the packs of a registry that is a file; without one they are in a bucket
    spool: Path | None  # directory for what is on its way to a bucket; None: the system's
    seconds: float  # bound of a request to an object store


def open_stores(registry: SQLRegistry, ground: Ground) -> Stores:
    """The Stores of a registry, where it says that they are; the caller closes them. Asks nobody yet."""
    return _open(registry.store_url(), ground)


def open_stores_at(registry: SQLRegistry, url: str, ground: Ground, *, moved: bool) -> Stores:
    """As :func:`open_stores`, of packs that are at ``url`` from now on: a bucket (``s3://bucket/prefix``), or "local".

    They are asked for once, and only then it is remembered. Conflict when the packs were said to be elsewhere, or some are beside the
    registry, unless they were ``moved``; and when somebody said otherwise meanwhile.
    """
    known, new = registry.store_url(), canonical(url)
    if new != known and not moved and (known or registry.pack_totals()[0]):
        raise _elsewhere(known, new)
    stores = _open(new, ground)
    try:
        stores.check()
        if new != known and (now := registry.record_store(new, instead_of=known)) != new:
            raise _elsewhere(now, new)
    except BaseException:
        stores.close()
        raise
    return stores


def _elsewhere(known: str, new: str) -> Conflict:
    return Conflict(
        f"the packs of this repository are in {known or 'its directory'}, not in {new or 'its directory'}; copy them there with "
        "their keys as they are, and say so once with --store-moved"
    )


def _open(url: str, ground: Ground) -> Stores:
    if url:
        return ObjectStores(url, spool=ground.spool, seconds=ground.seconds)
    if ground.beside is None:
        raise InvalidInput(
            "this registry does not know where its packs are: give --store s3://bucket/prefix, or with --repository a directory "
            "that all of its servers share"
        )
    return LocalStores(ground.beside)


def canonical(url: str) -> str:
    """Of URLs that mean one place, one; empty for the directory beside the registry. InvalidInput for what is neither."""
    if url == BESIDE:
        return ""
    ObjectStores(url, spool=None, seconds=1.0).close()  # which says what is wrong with it
    return url.rstrip("/")
