"""Keeper: the thread that keeps the versions a mount depends on from being deleted, and what they hold from being collected.

Used by the Service. A Session in the registry holds the versions that changed staging areas are based on, and those that the mount
pins. It is looked at every LOOK_SECONDS, so that a version may be deleted unseen within as long after the first change of its area.
One that is deleted on purpose stays held, so that all that it holds is there as long as it is in use here.
Nothing that goes wrong here keeps the mount from working: it is said in the log once, and tried again.

While an area has changes the Session lives for STAGED_SECONDS beyond the last renewal, also without the mount: its number lies in the
workspace, and the next mount takes it up again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Final

from artifactfs.errors import Access, ArtifactFSError, Conflict
from artifactfs.registry.contract import Registry
from artifactfs.registry.deletion import this_user
from artifactfs.registry.sessions import KEEPING

LOOK_SECONDS: Final = 1.0
RENEW_SECONDS: Final = 60.0
PINNED_SECONDS: Final = 600.0
"""How long a mount that fell silent still keeps what it pins."""
STAGED_SECONDS: Final = 30 * 86_400.0
"""And how long what changed staging areas are based on is kept."""
REFUSED_SECONDS: Final = 600.0
"""How long it is not tried again when the token may not hold versions."""
STOP_SECONDS: Final = 5.0
FILE: Final = "session"
"""In the workspace: the number of the Session."""

_LONGEST: Final = 900  # characters of where the mount is

_logger = logging.getLogger(__name__)

Bases = Callable[[], list[tuple[str, int]]]
"""Artifact and number of the version that each changed staging area is based on."""


class Keeper:
    """Holds versions in the registry while the mount lives. ``pins``: artifacts with the number of the pinned version."""

    def __init__(
        self, registry: Registry, bases: Bases, pins: Mapping[str, int], *, mountpoint: str, workspace: Path
    ) -> None:
        self._registry = registry
        self._bases = bases
        self._pins = pins
        place = f"{this_user()}:{mountpoint}".encode(errors="backslashreplace").decode()
        self._place = "".join(letter if letter.isprintable() else "?" for letter in place)[:_LONGEST]
        self._file = workspace / FILE
        self._session: int | None = None
        self._told: dict[int, str] | None = None
        self._ids: dict[
            tuple[str, int], int
        ] = {}  # of versions that are held, which may be deleted or renamed meanwhile
        self._lost: frozenset[int] = frozenset()
        self._staged = False
        self._failed = ""
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        """Begin to hold."""
        self._thread.start()

    def close(self) -> None:
        """Let go of what is pinned; what changed staging is based on stays held. Waits for STOP_SECONDS at most."""
        self._stopping.set()
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        renew = 0.0
        while not self._stopping.is_set():
            wait = LOOK_SECONDS
            try:
                renew = self._look(renew)
                self._failed = ""
            except Access as error:
                self._say(str(error))
                wait = REFUSED_SECONDS
            except ArtifactFSError as error:
                self._say(str(error))
                self._told, renew, wait = None, 0.0, 5 * LOOK_SECONDS
            except Exception as error:  # a fault of ours must not end the mount's protection for good
                if not self._stopping.is_set():
                    _logger.exception("holding versions failed")
                self._failed = str(error)
                wait = RENEW_SECONDS
            self._stopping.wait(wait)
        with suppress(ArtifactFSError, OSError):
            self._end()

    def _look(self, renew: float) -> float:
        """Bring what is held up to date; when the Session is to be renewed next."""
        held = self._held()
        if self._session is None and not held and not self._file.exists():
            return renew
        if held == self._told and time.monotonic() < renew:
            return renew
        seconds = STAGED_SECONDS if self._staged else PINNED_SECONDS
        session = self._living(seconds)
        if held != self._told:
            self._tell_lost(frozenset(self._registry.retention.hold(session, held)))
            self._told = held
        return time.monotonic() + RENEW_SECONDS

    def _living(self, seconds: float) -> int:
        """The Session, renewed; a new one when it has ended."""
        session = self._session if self._session is not None else self._remembered()
        if session is not None:
            try:
                self._registry.renew_session(session, seconds=seconds)
            except Conflict:
                self._told = None
            else:
                self._session = session
                return session
        self._session = self._registry.open_session(KEEPING, seconds=seconds)
        with suppress(OSError):  # without it the Session of a killed mount holds for a while longer, no more
            self._file.write_text(str(self._session), encoding="ascii")
        return self._session

    def _remembered(self) -> int | None:
        try:
            return int(self._file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None

    def _held(self) -> dict[int, str]:
        based = self._bases()
        self._staged = bool(based)
        wanted = [(name, number, f"pinned at {self._place}") for name, number in self._pins.items()]
        wanted += [(name, number, f"staging at {self._place}") for name, number in based]
        ids = {(name, number): self._identity(name, number) for name, number, _ in wanted}
        self._ids = {key: identity for key, identity in ids.items() if identity is not None}
        return {self._ids[name, number]: purpose for name, number, purpose in wanted if (name, number) in self._ids}

    def _identity(self, name: str, number: int) -> int | None:
        """The id of a version, also of one that was deleted since it was held here, by this mount or one before."""
        known = self._ids.get((name, number))
        if known is not None:
            return known
        version = self._registry.version(name, number) or self._registry.retention.tombstone(name, number)
        return None if version is None else version.id

    def _tell_lost(self, lost: frozenset[int]) -> None:
        for (name, number), identity in self._ids.items():
            if identity in lost - self._lost:
                _logger.warning("%s:v%d, which is in use here, was deleted and may be collected", name, number)
        self._lost = lost

    def _end(self) -> None:
        held = self._held()  # as it is now: a commit may just have ended, or the first change been made
        if self._staged:
            pinned = f"pinned at {self._place}"
            staged = {identity: purpose for identity, purpose in held.items() if purpose != pinned}
            self._registry.retention.hold(self._living(STAGED_SECONDS), staged)
        elif self._session is not None:
            self._registry.close_session(self._session)
            self._file.unlink(missing_ok=True)

    def _say(self, reason: str) -> None:
        if reason != self._failed and not self._stopping.is_set():
            _logger.info("versions that this mount depends on may be deleted: %s", reason)
        self._failed = reason
