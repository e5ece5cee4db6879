"""Who has a registry's file open: SQLite says it by the locks that it keeps.

Used where a repository is brought to another layout, which no process of an older release may miss. Any thread.

A connection to a file with a write-ahead log holds a shared lock on it from its first read until it is closed
(https://sqlite.org/wal.html, https://sqlite.org/fileio.html#ce_lock): 510 bytes from 2**30 + 2 on.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from typing import Final

from artifactfs.errors import translate_os

_SHARED_FIRST: Final = 0x40000002
_SHARED_SIZE: Final = 510
_FLOCK: Final = "hhqqi"  # l_type, l_whence, l_start, l_len, l_pid


def holder(path: Path) -> int | None:
    """The id of a process that has the file open, this one's included; 0 for one that is not to be seen from here; None for nobody."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            # Asked as an open file's own, which conflicts with the locks of every process.
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _SHARED_FIRST, _SHARED_SIZE, 0)
            kind, *_, process = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked))
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise translate_os(error, f"cannot open the registry {path}") from error
    return None if kind == fcntl.F_UNLCK else max(0, process)
