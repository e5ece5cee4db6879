"""Passthrough: files that lie whole on a local disk are read by the kernel itself, at the disk's own speed.

Used by the kernel binding (dispatch.py), as root on Linux 6.9 and newer; elsewhere nothing here does anything. Safe from any thread.

The kernel reads such an open from a *backing* file and asks nothing of the daemon. Nor does it keep pages of its own, which
would lie in memory twice, and in single pages: 1 GiB again took 0.12 to 0.16 s from these and 0.08 s from the backing file.

Invariant *one mode at a time*: while one open of a node is cached, all are, and while one is backed, all are, by the same backing
id. An open in the other mode would fail with EIO (fs/fuse/iomode.c). This side counts an open from before the reply until
its RELEASE, which is longer than the kernel does.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
import threading
from typing import Final

_BACKING_OPEN: Final = 0x4010E501  # FUSE_DEV_IOC_BACKING_OPEN, _IOW(229, 1, struct fuse_backing_map)
_BACKING_CLOSE: Final = 0x4004E502  # FUSE_DEV_IOC_BACKING_CLOSE, _IOW(229, 2, uint32_t)
_MAP: Final = struct.Struct("=iIQ")  # fd flags padding
_ID: Final = struct.Struct("=I")

_logger = logging.getLogger(__name__)


class _Node:
    """Opens of one node: how many, and the backing id they share (0: they are cached)."""

    __slots__ = ("backing", "opens")

    def __init__(self, backing: int) -> None:
        self.backing = backing
        self.opens = 0


class Passthrough:
    """The backing files of one connection. ``enabled`` as INIT agreed; it ends with the first refusal."""

    def __init__(self, device: int, *, enabled: bool) -> None:
        self._device = device
        self._enabled = enabled
        self._lock = threading.Lock()
        self._nodes: dict[int, _Node] = {}
        self._of_handle: dict[int, int] = {}

    def undecided(self, node: int) -> bool:
        """Whether an open of a node could be backed, as no open of it is cached."""
        return self._enabled and node not in self._nodes

    def enter(self, fh: int, node: int, path: str) -> int:
        """Count an open of a node that may be backed; returns the backing id, 0 for a cached open.

        ``path`` is the local file that is the node's content, "" while it must not be used. Pair with :meth:`leave`.
        """
        if not self._enabled:
            return 0
        with self._lock:
            known = self._nodes.get(node)
            if known is None:
                known = self._nodes[node] = _Node(self._back(path) if path else 0)
            known.opens += 1
            self._of_handle[fh] = node
            return known.backing

    def leave(self, fh: int) -> None:
        """Uncount an open; any handle may be given."""
        if fh not in self._of_handle:
            return
        with self._lock:
            node = self._of_handle.pop(fh)
            known = self._nodes[node]
            known.opens -= 1
            if not known.opens:
                del self._nodes[node]
                if known.backing:
                    try:
                        fcntl.ioctl(self._device, _BACKING_CLOSE, _ID.pack(known.backing))
                    except OSError as error:  # the connection has ended, and all ids with it
                        _logger.debug("backing id %d: %s", known.backing, error)

    def _back(self, path: str) -> int:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return 0  # reading it the ordinary way will say what is wrong
        try:
            return int(fcntl.ioctl(self._device, _BACKING_OPEN, bytearray(_MAP.pack(descriptor, 0, 0)), True))
        except OSError as error:
            # EPERM: no CAP_SYS_ADMIN; ELOOP: a stacked file system below; ENOTTY, EOPNOTSUPP: an older kernel.
            if error.errno != errno.EMFILE:
                self._enabled = False
                _logger.info("the kernel reads no files by itself: %s", error.strerror)
            return 0
        finally:
            os.close(descriptor)
