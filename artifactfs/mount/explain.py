"""Explain: the tree below ``.artifactfs/``, by which a mount says what it is and what each version is.

::

    status.json             the process, the mount and counts
    metrics                 the same counts in Prometheus' text format
    info/NAME/vN.json       all that is known of a version

Used by the View alone. Contents are made when asked for and never cached; any thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from artifactfs.model.digest import format_digest
from artifactfs.model.names import parse_version
from artifactfs.model.records import VersionRecord
from artifactfs.mount.catalog import Catalog

BLOCK: Final = 4096
"""Control files are of a multiple of so many bytes."""


class Explain:
    """Names and contents below ``.artifactfs/``; paths are relative to it, "" is the directory itself."""

    def __init__(self, catalog: Catalog, status: Callable[[], dict[str, Any]]) -> None:
        self._catalog = catalog
        self._status = status
        self.since = time.time_ns()

    def names(self, path: str) -> list[str]:
        """Members of a directory, sorted."""
        if path == "":
            return ["info", "metrics", "status.json"]
        if path == "info":
            return sorted(self._catalog.names())
        series = self._catalog.series(path.partition("/")[2])
        return [f"v{number}.json" for number in sorted(series.versions)] if series is not None else []

    def exists(self, path: str) -> bool:
        """Whether there is such a file or directory."""
        parts = path.split("/")
        if path in {"", "info", "metrics", "status.json"}:
            return True
        if parts[0] != "info" or len(parts) > 3:
            return False
        return parts[1] in self._catalog.names() if len(parts) == 2 else self._version(path) is not None

    def _version(self, path: str) -> VersionRecord | None:
        _, name, file = path.split("/")
        number = parse_version(file.removesuffix(".json")) if file.endswith(".json") else None
        series = self._catalog.series(name)  # not its version(): this tells aliases, description and metadata too
        return series.versions.get(number) if series is not None and number is not None else None

    def content(self, path: str) -> bytes | None:
        """A file's bytes now; None for a directory.

        Blanks fill it up to a multiple of 4 KiB: a read-only mount sees no opens, so what is read there must have the size that
        was told before, although counts have grown since.
        """
        text = self._text(path)
        return text if text is None else text[:-1] + b" " * (-len(text) % BLOCK) + b"\n"

    def _text(self, path: str) -> bytes | None:
        if path == "status.json":
            return _json(self._status())
        if path == "metrics":
            return _metrics(self._status())
        if path.count("/") == 2:
            version = self._version(path)
            return _json(describe(version)) if version is not None else b"\n"
        return None

    def size(self, path: str) -> int | None:
        """Size of a file in bytes; None for a directory."""
        content = self.content(path)
        return None if content is None else len(content)


def describe(version: VersionRecord) -> dict[str, Any]:
    """All that is known of a version, as JSON shows it (`show --json`, ``info/NAME/vN.json``)."""
    return {
        "name": version.artifact,
        "version": f"v{version.number}",
        "type": version.type,
        "digest": format_digest(version.digest),
        "aliases": list(version.aliases),
        "tags": list(version.tags),
        "description": version.description,
        "metadata": version.metadata,
        "files": version.files,
        "entries": version.entries,
        "size": version.size,
        "run": version.run or None,
        "created": datetime.fromtimestamp(version.created / 1e9, UTC).isoformat(timespec="microseconds"),
    }


def _json(value: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def _metrics(status: dict[str, Any]) -> bytes:
    lines = ["# TYPE artifactfs_online gauge", f"artifactfs_online {int(status.get('online', True))}"]
    for name, value in status.get("counts", {}).items():
        metric = f"artifactfs_{name}_total"
        lines.append(f"# TYPE {metric} counter")
        if isinstance(value, dict):
            lines += [f'{metric}{{operation="{key}"}} {number}' for key, number in sorted(value.items())]
        else:
            lines.append(f"{metric} {value}")
    return ("\n".join(lines) + "\n").encode()
