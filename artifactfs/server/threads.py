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
    """``count`` threads. ``name`` says what for."""

    def __init__(self, name: str, count: int, *, seconds: float = WAIT_SECONDS) -> None:
        self._name = name
        self._seconds = seconds
        self._free = asyncio.Semaphore(count)
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def run(self, work: Callable[[], T]) -> T:
        """Do ``work`` on one of the threads. Unavailable when none becomes free in time."""
        if self._free.locked():
            try:
                async with asyncio.timeout(self._seconds):
                    await self._free.acquire()
            except TimeoutError:
                raise Unavailable(
                    f"the server is busy: no thread for {self._name} became free within {self._seconds:g} s; repeat later"
                ) from None
        else:
            await self._free.acquire()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        finally:
            self._free.release()

    def close(self) -> None:
        """Let the threads end, without waiting for work that was begun."""
        self._executor.shutdown(wait=False, cancel_futures=True)
