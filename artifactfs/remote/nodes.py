"""RemoteNodes: nodes of Sequences from a server, several an answer.

Used by the reader of a remote repository. Any thread. Verifies nothing: the reader does, as with every other byte.
"""

from __future__ import annotations

from collections.abc import Sequence

from artifactfs.content.store import NodesFound
from artifactfs.model.records import ChunkRow, Location
from artifactfs.remote.client import Connection
from artifactfs.remote.direct import Direct
from artifactfs.remote.wire import BATCH, Nodes, NodesWanted, PathWanted, from_places


class RemoteNodes:
    """The NodeSource of a project on a server. ``direct`` takes the URLs that come with places."""

    def __init__(self, connection: Connection, project: str, direct: Direct | None = None) -> None:
        self._connection = connection
        self._direct = direct
        self._path = f"/v1/projects/{project}"

    def nodes(self, digests: Sequence[bytes], *, ahead: int) -> NodesFound:
        """The nodes of these digests (any number) that the project holds, then nodes below them, nearest first.

        An answer is bounded, so what did not come is asked for again, as long as some of it comes.
        """
        found: list[tuple[ChunkRow, bytes]] = []
        places: dict[bytes, Location] = {}
        missing = list(dict.fromkeys(digests))
        while missing:
            batch = missing[:BATCH]
            rows = self._ask("nodes", NodesWanted(batch, ahead, self._straight), places)
            found += rows
            came = {row.digest for row, _ in rows}
            left = [digest for digest in batch if digest not in came]
            # Those of which none came are not there.
            missing = missing[BATCH:] if len(left) == len(batch) else left + missing[BATCH:]
        return found, places

    def path(self, digest: bytes, path: str) -> NodesFound:
        """All nodes from a directory's root along a path, as far as it exists; of a large file its chunk list too, with places."""
        places: dict[bytes, Location] = {}
        return self._ask("path", PathWanted(digest, path, self._straight), places), places

    @property
    def _straight(self) -> bool:
        return self._direct is not None and self._direct.wanted

    def _ask(self, what: str, message: object, places: dict[bytes, Location]) -> list[tuple[ChunkRow, bytes]]:
        answer = self._connection.call(Nodes, "POST", f"{self._path}/{what}", message)
        if self._direct is not None:
            self._direct.learn(answer.places)
        places.update(from_places(answer.places))
        return [(ChunkRow(node.digest, 0, len(node.data), node.size, node.flags), node.data) for node in answer.nodes]
