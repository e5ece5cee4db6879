"""Parts: chunks of an outside object taken by their ranges, each compared with its digest.

Used by References, for repair. One thread. Memory: one chunk. A source without ranges is read from its beginning, as far as needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Final

from artifactfs.errors import Unavailable
from artifactfs.references.blocks import Block, BlockSource, Wrong, take
from artifactfs.references.contract import Answer, Part, changed

_SKIPPED: Final = 1 << 20  # bytes passed over at a time


def take_parts(source: BlockSource, parts: Iterable[Part]) -> Iterator[tuple[Part, bytes]]:
    """Each part, given in order of offset, with its bytes. Integrity when the source has changed; NotFound, Access, Unavailable."""
    with closing(_Stream(source)) as stream:
        for part in parts:
            block = Block(part.digest, part.offset, part.size, exact=True)
            try:
                data = stream.take(block)
            except Wrong:  # asking once more tells whether that was on the way
                stream.close()
                try:
                    data = stream.take(block)
                except Wrong as wrong:
                    raise wrong.error from wrong
            yield part, data


class _Stream:
    def __init__(self, source: BlockSource) -> None:
        self._source = source
        self._everything: Answer | None = None  # of a source without ranges, as far as it was read
        self._at = 0

    def take(self, block: Block) -> bytes:
        if self._everything is not None and self._at > block.begin:
            self.close()
        answer = self._everything
        if answer is None:
            answer = self._source.answer(block.begin, block.size)
            self._at = answer.begin
            if answer.begin != block.begin:
                self._everything = answer
        try:
            self._skip(answer, block.begin)
            data = take(self._source, answer, block)
            self._at = block.end
        finally:
            if answer is not self._everything:
                answer.close()
        return data

    def _skip(self, answer: Answer, begin: int) -> None:
        while self._at < begin:
            try:
                passed = answer.read(min(begin - self._at, _SKIPPED))
            except Unavailable as error:
                raise Wrong(error) from error
            if not passed:
                raise Wrong(changed(self._source.uri, f"recorded size {self._source.size}, found {self._at}"))
            self._at += len(passed)

    def close(self) -> None:
        """Let the rest of an answer go."""
        if self._everything is not None:
            self._everything.close()
            self._everything = None
