"""Passing: an answer that gives a whole object from its beginning, because its source knows no ranges.

Used by the fetcher of blocks. One thread takes the answer's blocks as they come by; any number wait for those they want, each until it
has passed. So a source without ranges is read once for all of them, and again only for what nobody could keep.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

from artifactfs.errors import ArtifactFSError, Unavailable
from artifactfs.references.blocks import Block, BlockSource, Wrong, take
from artifactfs.references.contract import Answer

BESIDE: Final = 32 << 20
"""Bytes after the last wanted ones that are still taken when there is no Cache to keep everything: half of what memory keeps."""


class Passing:
    """One answer on its way. ``land`` gets every block; ``everything`` says whether there is a Cache for all of it."""

    def __init__(self, source: BlockSource, land: Callable[[Block, bytes], None], *, everything: bool) -> None:
        self._source = source
        self._land = land
        self._everything = everything
        self._changed = threading.Condition()
        self._position = 0
        self._wanted: dict[bytes, bytes | None] = {}
        self._last = 0  # the end of what is wanted
        self._error: Exception | None = None
        self._stopped = False
        self.ended = False

    def want(self, run: Sequence[Block]) -> bool:
        """Have these blocks kept for :meth:`take`; False when they have passed already."""
        with self._changed:
            if self.ended or self._position > run[0].begin:
                return False
            for block in run:
                self._wanted.setdefault(block.key, None)
                self._last = max(self._last, block.end)
            return True

    def take(self, run: Sequence[Block], seconds: float) -> dict[bytes, bytes]:
        """These blocks, once they have passed. Unavailable when that takes longer; raises what the answer ended with."""
        with self._changed:

            def passed() -> bool:
                return self.ended or all(self._wanted[block.key] is not None for block in run)

            if not self._changed.wait_for(passed, seconds):
                raise Unavailable(
                    f"{self._source.uri} gives no ranges, and the bytes from {run[0].begin} on did not come within "
                    f"{seconds:.0f} s; try again later"
                )
            found = {block.key: data for block in run if (data := self._wanted[block.key]) is not None}
            if len(found) < len({block.key for block in run}):
                error = self._error
                if error is None:
                    raise Unavailable(f"{self._source.uri} was read no further; try again")
                raise type(error)(*error.args) from error  # each thread its own, as raising writes a traceback into it
            return found

    def wait(self, seconds: float) -> None:
        """Wait until it has ended, so that another one may begin."""
        with self._changed:
            self._changed.wait_for(lambda: self.ended, seconds)

    def stop(self) -> None:
        """Take no further blocks."""
        self._stopped = True

    def run(self, answer: Answer) -> None:
        """Take the answer's blocks. Closes it."""
        source = self._source
        error: Exception | None = None
        try:
            for block in source.blocks(0, source.size):
                if self._stopped or not (self._everything or block.begin < self._last + BESIDE):
                    break
                data = take(source, answer, block)
                self._land(block, data)
                with self._changed:
                    self._position = block.end
                    if block.key in self._wanted:
                        self._wanted[block.key] = data
                    self._changed.notify_all()
        except Wrong as wrong:
            error = wrong.error
        except ArtifactFSError as failure:
            error = failure
        finally:
            answer.close()
            self.end(error)

    def end(self, error: Exception | None) -> None:
        """Nothing comes any more, because of ``error`` if there is one."""
        with self._changed:
            self.ended = True
            self._error = error
            self._changed.notify_all()
