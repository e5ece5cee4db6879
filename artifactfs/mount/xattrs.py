"""Extended attributes of the vocabulary: what ``user.artifactfs.*`` says of versions and of their entries.

Used by the View. Names here are without the prefix; values are bytes as getxattr(2) gives them. Stateless; any thread.
"""

from __future__ import annotations

from typing import Final

import msgspec

from artifactfs.model.digest import format_digest
from artifactfs.model.records import VersionRecord
from artifactfs.model.tree import DirEntry, Entry, FileEntry, LinkEntry, RefEntry, size_of
from artifactfs.repository import Repository

PREFIX: Final = b"user.artifactfs."


def of_version(record: VersionRecord) -> dict[str, bytes]:
    """What is the same for all of a version."""
    values = {
        "artifact": record.artifact.encode(),
        "version": f"v{record.number}".encode(),
        "type": record.type.encode(),
        "digest": format_digest(record.digest).encode(),
        "aliases": ",".join(record.aliases).encode(),
        "metadata": msgspec.json.encode(record.metadata),
    }
    optional = {"description": record.description, "tags": ",".join(record.tags), "run": record.run}
    values |= {name: text.encode() for name, text in optional.items() if text}
    return values


def of_entry(repository: Repository, entry: Entry, last_error: str | None) -> dict[str, bytes]:
    """What is an entry's own; ``last_error`` is why it could not be read."""
    values: dict[str, bytes] = {}
    if isinstance(entry, FileEntry | DirEntry):
        values["digest"] = format_digest(entry.digest).encode()
        values["size"] = str(size_of(entry)).encode()
    elif not isinstance(entry, LinkEntry):
        values["reference"] = entry.uri.encode()
        known = {"size": entry.size, "checksum": entry.checksum, "etag": entry.etag, "version_id": entry.version}
        values |= {name: str(value).encode() for name, value in known.items() if value is not None}
    if isinstance(entry, FileEntry):
        values["cached"] = b"1" if repository.open_file(entry).ready(0, entry.size) else b"0"
    elif isinstance(entry, RefEntry) and entry.size is not None and repository.references.knows(entry.uri):
        values["cached"] = b"1" if repository.open_reference(entry).ready(0, entry.size) else b"0"
    if last_error is not None:
        values["last_error"] = last_error.encode()
    return values
