"""Runs, and the links between them and versions, as plain frozen values; and the walk along these links.

Used by every floor above; holds no I/O. All values but :class:`Lineage`, which belongs to one thread, are immutable and may be shared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

import msgspec

from artifactfs.model.records import VersionRecord
from artifactfs.model.retention import Tombstone

RUNNING: Final = "running"
FINISHED: Final = "finished"
FAILED: Final = "failed"
CRASHED: Final = "crashed"
"""Nobody says so: a Run whose heartbeat stopped before it ended reads as crashed, until it beats again."""
STATES: Final = (RUNNING, FINISHED, FAILED, CRASHED)

RUN_VARIABLE: Final = "ARTIFACTFS_RUN"
"""Name of the environment variable that tells a process, and who looks at it, which Run it belongs to."""


class NewRun(msgspec.Struct, frozen=True, kw_only=True):
    """A Run to start. ``id`` is made by the client: 1 to 64 letters, digits, ``_`` and ``-``; one that is there is taken up again."""

    id: str
    name: str  # for people; need not be unique
    job_type: str = ""
    config: dict[str, Any] = {}
    host: str = ""
    command: tuple[str, ...] = ()
    commit_hash: str = ""  # of the program's git repository; "+" at its end: with changes that are not committed
    seconds: float = 120.0  # how long it counts as running unless renewed


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A process, with a job type, that used and logged versions."""

    id: str
    name: str
    job_type: str
    state: str  # one of STATES
    started: int  # nanoseconds since the epoch
    ended: int | None  # of a crashed one: when it was last heard of
    config: dict[str, Any]
    host: str
    command: tuple[str, ...]
    commit_hash: str
    exit_status: int | None  # of a command; negative: the signal that ended it
    inputs: int  # versions
    outputs: int  # versions


class Link(msgspec.Struct, frozen=True):
    """A version that a Run read (input) or made (output)."""

    run: str
    version: int  # VersionRecord.id
    output: bool
    at: int  # nanoseconds since the epoch: the first time


class Links(msgspec.Struct, frozen=True):
    """Links with all runs, living versions and deleted versions that they name, each once."""

    links: list[Link]
    runs: list[RunRecord]
    versions: list[VersionRecord]
    deleted: list[Tombstone] = []


MOST_NODES: Final = 10_000
"""Runs and versions that a walk finds; a picture of more says nothing any more."""

Ask = Callable[[Collection[int], Collection[str]], Links]
"""All links of these versions and of these Runs, as :meth:`Registry.links` gives them."""


class Lineage:
    """The part of the graph that a walk from a version came to. A link leads from a version to a Run (input) or back (output).

    Versions that were deleted since have links, and a Tombstone for a record.
    """

    def __init__(self, root: VersionRecord | Tombstone) -> None:
        self.root = root
        self.versions: dict[int, VersionRecord] = {root.id: root} if isinstance(root, VersionRecord) else {}
        self.deleted: dict[int, Tombstone] = {root.id: root} if isinstance(root, Tombstone) else {}
        self.runs: dict[str, RunRecord] = {}
        self.links: list[Link] = []  # each once, in the order found
        self.complete = True  # false when there is more in a direction that was walked
        self.makers: dict[int, list[str]] = {}  # Runs by the version that they made
        self.users: dict[int, list[str]] = {}  # Runs by the version that they used
        self.made: dict[str, list[int]] = {}  # versions by the Run that made them
        self.used: dict[str, list[int]] = {}  # versions by the Run that used them

    def add(self, link: Link) -> None:
        """Take in a link that is not there yet."""
        self.links.append(link)
        (self.makers if link.output else self.users).setdefault(link.version, []).append(link.run)
        (self.made if link.output else self.used).setdefault(link.run, []).append(link.version)


class _Frontier:
    """One direction of a walk: where it stands, and where it has been."""

    def __init__(self, root: int, *, up: bool) -> None:
        self.up = up  # to the makers and what they used; else to the users and what they made
        self.versions = {root}
        self.runs: set[str] = set()
        self._past_versions = {root}
        self._past_runs: set[str] = set()

    def leads(self, link: Link) -> bool:
        """Whether a link leads on from here, in this direction."""
        return link.version in self.versions if link.output == self.up else link.run in self.runs

    def step(self, links: list[Link]) -> None:
        """Go along links that lead on, to where it has not been yet."""
        self.runs = {link.run for link in links if link.output == self.up} - self._past_runs
        self.versions = {link.version for link in links if link.output != self.up} - self._past_versions
        self._past_runs |= self.runs
        self._past_versions |= self.versions


def walk(
    root: VersionRecord | Tombstone,
    ask: Ask,
    *,
    depth: int | None = None,
    upstream: bool = True,
    downstream: bool = True,
) -> Lineage:
    """Follow a version's lineage up to what it was made from, and down to what was made from it.

    ``depth`` bounds how many Runs away: 1 is the Runs that made or used it, with what they used or made. Breadth first: ``ask`` is
    called once for all that is equally far away. Ends after MOST_NODES.
    """
    found = Lineage(root)
    directions = [_Frontier(root.id, up=up) for up, wanted in ((True, upstream), (False, downstream)) if wanted]
    known: set[tuple[str, int, bool]] = set()
    steps = 0
    while True:
        versions = {each for frontier in directions for each in frontier.versions}
        runs = {each for frontier in directions for each in frontier.runs}
        if not versions and not runs:
            return found
        far = depth is not None and steps >= 2 * depth  # two links are one Run
        if far and not versions:
            return found
        answer = ask(versions, runs)
        leading = [[link for link in answer.links if frontier.leads(link)] for frontier in directions]
        fresh = [link for links in leading for link in links if (link.run, link.version, link.output) not in known]
        if far or len(found.runs) + len(found.versions) + len(found.deleted) > MOST_NODES:
            found.complete = not fresh
            return found
        reached = {link.run for link in fresh}, {link.version for link in fresh}
        found.runs.update((run.id, run) for run in answer.runs if run.id in reached[0])
        found.versions.update((version.id, version) for version in answer.versions if version.id in reached[1])
        found.deleted.update((version.id, version) for version in answer.deleted if version.id in reached[1])
        for link in fresh:
            if (key := (link.run, link.version, link.output)) not in known:
                known.add(key)
                found.add(link)
        for frontier, links in zip(directions, leading, strict=True):
            frontier.step(links)
        steps += 1
