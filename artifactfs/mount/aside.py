"""Aside: the rows of an area in bulk: deleted, or put aside when it is discarded, and taken back.

Used by areas.py, within its transactions and under the workspace's lock. What is put aside keeps its rows and its local files; only
their numbers change, so that no number which the kernel knows leads there: no byte is copied, and the cost is that of deleting the
rows. What it takes counts in the staging limit, and goes first (mount/room.py); after :data:`KEPT_SECONDS` it goes in any case.

Numbers put aside: the area's is minus the one in ``discarded``; those of inodes lie two spaces higher. Rows of the tree that the
area shows on (``shown``) get an origin of their own, as the area keeps that one: so what was not touched keeps its numbers.

Invariant *put aside is final*: nothing writes to a local file that is put aside. Discarding is refused while files are open for
writing, and who reads one has it open.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import msgspec

from artifactfs.mount.inodes import BASE_SPACE, ORIGIN_SHIFT, SPACE_SHIFT, Area

if TYPE_CHECKING:
    from artifactfs.mount.files import Files
    from artifactfs.mount.inodes import Inodes
    from artifactfs.mount.workspace import Workspace

KEPT_SECONDS: Final = 24 * 3600
_HIGHER: Final = 2  # spaces
_SHIFT: Final = _HIGHER << SPACE_SHIFT
_SECOND: Final = 1_000_000_000

_SELECT: Final = (
    "SELECT id, name, at, root, origin, base_number, base_digest, base_created, following, generation, "
    "pending_commit, pending_digest, pending_generation FROM discarded ORDER BY id"
)

# Numbers of inodes after a renumbering: ?1 is a root that becomes ?2; ?3 is space and origin of those that go ?4 further, others ?5.
_LINKS_MOVE: Final = """
    UPDATE link SET
        parent = CASE WHEN parent = ?1 THEN ?2 WHEN parent >> 36 = ?3 THEN parent + ?4 ELSE parent + ?5 END,
        child = CASE WHEN child = ?1 THEN ?2 WHEN child >> 36 = ?3 THEN child + ?4 ELSE child + ?5 END
    WHERE parent IN (SELECT id FROM doomed)"""
_XATTRS_MOVE: Final = """
    UPDATE xattr SET inode = CASE WHEN inode = ?1 THEN ?2 WHEN inode >> 36 = ?3 THEN inode + ?4 ELSE inode + ?5 END
    WHERE inode IN (SELECT id FROM doomed)"""
_INODES_MOVE: Final = """
    UPDATE inode SET
        id = CASE WHEN id = ?1 THEN ?2 WHEN id >> 36 = ?3 THEN id + ?4 ELSE id + ?5 END,
        area = ?6, origin = CASE WHEN origin = ?7 THEN ?8 ELSE origin END
    WHERE area = ?9"""


class Discarded(msgspec.Struct, frozen=True):
    """What was put aside of an artifact's area, and when (nanoseconds since the epoch); the rest is as in the row of an area."""

    id: int
    name: str
    at: int
    root: int
    origin: int | None
    base_number: int | None
    base_digest: bytes | None
    base_created: int
    following: bool
    generation: int
    pending_commit: str | None
    pending_digest: bytes | None
    pending_generation: int | None

    @property
    def area(self) -> int:
        """The area that its rows bear."""
        return -self.id


class Aside:
    """The rows of all areas of a workspace, and what is put aside of them."""

    def __init__(self, workspace: Workspace, inodes: Inodes, files: Files) -> None:
        self._workspace = workspace
        self._inodes = inodes
        self._files = files

    # -- delete ----------------------------------------------------------------------------------------------------

    def clear(self, area: int, root: int, kept: set[int]) -> list[int]:
        """Delete the rows of an area but its root's and those of ``kept``; within a transaction. Returns the layers that go."""
        execute = self._workspace.execute
        self._choose(area)
        for node in kept:
            execute("DELETE FROM doomed WHERE id = ?", (node,))
        execute("DELETE FROM link WHERE parent IN (SELECT id FROM doomed)")
        execute("DELETE FROM xattr WHERE inode IN (SELECT id FROM doomed)")
        layers: list[int] = []
        for (top,) in execute("SELECT layer FROM doomed WHERE layer IS NOT NULL").fetchall():
            layers += self._files.drop_layers(top)
        execute("DELETE FROM inode WHERE id IN (SELECT id FROM doomed) AND id <> ?", (root,))
        execute("DELETE FROM doomed")
        return layers

    def _choose(self, area: int) -> None:
        execute = self._workspace.execute
        execute("CREATE TEMP TABLE IF NOT EXISTS doomed (id INTEGER PRIMARY KEY, layer INTEGER)")
        execute("DELETE FROM doomed")
        execute("INSERT INTO doomed SELECT id, layer FROM inode WHERE area = ?", (area,))

    # -- put aside -------------------------------------------------------------------------------------------------

    def put(self, area: Area, *, keep_shown: bool) -> None:
        """Put the rows of an area aside, which leaves it its root alone; within a transaction.

        ``keep_shown``: the area goes on with the tree that it shows. Otherwise that goes along.
        """
        execute = self._workspace.execute
        cursor = execute(
            "INSERT INTO discarded VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                area.name, time.time_ns(), 0, area.origin, area.base_number, area.base_digest, area.base_created,
                int(area.following), area.generation, area.pending_commit, area.pending_digest, area.pending_generation,
            ),
        )  # fmt: skip
        number = cursor.lastrowid
        assert number is not None  # noqa: S101 - an INSERT gives one
        shown = moved = area.origin
        if keep_shown and shown is not None:
            moved = execute(
                "INSERT INTO origin (area, digest, created) SELECT ?, digest, created FROM origin WHERE id = ?",
                (-number, shown),
            ).lastrowid
        execute(
            "UPDATE origin SET area = ? WHERE area = ? AND id <> ?",
            (-number, area.id, shown if keep_shown and shown is not None else 0),
        )
        root = self._workspace.number("inode") | (BASE_SPACE + 1 + _HIGHER) << SPACE_SHIFT
        execute("UPDATE discarded SET root = ?, origin = ? WHERE id = ?", (root, moved, number))
        stays = self._inodes.get(area.root)
        self._renumber(area.id, -number, (area.root, root), (shown, moved), _SHIFT)
        # The area's own root stays what the kernel knows.
        self._inodes.insert(stays)

    def take_back(self, area: Area, found: Discarded, *, keep_shown: bool) -> list[int]:
        """Give an area back what was put aside, instead of what it has; within a transaction. Returns the layers that go.

        ``keep_shown``: it goes on with the tree that it shows, which is the same.
        """
        execute = self._workspace.execute
        layers = self.clear(area.id, area.root, set())
        shown = area.origin if keep_shown else found.origin
        execute("DELETE FROM origin WHERE area = ? AND id IS NOT ?", (area.id, shown))
        if keep_shown:
            execute("DELETE FROM origin WHERE id = ?", (found.origin,))
        execute("UPDATE origin SET area = ? WHERE area = ?", (area.id, found.area))
        execute("DELETE FROM inode WHERE id = ?", (area.root,))
        self._renumber(found.area, area.id, (found.root, area.root), (found.origin, shown), -_SHIFT)
        execute("DELETE FROM discarded WHERE id = ?", (found.id,))
        area.origin = shown
        area.base_number, area.base_digest, area.base_created = found.base_number, found.base_digest, found.base_created
        area.following = bool(found.following)
        area.generation = max(area.generation, found.generation)
        area.pending_commit, area.pending_digest = found.pending_commit, found.pending_digest
        area.pending_generation = found.pending_generation
        self._inodes.save_area(area)
        return layers

    def _renumber(
        self, old: int, new: int, roots: tuple[int, int], origins: tuple[int | None, int | None], shift: int
    ) -> None:
        """Give rows of an area to another one, with their inodes' numbers ``shift`` further and an origin replaced."""
        execute = self._workspace.execute
        self._choose(old)
        before, after = ((number or 0) for number in origins)
        space = BASE_SPACE if shift > 0 else BASE_SPACE + _HIGHER
        values = (
            *roots,
            space << (SPACE_SHIFT - ORIGIN_SHIFT) | before,
            shift + (after - before << ORIGIN_SHIFT),
            shift,
        )
        execute(_LINKS_MOVE, values)
        execute(_XATTRS_MOVE, values)
        execute(_INODES_MOVE, (*values, new, before, after, old))
        execute("UPDATE layer SET area = ? WHERE area = ?", (new, old))
        execute("DELETE FROM doomed")

    # -- what is aside ---------------------------------------------------------------------------------------------

    def all(self) -> list[Discarded]:
        """Everything that is put aside, the oldest first."""
        with self._workspace.lock:
            rows = self._workspace.execute(_SELECT).fetchall()
        return [Discarded(*row) for row in rows]

    def latest(self, name: str) -> Discarded | None:
        """What was put aside of an artifact last."""
        return next((found for found in reversed(self.all()) if found.name == name), None)

    def expire(self) -> int:
        """Drop what was put aside longer than a day ago, and say how many that were.

        One from the future, by a clock that was wrong, counts from now on.
        """
        now = time.time_ns()
        dropped = 0
        for found in self.all():
            if found.at > now:
                with self._workspace.transaction:
                    self._workspace.execute("UPDATE discarded SET at = ? WHERE id = ?", (now, found.id))
            elif now - found.at > KEPT_SECONDS * _SECOND:
                self.drop(found)
                dropped += 1
        return dropped

    def drop_oldest(self) -> bool:
        """Make room: let go what was put aside first. False when there is nothing."""
        found = self.all()
        if found:
            self.drop(found[0])
        return bool(found)

    def drop(self, found: Discarded) -> None:
        """Let something go for good. A frozen generation reads none of it: that is of rows which are not put aside."""
        with self._workspace.transaction:
            if not self._workspace.execute("DELETE FROM discarded WHERE id = ?", (found.id,)).rowcount:
                return  # taken back, or dropped, meanwhile
            layers = self.clear(found.area, 0, set())
            self._workspace.execute("DELETE FROM origin WHERE area = ?", (found.area,))
        self._workspace.remove(layers)
