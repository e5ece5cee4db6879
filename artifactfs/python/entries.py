"""Entries of an Artifact, and its manifest: what is where, without content.

Used by Artifact. Values may be shared between threads; a manifest reads directories as it is asked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from artifactfs.building import hash_source
from artifactfs.errors import InvalidInput, NotFound, translate_os
from artifactfs.model.digest import format_digest
from artifactfs.model.tree import DirEntry, Entry, FileEntry, LinkEntry, RefEntry
from artifactfs.plan import Source
from artifactfs.python import arguments

if TYPE_CHECKING:
    from artifactfs.python.artifact import Artifact

Kind = Literal["file", "symlink", "reference"]
_KINDS: Final[dict[type, Kind]] = {
    FileEntry: "file",
    Source: "file",
    LinkEntry: "symlink",
    RefEntry: "reference",
}


class ManifestEntry:
    """A file, a symlink or a reference in an Artifact. Nothing is read or fetched before its content is asked for."""

    def __init__(self, artifact: Artifact, path: str, entry: Source | Entry) -> None:
        self._artifact = artifact
        self._entry = entry
        self._path = path

    def __repr__(self) -> str:
        return f"<{self.kind} {self.path} of {self._artifact.name}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ManifestEntry) and (self.path, self._entry) == (other.path, other._entry)

    def __hash__(self) -> int:
        return hash((self.path, self._entry))

    @property
    def path(self) -> str:
        """Its path inside the artifact: relative, with ``/`` between its parts."""
        return self._path

    @property
    def kind(self) -> Kind:
        """What it is: one of these words."""
        return _KINDS[type(self._entry)]

    @property
    def size(self) -> int | None:
        """Bytes of content; None when a reference's is not known."""
        return 0 if isinstance(self._entry, LinkEntry | DirEntry) else self._entry.size

    @property
    def digest(self) -> str:
        """What tells its contents: ``blake3:…`` of a file (which is read for it, unless it was logged), the target of a symlink; of a
        reference what was recorded: checksum, etag or version, or else its URI.
        """  # noqa: D205 - one sentence
        entry = self._entry
        if isinstance(entry, Source):
            try:
                return format_digest(hash_source(entry).digest)
            except OSError as error:
                raise translate_os(error, f"cannot read {entry.path}, which was added as {self.path}") from error
        if isinstance(entry, RefEntry):
            return entry.checksum or entry.etag or entry.version or entry.uri
        if isinstance(entry, LinkEntry):
            return entry.target
        return format_digest(entry.digest)

    @property
    def executable(self) -> bool:
        """Whether it is a file that may be executed; of one that was not logged, as it is now."""
        if isinstance(self._entry, Source):
            return os.access(self._entry.path, os.X_OK)
        return isinstance(self._entry, FileEntry) and self._entry.executable

    @property
    def local_path(self) -> Path | None:
        """The file on this machine that was added; None once it is logged, and of anything else."""
        return Path(self._entry.path) if isinstance(self._entry, Source) else None

    @property
    def target(self) -> str | None:
        """Where a symlink leads to, relative to its directory; None for anything else."""
        return self._entry.target if isinstance(self._entry, LinkEntry) else None

    @property
    def uri(self) -> str | None:
        """The URI of a reference; None for anything else."""
        return self._entry.uri if isinstance(self._entry, RefEntry) else None

    @property
    def checksum(self) -> str | None:
        """The digest of a reference's content, where one was recorded, or that of a file that was logged: ``blake3:…``."""
        if isinstance(self._entry, FileEntry):
            return self.digest
        return self._entry.checksum if isinstance(self._entry, RefEntry) else None

    @property
    def etag(self) -> str | None:
        """The etag that was recorded of a reference; None when its source tells none."""
        return self._entry.etag if isinstance(self._entry, RefEntry) else None

    @property
    def version(self) -> str | None:
        """The version of the source's object that a reference names; None when its store keeps none."""
        return self._entry.version if isinstance(self._entry, RefEntry) else None

    def ref(self) -> str:
        """The URI of a reference. InvalidInput for anything else."""
        if not isinstance(self._entry, RefEntry):
            raise InvalidInput(f"{self.path} of {self._artifact.name} is a {self.kind}, no reference: it has no URI")
        return self._entry.uri

    def ref_target(self) -> str:
        """As :meth:`ref`."""
        return self.ref()

    def ref_url(self) -> str:
        """The URI by which another artifact can refer to this entry once it is logged: ``artifact://project/name:v3/path``."""
        return f"artifact://{self._artifact.qualified_name}/{self.path}"

    def download(self, root: str | os.PathLike[str] | None = None, *, skip_cache: bool = False) -> Path:
        """Write this entry at its place below ``root`` (default: as :meth:`Artifact.download`), unless it is there; returns its path.

        ``skip_cache`` makes no difference: the cache is bounded, and holds no second copy of what lies in a local repository.
        """
        del skip_cache
        return self._artifact._download_entry(self.path, root)  # noqa: SLF001 - the artifact's other half


class Manifest(Mapping[str, ManifestEntry]):
    """All entries of an Artifact by path: a mapping, in order of path within each directory. KeyError for a path that is not there."""

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact

    def __repr__(self) -> str:
        return f"<manifest of {self._artifact.name}, {len(self)} entries>"

    def __getitem__(self, path: str) -> ManifestEntry:
        entry = self._artifact._find(path) if isinstance(path, str) else None  # noqa: SLF001 - the artifact's other half
        if entry is None or isinstance(entry, DirEntry):
            raise KeyError(path)
        return ManifestEntry(self._artifact, path, entry)

    def __iter__(self) -> Iterator[str]:
        for path, _ in self._artifact._walk():  # noqa: SLF001 - as above
            yield path

    def __len__(self) -> int:
        return self._artifact.file_count

    @property
    def entries(self) -> Manifest:
        """The manifest itself: users of other interfaces look for the mapping here."""
        return self

    def all(self) -> Iterator[ManifestEntry]:
        """All entries in order, without looking each up by its path."""
        for path, entry in self._artifact._walk():  # noqa: SLF001 - as above
            yield ManifestEntry(self._artifact, path, entry)

    def entry(self, path: str) -> ManifestEntry:
        """The entry at a path, as :meth:`Artifact.get_entry`: NotFound, not KeyError, without it."""
        try:
            return self[arguments.text("name", path)]
        except KeyError:
            raise NotFound(f"{self._artifact.name} has no {path!r}; its manifest lists the paths that it has") from None
