"""Kill a process with SIGKILL before its n-th durable step, for n = 1, 2, … until it lives to its end.

A step is a system call of Python's ``os`` that changes a disk, or a statement of SQLite that changes a database. The hooks
stand here, in a forked child; the product knows nothing of them.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock
from typing import Any

CALLS = (
    "write", "writev", "pwrite", "pwritev", "fsync", "fdatasync", "ftruncate", "truncate", "rename", "replace", "link",
    "unlink", "remove", "mkdir", "rmdir", "copy_file_range", "posix_fallocate",
)  # fmt: skip


class Steps:
    """Counts steps in this process and kills it before the ``limit``-th."""

    def __init__(self, limit: int, trail: int) -> None:
        self._limit = limit
        self._trail = trail  # descriptor that the step's name is written to before the kill
        self._count = 0
        self._lock = Lock()
        self._write = os.write

    def take(self, name: str) -> None:
        """One step; does not return from the last one."""
        with self._lock:
            self._count += 1
            if self._count == self._limit:
                self._write(self._trail, name.encode())
                os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        """Put hooks before the system calls of ``os`` and before statements of SQLite that write."""
        for name in CALLS:
            setattr(os, name, self._hooked(name, getattr(os, name)))
        connect = sqlite3.connect
        steps = self

        class Connection(sqlite3.Connection):
            def cursor(self, *arguments: Any, **options: Any) -> sqlite3.Cursor:
                options.setdefault("factory", Cursor)
                return super().cursor(*arguments, **options)

            def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
                steps.statement(statement)
                return super().execute(statement, *arguments)

            def commit(self) -> None:
                steps.take("sqlite COMMIT")
                super().commit()

        class Cursor(sqlite3.Cursor):
            def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
                steps.statement(statement)
                return super().execute(statement, *arguments)

            def executemany(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
                steps.statement(statement)
                return super().executemany(statement, *arguments)

        def connected(*arguments: Any, **options: Any) -> sqlite3.Connection:
            options.setdefault("factory", Connection)
            return connect(*arguments, **options)

        sqlite3.connect = sqlite3.dbapi2.connect = connected  # type: ignore[assignment]

    def statement(self, text: str) -> None:
        """A statement is a step when it changes the database."""
        word = text.lstrip().split(None, 1)[0].upper()
        if word not in {"SELECT", "PRAGMA", "WITH"}:
            self.take(f"sqlite {word}")

    def _hooked(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def hooked(*arguments: Any, **options: Any) -> Any:
            if arguments and arguments[0] != self._trail:
                self.take(name)
            return call(*arguments, **options)

        return hooked


def killed_at_every_step(work: Callable[[], None], *, first: int = 1, stride: int = 1) -> Iterator[str]:
    """Fork, work, and be killed before step ``first``, ``first + stride``, …; yields the name of the step each time.

    Must be called in a process without threads. Ends when the work was done before the kill; raises when it failed.
    """
    limit = first
    while True:
        reader, writer = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            os.close(reader)
            status = 1
            try:
                steps = Steps(limit, writer)
                steps.install()
                work()
                status = 0
            except BaseException:
                traceback.print_exc()
            os._exit(status)
        os.close(writer)
        _, status = os.waitpid(child, 0)
        name = os.read(reader, 200).decode()
        os.close(reader)
        if os.WIFSIGNALED(status):
            yield name
        elif os.WEXITSTATUS(status):
            raise AssertionError(f"the work failed at step {limit}")
        else:
            return
        limit += stride


def files_of(root: Path) -> dict[str, bytes]:
    """Every file below a directory with its bytes."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
