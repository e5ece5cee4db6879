"""Long polls: hundreds of followers wait for a project's next revision, and none takes a thread.

Used by the route `revision` and by every call that sees a revision. Everything runs on the event loop's thread.

While a project has followers, one poller looks at its revision: an embedded process on the same directory may change it too, which a
file does not tell. What changes through this server wakes the followers at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from artifactfs.errors import ArtifactFSError

LOOK_SECONDS: Final = 0.25
"""How often a poller looks: one SELECT of 3 us."""


class Changes:
    """Who waits for which project. ``look`` gives a project's present revision."""

    def __init__(self, look: Callable[[str], Awaitable[int]], *, interval: float = LOOK_SECONDS) -> None:
        self._look = look
        self._interval = interval
        self._watches: dict[str, _Watch] = {}
        self._ended = False

    @property
    def following(self) -> int:
        """Followers that wait now."""
        return sum(watch.followers for watch in self._watches.values())

    async def wait(self, project: str, after: int, seconds: float, gone: asyncio.Future[Any]) -> int:
        """The project's revision as soon as it is another than ``after``, or at once ``gone``, or when ``seconds`` are over."""
        present = await self._look(project)
        if present != after or seconds <= 0 or self._ended or gone.done():
            return present
        watch = self._watches.get(project)
        if watch is None:
            watch = self._watches[project] = _Watch(present)
            watch.poller = asyncio.create_task(self._poll(project, watch), name=f"revisions of {project}")
        watch.followers += 1
        try:
            loop = asyncio.get_running_loop()
            deadline = loop.time() + seconds
            while watch.revision == after and not self._ended:
                moved = watch.moved
                await asyncio.wait(
                    {moved, gone}, timeout=max(0.0, deadline - loop.time()), return_when=asyncio.FIRST_COMPLETED
                )
                if not moved.done():
                    break
                error = moved.exception()
                if error is not None:
                    raise type(error)(*error.args) from error  # each follower its own, as raising writes into it
            return watch.revision
        finally:
            watch.followers -= 1
            if not watch.followers:
                watch.poller.cancel()
                del self._watches[project]

    def saw(self, project: str, revision: int) -> None:
        """A call has seen this revision: whoever waits for it need not wait for the poller."""
        watch = self._watches.get(project)
        if watch is not None and revision > watch.revision:
            watch.move(revision)

    def end(self) -> None:
        """Let all followers go with the present revision; nobody waits any more."""
        self._ended = True
        for watch in self._watches.values():
            watch.move(watch.revision)

    async def _poll(self, project: str, watch: _Watch) -> None:
        while True:
            await asyncio.sleep(self._interval)
            moves = watch.moves
            try:
                present = await self._look(project)
            except ArtifactFSError as error:
                watch.fail(error)
                continue
            # Unless it moved meanwhile: then this one may be older.
            if present != watch.revision and moves == watch.moves:
                watch.move(present)


class _Watch:
    """A project's followers: ``moved`` is done at the next change."""

    poller: asyncio.Task[None]

    def __init__(self, revision: int) -> None:
        self.revision = revision
        self.followers = 0
        self.moves = 0
        self.moved: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def move(self, revision: int) -> None:
        self.revision = revision
        self.moves += 1
        self._next().set_result(None)

    def fail(self, error: ArtifactFSError) -> None:
        moved = self._next()
        moved.set_exception(error)
        moved.exception()  # seen: also when the last follower has just left

    def _next(self) -> asyncio.Future[None]:
        moved, self.moved = self.moved, asyncio.get_running_loop().create_future()
        return moved
