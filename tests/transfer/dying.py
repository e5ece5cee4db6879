"""Run by test_killed.py in a process of its own: a copy that is killed (SIGKILL) when the so-manieth pack has reached a moment."""

from __future__ import annotations

import os
import signal
import sys

from artifactfs.content import pack
from artifactfs.repository import Repository
from artifactfs.transfer import copy


def main(source: str, destination: str, moment: str, turn: int) -> None:
    pack.PACK_SIZE = 4 << 20
    count = 0

    def reach(happening: str) -> None:
        nonlocal count
        count += happening == moment
        if count == turn:
            os.kill(os.getpid(), signal.SIGKILL)

    with Repository.open(source) as one, Repository.open(destination) as other:
        add_packs, commit = other.registry.add_packs, other.registry.commit

        def dying_add_packs(*words, **options) -> None:
            reach("stored")
            add_packs(*words, **options)
            reach("recorded")

        def dying_commit(request):
            reach("commit")
            result = commit(request)
            reach("committed")
            return result

        other.registry.add_packs, other.registry.commit = dying_add_packs, dying_commit  # type: ignore[method-assign]
        copy(one, one.registry.versions("data")[0], other)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
