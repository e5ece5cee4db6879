"""URLs by which clients read packs straight from the object store.

Used by the routes of content and objects, on a thread. A URL is given again as long as half of its life is left: signing takes 40 us,
and a walk asks for the places in the same pack again and again.

Where nothing can be signed, as with an emulator, or with an account of Google that may not sign, clients read through the server.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import msgspec

from artifactfs.content.pack import pack_key
from artifactfs.content.recent import Recent
from artifactfs.content.stores import Stores
from artifactfs.errors import Access, ArtifactFSError, InvalidInput, Unavailable
from artifactfs.remote.wire import SIGNED, Places, SignedUrls
from artifactfs.server.log import Log

REMEMBERED: Final = 10_000
"""URLs that are given again, some 600 bytes each."""
SIGNED_SECONDS: Final = 900
"""How long a URL lives unless said otherwise. What is read for longer asks for another one."""
REST_SECONDS: Final = 60.0
"""How long nothing is signed after that failed: it may ask for a token over the network, which may not answer."""


class Signing:
    """Signs for projects' objects, as far as their Stores can. ``seconds``: life of a URL; None: nothing is signed."""

    def __init__(self, stores: Stores, seconds: float | None, log: Log) -> None:
        self._stores = stores
        self._seconds = seconds
        self._log = log
        self._rests_until = 0.0
        self._told = ""
        self._given: Recent[tuple[str, float]] = Recent(REMEMBERED)  # with the end of its life (monotonic)

    def urls(self, project: str, keys: Sequence[str], *, anew: bool = False) -> SignedUrls:
        """URLs of these objects, at most SIGNED, there or not; none where nothing is signed. ``anew``: none that was given before."""
        seconds, store = self._seconds, self._stores.of_project(project)
        if seconds is None or not store.signs or not keys:
            return SignedUrls([], 0.0)
        now = time.monotonic()
        if now < self._rests_until:
            return SignedUrls([], 0.0)
        names = [f"{project}/{key}".encode() for key in keys]
        given = [None if anew else self._given.get(name) for name in names]
        fresh = [url is None or url[1] - now < seconds / 2 for url in given]
        try:
            new = iter(store.sign([key for key, asked in zip(keys, fresh, strict=True) if asked], seconds=seconds))
        except (Access, InvalidInput, Unavailable) as error:
            self._rest(error)
            return SignedUrls([], 0.0)
        found = [
            (next(new), now + seconds) if asked or url is None else url for url, asked in zip(given, fresh, strict=True)
        ]
        self._given.update([(name, url) for name, url, asked in zip(names, found, fresh, strict=True) if asked])
        return SignedUrls([url for url, _ in found], min(seconds, min(until for _, until in found) - now))

    def signed(self, project: str, places: Places, *, wanted: bool) -> Places:
        """The places, with URLs of their packs (the first SIGNED) if these are ``wanted``."""
        if not wanted or not places.packs:
            return places
        answer = self.urls(project, [pack_key(pack) for pack in places.packs[:SIGNED]])
        return msgspec.structs.replace(places, urls=answer.urls, seconds=answer.seconds) if answer.urls else places

    def _rest(self, error: ArtifactFSError) -> None:
        self._rests_until = time.monotonic() + REST_SECONDS
        if str(error) != self._told:
            self._told = str(error)
            self._log.note("warning", f"{error}; meanwhile clients read through this server")
