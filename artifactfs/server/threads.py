"""Threads for work that blocks: a bounded number, handed out first come, first served, with a bounded wait.

Used by the service, from the event loop's thread alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from artifactfs.errors import Unavailable

WAIT_SECONDS: Final = 30.0
"""How long work waits for a thread; a database's own bound for writers is the same."""

T = TypeVar("T")


class Threads:
    """``count`` threads. ``name`` says what for. ``waiting``: how many may wait for one at a time; None: any number."""

    def __init__(self, name: str, count: int, *, seconds: float = WAIT_SECONDS, waiting: int | None = None) -> None:
        self._name = name
        self._waiting = 0
        self._most = waiting
        self._seconds = seconds
        self._free = asyncio.Semaphore(count)
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def run(self, work: Callable[[], T]) -> T:
        """Do ``work`` on one of the threads. Unavailable when none becomes free in time."""
        if self._free.locked():
            if self._most is not None and self._waiting >= self._most:
                raise Unavailable(
                    f"the server is busy: {self._most} requests wait for a thread for {self._name}; repeat later"
                )
            self._waiting += 1
            try:
                async with asyncio.timeout(self._seconds):
                    await self._free.acquire()
            except TimeoutError:
                raise Unavailable(
                    f"the server is busy: no thread for {self._name} became free within {self._seconds:g} s; repeat later"
                ) from None
            finally:
                self._waiting -= 1
        else:
            await self._free.acquire()
        done = asyncio.get_running_loop().run_in_executor(self._executor, work)
        done.add_done_callback(self._ended)
        # Who waits may give up; the thread is free when the work has ended.
        return await asyncio.shield(done)

    def _ended(self, done: asyncio.Future[T]) -> None:
        self._free.release()
        if not done.cancelled():
            done.exception()  # looked at, also where nobody waits any more

    def close(self) -> None:
        """Let the threads end, without waiting for work that was begun."""
        self._executor.shutdown(wait=False, cancel_futures=True)
