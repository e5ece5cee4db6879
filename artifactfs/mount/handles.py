"""Owns what a binding remembers about open handles: which are being used, and where each listing stands.

Used by both bindings. The kernel forgets an interrupted request at once, so it may release a handle that a thread is
still reading: :class:`InUse` puts the release off until that thread has left. A directory is read in several requests
that should not each start from the first entry: :class:`Listings` keeps the generator between them.
:class:`ImplicitHandles` stands in for opens that the kernel does not tell of. Each class is safe from any thread.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain, islice
from typing import Final

from artifactfs.mount.contract import Attr, Caller, Tree

IMPLICIT_HANDLES: Final = 1024  # idle ones kept open; each is a number and a small object of the tree


class InUse:
    """Counts the users of handles, so that the last one to leave carries out a release that came in between."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users: dict[int, int] = {}
        self._released: set[int] = set()

    def enter(self, fh: int) -> None:
        """Use a handle; pair with :meth:`leave`."""
        with self._lock:
            self._users[fh] = self._users.get(fh, 0) + 1

    def leave(self, fh: int) -> bool:
        """Stop using it. True: its release came meanwhile and is the caller's to carry out now."""
        with self._lock:
            users = self._users.pop(fh) - 1
            if users:
                self._users[fh] = users
                return False
            if fh in self._released:
                self._released.remove(fh)
                return True
            return False

    def release(self, fh: int) -> bool:
        """Ask to release. False: somebody uses it, and will do so when leaving."""
        with self._lock:
            if fh in self._users:
                self._released.add(fh)
                return False
            return True


class Cursor:
    """A listing of a directory between two requests: the offset reached, and the entries from there on."""

    __slots__ = ("_entries", "_pushed", "node", "offset")

    def __init__(self, node: int, offset: int, entries: Iterator[tuple[bytes, Attr]]) -> None:
        self.node = node
        self.offset = offset
        self._entries = entries
        self._pushed: tuple[bytes, Attr] | None = None

    def push_back(self, entry: tuple[bytes, Attr]) -> None:
        """Give back the entry that found no room, to come first next time."""
        self._pushed = entry

    @property
    def looked_ahead(self) -> bool:
        """Whether it holds an entry that was taken from the tree and not read yet."""
        return self._pushed is not None

    def peek(self) -> tuple[bytes, Attr] | None:
        """The next entry, which stays the next until :meth:`advance`; None at the end."""
        if self._pushed is None:
            self._pushed = next(self._entries, None)
        return self._pushed

    def advance(self) -> None:
        """Count the entry last seen as read."""
        self._pushed = None
        self.offset += 1

    def __iter__(self) -> Iterator[tuple[bytes, Attr]]:
        if self._pushed is None:
            return self._entries
        first, self._pushed = (self._pushed,), None
        return chain(first, self._entries)


class Listings:
    """The cursors of open directories: one each, taken out while in use, so that two readers never share a generator."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._cursors: dict[int, Cursor] = {}
        self._in_use = InUse()

    def take(self, node: int, fh: int, offset: int) -> Cursor:
        """The cursor at ``offset`` (number of entries before it): where the last request ended, or a new listing."""
        self._in_use.enter(fh)
        cursor = self._cursors.pop(fh, None)
        if cursor is not None and cursor.node == node and cursor.offset == offset:
            return cursor
        try:
            return Cursor(node, offset, self._tree.readdir(node, fh, offset))
        except BaseException:
            self.give_back(fh, None)
            raise

    def give_back(self, fh: int, cursor: Cursor | None) -> None:
        """End the use that :meth:`take` began; without a cursor the next request starts anew.

        So it does after an entry that found no room, if the directory can change: by then the entry may be another, and the kernel
        would believe it. A directory without a handle of its own (0, which many share) is immutable.
        """
        if cursor is not None and not (fh and cursor.looked_ahead):
            self._cursors[fh] = cursor
        if self._in_use.leave(fh):
            self._close(fh)

    def release(self, fh: int) -> None:
        """The directory is closed: now, or when the request that is reading it has ended."""
        if self._in_use.release(fh):
            self._close(fh)

    def _close(self, fh: int) -> None:
        self._cursors.pop(fh, None)
        self._tree.releasedir(fh)


class ImplicitHandles:
    """Handles of files that the kernel reads without having opened them, by node; the longest idle are released."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._lock = threading.Lock()
        self._handles: OrderedDict[int, int] = OrderedDict()
        self._users: dict[int, int] = {}
        self._passing: set[int] = set()  # made anew at each open (control files): not kept when nobody reads

    def enter(self, node: int, caller: Caller) -> int:
        """The handle to read ``node`` by; pair with :meth:`leave`."""
        with self._lock:
            known = self._handles.get(node)
            if known is not None:
                self._handles.move_to_end(node)
                self._users[node] = self._users.get(node, 0) + 1
                return known
        opened = self._tree.open(node, os.O_RDONLY, caller)  # may wait, so not under the lock
        fh = opened.fh
        with self._lock:
            winner = self._handles.setdefault(node, fh)
            self._users[node] = self._users.get(node, 0) + 1
            surplus = [] if winner == fh else [fh]
            if opened.direct:
                self._passing.add(node)
            surplus += self._evict()
        for each in surplus:
            self._tree.release(each)
        return winner

    def leave(self, node: int) -> None:
        """End the use that :meth:`enter` began."""
        with self._lock:
            users = self._users.pop(node) - 1
            if users:
                self._users[node] = users
                return
            if node not in self._passing:
                return
            self._passing.discard(node)
            fh = self._handles.pop(node)
        self._tree.release(fh)

    def close(self) -> None:
        """Release all of them, when no request is left."""
        with self._lock:
            handles = list(self._handles.values())
            self._handles.clear()
        for fh in handles:
            self._tree.release(fh)

    def _evict(self) -> list[int]:
        surplus = max(0, len(self._handles) - IMPLICIT_HANDLES)
        idle = islice((node for node in self._handles if node not in self._users), surplus)
        return [self._handles.pop(node) for node in list(idle)]
