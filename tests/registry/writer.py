"""A process that writes to a SQLite registry, for the tests that need several, or need one killed.

``commits FILE PREFIX COUNT``: that many commits of contents of its own, printing "number revision" after each.
``race FILE CONTENTS``: wait for a line, then one commit on base 0; prints "won" or "lost".
``create FILE``: wait for a line, then open, making the file when it is not there, and commit.
``killed FILE``: make v0, then for each statement of the next commit a child that is killed right before it; prints for each what is
there afterwards.
``endless FILE``: add packs and commit until killed, printing the number of each acknowledged version.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from contextlib import closing

from sqlalchemy import event

from artifactfs.errors import Conflict
from artifactfs.registry.sql import SQLRegistry
from tests.conformance.registry import NAME, commit, digest
from tests.registry.invented import pack_of


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def commits(path: str, prefix: str, count: str) -> None:
    with closing(SQLRegistry(path, create=True, clock=lambda: 0.0)) as registry:
        for number in range(int(count)):
            result = commit(registry, (prefix, number), commit_id=f"{prefix}-{number}")
            say(result.version.number, registry.revision())


def race(path: str, contents: str) -> None:
    with closing(SQLRegistry(path, clock=lambda: 0.0)) as registry:
        say("ready")
        sys.stdin.readline()
        try:
            commit(registry, contents, base=0, commit_id=contents)
        except Conflict:
            say("lost")
        else:
            say("won")


def create(path: str) -> None:
    say("ready")
    sys.stdin.readline()
    with closing(SQLRegistry(path, create=True, clock=lambda: 0.0)) as registry:
        say(commit(registry, os.getpid(), commit_id=str(os.getpid())).version.number)


def killed(path: str) -> None:
    registry = SQLRegistry(path, create=True, clock=lambda: 0.0)
    commit(registry, "old", aliases=("best",), commit_id="old")
    registry.close()
    for step in itertools.count():
        child = os.fork()
        if child == 0:
            _commit_until(path, step)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        registry = SQLRegistry(path, clock=lambda: 0.0)
        aliases = registry.aliases(NAME)
        state = {(0, 0, 1): "old", (1, 1, 2): "new"}.get(
            (aliases["best"], aliases["latest"], len(registry.versions(NAME))), "mixed"
        )
        say(step, state, len(registry.check()), registry.revision(), "killed" if status else "lived")
        registry.close()
        if not status:
            return


def _commit_until(path: str, step: int) -> None:
    """Commit, and be killed right before the statement of this number; the last one is COMMIT."""
    registry = SQLRegistry(path, clock=lambda: 0.0)
    steps = itertools.count()

    def die(*_) -> None:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(registry._database._engine, "before_cursor_execute", die)
    event.listen(registry._database._engine, "commit", die)
    commit(registry, "new", aliases=("best",), commit_id="new", base=0)


def endless(path: str) -> None:
    registry = SQLRegistry(path, create=True, clock=lambda: 0.0)
    for number in itertools.count():
        keys = [digest((number, part)) for part in range(50)]
        registry.add_packs([pack_of(number, *keys)])
        say(commit(registry, number, aliases=("a", "b", "c"), commit_id=f"endless-{number}").version.number)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
