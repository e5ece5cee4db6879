"""Artifact: a version to be, and, once it is logged, that version.

Before it is logged its contents are collected: nothing is read or copied until then, but for what :meth:`Artifact.new_file` writes.
Afterwards contents never change; description, metadata, aliases and tags may, and are written by :meth:`Artifact.save`.

Any thread: what is added by several threads at once is added one after the other.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock
from time import monotonic, sleep
from typing import IO, TYPE_CHECKING, Any, Final, Literal, overload

from artifactfs import config
from artifactfs.building import PYTHON, hash_source
from artifactfs.draft import PART_SECONDS, Draft
from artifactfs.errors import Conflict, InvalidInput, NotFound, translate_os
from artifactfs.model.digest import format_digest
from artifactfs.model.names import LATEST, check_alias, check_name, check_tag, check_type
from artifactfs.model.records import VersionRecord
from artifactfs.model.tree import DirEntry, Entry, diff_trees
from artifactfs.plan import Directory, Source
from artifactfs.python import arguments, files
from artifactfs.python.entries import Manifest, ManifestEntry
from artifactfs.python.errors import ArtifactFinalizedError, ArtifactNotLoggedError, WaitTimeoutError
from artifactfs.python.project import Project, activity, open_project
from artifactfs.python.spool import Spool

if TYPE_CHECKING:
    from artifactfs.python.recorded import RecordedRun

Policy = Literal["mutable", "immutable"]
State = Literal["PENDING", "COMMITTED", "DELETED"]
TextMode = Literal["x", "w", "xt", "wt"]
BytesMode = Literal["xb", "wb"]

_POLL_SECONDS: Final = 2.0
"""How often at least a draft that is waited for is looked at."""
_MODES: Final = ("x", "w", "xt", "wt", "xb", "wb")


class Artifact:
    """A version to be: files, directories and references under a name, with a type; and, once it is logged, that version.

    ``name``: letters, digits, ``_``, ``-`` and ``.``, at most 128. ``type``: a word such as ``dataset``, ``model`` or ``result``, the
    same for all versions of a name. ``metadata``: a dict of what JSON holds, at most 100 keys at the top; NaN becomes null.
    ``incremental``: its contents go over those of `latest` when it is logged, instead of standing alone. Raises InvalidInput.
    """

    def __init__(
        self,
        name: str,
        type: str,  # noqa: A002 - the word of the vocabulary
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        incremental: bool = False,
    ) -> None:
        self._lock = RLock()
        self._name = check_name(arguments.text("name", name))
        self._type = check_type(arguments.text("type", type))
        self._description = arguments.text_or_none("description", description)
        self._metadata = arguments.metadata(metadata) if metadata is not None else None
        self._draft: Draft | None = Draft(incremental=incremental, words=PYTHON)
        self._final = False
        self._waits: _Waits | None = None
        self._refers: set[str] = set()  # locations of repositories whose artifacts it refers to
        self._spool: Spool | None = None
        self._project: Project | None = None
        self._version: VersionRecord | None = None
        self._deleted = False
        self._aliases: list[str] = []
        self._tags: list[str] = []

    @classmethod
    def _of(cls, project: Project, version: VersionRecord) -> Artifact:
        """A version that is there."""
        artifact = cls(version.artifact, version.type)
        artifact._become(project, version)
        return artifact

    def __repr__(self) -> str:
        return f"<Artifact {self.name} ({self.type}, {self.state.lower()})>"

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """``name:vN`` of a version; before that the name alone."""
        return self._version.name if self._version is not None else self._name

    @property
    def type(self) -> str:
        """A word such as ``dataset``, ``model`` or ``result``."""
        return self._type

    @property
    def state(self) -> State:
        """``PENDING`` until it is logged, then ``COMMITTED``; ``DELETED`` after :meth:`delete`."""
        if self._deleted:
            return "DELETED"
        return "PENDING" if self._version is None else "COMMITTED"

    @property
    def id(self) -> str:
        """A number as text, which no other version of the repository ever has."""
        return str(self._logged("id").id)

    @property
    def project(self) -> str:
        """The project that it was logged in."""
        self._logged("project")
        return self._where.name

    @property
    def qualified_name(self) -> str:
        """``project/name:vN``: what :meth:`Api.artifact` finds it by."""
        return f"{self.project}/{self.name}"

    @property
    def version(self) -> str:
        """``v0``, ``v1`` and so on."""
        return f"v{self._logged('version').number}"

    @property
    def collection(self) -> str:
        """The name without the version."""
        return self._name

    @property
    def digest(self) -> str:
        """``blake3:`` and 64 hexadecimal digits, which cover every path and content. Before it is logged, files are read for it."""
        if self._version is not None:
            return format_digest(self._version.digest)
        with self._lock:
            return format_digest(self._building().digest().digest)

    @property
    def commit_hash(self) -> str:
        """As :attr:`digest`, once it is logged."""
        return format_digest(self._logged("commit_hash").digest)

    @property
    def size(self) -> int:
        """Bytes of all files and, as far as they are known, of what references name."""
        if self._version is not None:
            return self._version.size
        with self._lock:
            return self._building().totals()[1]

    @property
    def file_count(self) -> int:
        """How many files, symlinks and references it has."""
        if self._version is not None:
            return self._version.files
        with self._lock:
            return self._building().totals()[0]

    @property
    def created_at(self) -> str:
        """When it was logged: UTC in ISO 8601, to the second, as ``2026-01-31T12:00:00Z``."""
        return instant(self._logged("created_at").created)

    @property
    def updated_at(self) -> str:
        """When description, metadata or tags were last changed, or else when it was logged; written likewise."""
        version = self._logged("updated_at")
        return instant(version.updated or version.created)

    def json_encode(self) -> dict[str, Any]:
        """What is known of a version, as a dict that JSON holds: these attributes, and as ``run`` the id of the Run that made it."""
        version = self._logged("json_encode")
        return {
            "id": self.id,
            "project": self.project,
            "name": self.name,
            "version": self.version,
            "type": self.type,
            "state": self.state,
            "digest": self.digest,
            "size": version.size,
            "file_count": version.files,
            "description": version.description,
            "metadata": version.metadata,
            "aliases": list(version.aliases),
            "tags": list(version.tags),
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "run": version.run or None,
        }

    # -- what may be edited ----------------------------------------------------------------------------------------

    @property
    def description(self) -> str:
        """Free text. Once logged, a change is written by :meth:`save`."""
        return self._description or ""

    @description.setter
    def description(self, text: str | None) -> None:
        self._description = arguments.text_or_none("description", text) or ""

    @property
    def metadata(self) -> dict[str, Any]:
        """A dict of what JSON holds, which may be changed in place. Once logged, a change is written by :meth:`save`."""
        if self._metadata is None:
            self._metadata = {}
        return self._metadata

    @metadata.setter
    def metadata(self, values: Mapping[str, Any]) -> None:
        self._metadata = arguments.metadata(values)

    @property
    def aliases(self) -> list[str]:
        """The aliases of a version, sorted: a list to be changed in place, or replaced, and written by :meth:`save`.

        An alias is a word of at most 128 characters, without ``/`` and ``:``, and not like ``v3``.
        """
        self._logged("aliases")
        return self._aliases

    @aliases.setter
    def aliases(self, aliases: Sequence[str]) -> None:
        self._logged("aliases")
        self._aliases = list(arguments.names("aliases", aliases))

    @property
    def tags(self) -> list[str]:
        """The tags of a version, sorted: a list to be changed in place, or replaced, and written by :meth:`save`.

        A tag has letters, digits, ``_``, ``-`` and blanks between, at most 128.
        """
        self._logged("tags")
        return self._tags

    @tags.setter
    def tags(self, tags: Sequence[str]) -> None:
        self._logged("tags")
        self._tags = list(arguments.names("tags", tags))

    def save(self, project: str | None = None) -> None:
        """Write what was edited: only what differs from what this object last saw, so that others' edits of the rest stay.

        An alias that was added moves here from where it was. Raises InvalidInput (what is no alias or tag, or not JSON), NotFound
        (the version was deleted), Conflict (`latest` cannot be removed).

        One that is not logged yet is logged: as an output of the active Run, or without one in the project that is given or
        configured; a draft of a version, in the version's.
        """
        with self._lock:
            if self._version is None:
                active = activity()
                if (
                    active is not None
                    and project in {None, active.project.name}
                    and self._project in {None, active.project}
                ):
                    self._commit(active.project, run=active.run)
                    return
                known = self._project if project is None else None
                self._commit(known or open_project(None, project, create=True))
                return
            self._save(self._version)

    def _save(self, version: VersionRecord) -> None:
        if self._deleted:
            raise NotFound(f"{self.name} was deleted, so nothing of it can be saved")
        registry = self._where.repository.registry
        aliases, tags = arguments.names("aliases", self._aliases), arguments.names("tags", self._tags)
        metadata = arguments.metadata(self.metadata)
        more = [check_alias(alias) for alias in aliases if alias not in version.aliases]
        less = [alias for alias in version.aliases if alias not in aliases]
        described = self.description if self.description != version.description else None
        measured = metadata if metadata != version.metadata else None
        marked = [check_tag(tag) for tag in tags] if tuple(sorted(tags)) != version.tags else None
        if described is not None or measured is not None or marked is not None:
            version = registry.edit(self._name, version.number, description=described, metadata=measured, tags=marked)
        if less:
            registry.remove_aliases(self._name, less)
        if more:
            version = registry.move_aliases(self._name, version.number, more)
        elif less:
            version = registry.version(self._name, version.number) or version
        self._know(version)

    # -- contents: before it is logged -----------------------------------------------------------------------------

    def add_file(
        self,
        local_path: str | os.PathLike[str],
        name: str | None = None,
        is_tmp: bool | None = False,
        skip_cache: bool | None = False,
        policy: Policy | None = "mutable",
        overwrite: bool = False,
    ) -> ManifestEntry:
        """Add a file under ``name`` (default: its base name). It is read when the artifact is logged, and must not change until then.

        ``is_tmp``: its contents name it, so that a temporary file gets the same name whenever it holds the same. ``skip_cache`` and
        ``policy`` make no difference: nothing is copied. ``overwrite`` replaces what is at that path. Raises NotFound, InvalidInput
        (no file; the path is there with other contents), ArtifactFinalizedError.
        """
        del skip_cache
        _check_policy(policy)
        with self._lock:
            draft = self._changing()
            source, name = arguments.path("local_path", local_path), arguments.text_or_none("name", name)
            if is_tmp:
                name = _named_by_contents(source, name)
            path = draft.add_file(source, name, overwrite=overwrite)
            return self._entry(path)

    def add_dir(
        self,
        local_path: str | os.PathLike[str],
        name: str | None = None,
        skip_cache: bool | None = False,
        policy: Policy | None = "mutable",
        merge: bool = False,
        *,
        follow_links: bool = False,
    ) -> None:
        """Add a directory's contents below ``name`` (default: the root), all or none, as they are now.

        Symlinks are kept; one that leads out of the artifact is refused, unless ``follow_links`` stores what they point to. ``merge``
        replaces files that are there with other contents. ``skip_cache`` and ``policy`` make no difference, as in :meth:`add_file`.
        Raises NotFound, InvalidInput (names up to 20 files that cannot be stored, or are there with other contents).
        """
        del skip_cache
        _check_policy(policy)
        with self._lock:
            source, below = arguments.path("local_path", local_path), arguments.text_or_none("name", name)
            self._changing().add_directory(
                source, (below or "").strip("/") or None, overwrite=merge, follow_links=follow_links
            )

    def add_reference(
        self,
        uri: str | ManifestEntry,
        name: str | None = None,
        checksum: bool = True,
        max_objects: int | None = None,
        *,
        overwrite: bool = False,
    ) -> list[ManifestEntry]:
        """Add an outside URI, whose content stays there: what tells whether it changes is recorded. Returns the entries.

        ``uri`` has the scheme ``s3``, ``gs``, ``az``, ``http``, ``https``, ``file`` or ``artifact``, or any other, of which the URI
        alone is recorded; or it is an entry of another artifact. A prefix or a directory becomes an entry for each object below
        ``name``, at most ``max_objects`` (default: 10,000,000). ``checksum`` False records the URI alone and asks nobody.
        ``overwrite`` as in :meth:`add_file`. Raises InvalidInput, NotFound, Access, Unavailable.
        """
        with self._lock:
            draft = self._changing()
            given, known = arguments.text_or_none("name", name), self._known()
            if isinstance(uri, ManifestEntry):
                text, given, known = uri.ref_url(), given or uri.path.rpartition("/")[2], uri._artifact._where  # noqa: SLF001
            elif isinstance(uri, os.PathLike):
                raise InvalidInput(
                    f"uri={uri!r} is a path; a file is referred to by its URI, as Path.as_uri() gives it"
                )
            else:
                text = arguments.text("uri", uri)
                if checksum and text.lower().startswith("artifact:"):
                    known = self._usual()
            if arguments.whole("max_objects", max_objects) == 0:
                raise InvalidInput("max_objects=0 lets nothing be added; give 1 or more")
            added = draft.add_reference(
                text,
                given.strip("/") if given else None,
                checksum=checksum,
                limit=max_objects,
                overwrite=overwrite,
                repository=known.repository if known is not None else None,
            )
            if known is not None and text.lower().startswith("artifact:"):
                self._refers.add(known.location)
            return [ManifestEntry(self, path, entry) for path, entry in added]

    @overload
    def new_file(
        self, name: str, mode: TextMode = "x", encoding: str | None = None, policy: Policy | None = "mutable"
    ) -> AbstractContextManager[IO[str]]: ...

    @overload
    def new_file(
        self, name: str, mode: BytesMode, encoding: None = None, policy: Policy | None = "mutable"
    ) -> AbstractContextManager[IO[bytes]]: ...

    def new_file(
        self, name: str, mode: str = "x", encoding: str | None = None, policy: Policy | None = "mutable"
    ) -> Any:
        """A file to be written in a ``with`` block, and then part of the artifact; nothing is added when the block raises.

        ``mode`` ``x`` or ``xb`` is for a path that is not there yet, ``w`` or ``wb`` replaces one. Text is UTF-8 unless ``encoding``
        says otherwise. ``policy`` makes no difference. Raises InvalidInput.
        """
        _check_policy(policy)
        if mode not in _MODES:
            raise InvalidInput(f"new_file cannot open with mode={mode!r}; it takes {', '.join(_MODES)}")
        arguments.entry_path("name", name)
        arguments.encoding("encoding", encoding)
        with self._lock:
            draft = self._changing()
            if mode.startswith("x") and draft.find(name) is not None:
                raise InvalidInput(f"{name} is in the artifact already; mode='w' replaces it")
            if self._spool is None:
                known = self._known()
                settings = known.settings if known is not None else config.load()
                self._spool = Spool(settings.cache_dir)
        return self._written(name, mode, encoding if "b" in mode else encoding or "utf-8", self._spool)

    @contextmanager
    def _written(self, name: str, mode: str, encoding: str | None, spool: Spool) -> Iterator[IO[Any]]:
        place = spool.place()
        with place.open(f"x{mode[1:]}", encoding=encoding) as stream:
            yield stream
        with self._lock:
            self._changing().add_file(place, name, overwrite=mode.startswith("w"))

    def remove(self, item: str | os.PathLike[str] | ManifestEntry) -> None:
        """Take a file, or a directory with all below it, out again. NotFound without it."""
        path = item.path if isinstance(item, ManifestEntry) else str(arguments.path("item", item))
        with self._lock:
            self._changing().remove(path.rstrip("/"))

    def finalize(self) -> None:
        """Let contents not be changed any more: who tries gets ArtifactFinalizedError. Idempotent."""
        self._final = True

    def is_draft(self) -> bool:
        """Whether it is not logged yet."""
        return self._version is None

    def new_draft(self) -> Artifact:
        """An Artifact that begins with this version's contents, description and metadata, to be changed and logged as the next.

        Nothing is downloaded: what is not changed stays where it is. It can be logged in this project only.
        """
        version = self._logged("new_draft")
        draft = Artifact(self._name, self._type, version.description, version.metadata)
        draft._project = self._where
        draft._draft = Draft(
            self._where.repository, base=version.digest, versions=[(version.artifact, version.number)], words=PYTHON
        )
        return draft

    # -- contents: at any time -------------------------------------------------------------------------------------

    @property
    def manifest(self) -> Manifest:
        """All entries by path, read from the repository as they are asked for."""
        return Manifest(self)

    def get_entry(self, name: str) -> ManifestEntry:
        """The entry at a path, such as ``images/cat.png``. NotFound without it."""
        return self.manifest.entry(name)

    def get_path(self, name: str) -> ManifestEntry:
        """As :meth:`get_entry`."""
        return self.manifest.entry(name)

    def files(self, names: Iterable[str] | None = None) -> list[ManifestEntry]:
        """All entries, or those of these paths. NotFound names one that is not there."""
        if names is None:
            return list(self.manifest.all())
        return [self.manifest.entry(name) for name in arguments.names("names", names)]

    # -- contents: once it is logged -------------------------------------------------------------------------------

    def download(
        self,
        root: str | os.PathLike[str] | None = None,
        allow_missing_references: bool = False,
        skip_cache: bool | None = None,
        path_prefix: str | None = None,
    ) -> Path:
        """Write what is not there yet below ``root`` (default: ``./NAME-vN``, as `artifactfs get`); returns that directory.

        Everything is compared with its digest, what comes and what is there. Other files there are left alone. ``path_prefix``: only
        paths that begin so. References come last; those that cannot be had are named by the error that is then raised (Unavailable),
        unless ``allow_missing_references``; entries of unknown schemes are left out. ``skip_cache`` makes no difference. NotFound:
        no path begins with the prefix. Conflict: something of another kind is in the way. Integrity: names damaged files.
        """
        del skip_cache
        version = self._logged("download")
        where = self._root(root)
        files.download(
            self._where.repository,
            version,
            where,
            arguments.text_or_none("path_prefix", path_prefix) or "",
            allow_missing_references=allow_missing_references,
        )
        return where

    def checkout(self, root: str | os.PathLike[str] | None = None) -> Path:
        """Make ``root`` (default: as :meth:`download`) equal to the version, and return it: what the version does not have is deleted.

        InvalidInput for the machine's root directory, Conflict for a directory with the repository in it; others as :meth:`download`.
        """
        version = self._logged("checkout")
        where = self._root(root)
        files.checkout(self._where.repository, version, where)
        return where

    def verify(self, root: str | os.PathLike[str] | None = None) -> None:
        """Compare ``root`` (default: as :meth:`download`) with the version. Integrity names every difference; NotFound without it."""
        version = self._logged("verify")
        files.verify(self._where.repository, version, self._root(root))

    def file(self, root: str | os.PathLike[str] | None = None) -> Path:
        """Download an artifact of one file; returns the file's path. InvalidInput when it has more, or none."""
        version = self._logged("file")
        if version.files != 1:
            raise InvalidInput(
                f"{self.name} has {version.files} files, not one; use get_path(…).download(), or download()"
            )
        (entry,) = self.manifest.all()
        return entry.download(root)

    def logged_by(self) -> RecordedRun | None:
        """The Run that made the version; None when no Run did."""
        from artifactfs.python.recorded import RecordedRun  # noqa: PLC0415 - the two know each other

        version = self._logged("logged_by")
        record = self._where.repository.registry.run(version.run) if version.run else None
        return RecordedRun(self._where, record) if record is not None else None

    def used_by(self) -> list[RecordedRun]:
        """The Runs that used the version, the first to do so first."""
        from artifactfs.python.recorded import RecordedRun  # noqa: PLC0415 - as above

        version = self._logged("used_by")
        links = self._where.repository.registry.links(versions=[version.id])
        runs = {run.id: run for run in links.runs}
        used = sorted((link.at, link.run) for link in links.links if not link.output)
        return [RecordedRun(self._where, runs[run]) for _, run in used if run in runs]

    def delete(self, delete_aliases: bool = False) -> None:
        """Delete the version. Its number is never given again; `latest` moves to the highest one that is left.

        Conflict names its aliases other than `latest`, unless ``delete_aliases``. Contents that other versions share stay theirs.
        Until garbage is collected ``artifactfs restore`` makes what it held the next version.
        """
        version = self._logged("delete")
        self._where.repository.registry.delete(self._name, version.number, delete_aliases=delete_aliases)
        self._deleted = True

    def wait(self, timeout: float | None = None) -> Artifact:
        """Return once it is a version: at once after ``log_artifact``, which returns when it is stored.

        After ``upsert_artifact`` it waits until somebody has finished the draft, at most ``timeout`` seconds (None: as long as its
        parts live, a day), then raises WaitTimeoutError. ArtifactNotLoggedError when it was not logged at all.
        """
        waits = self._waits
        if waits is not None and self._version is None:
            self._become(waits.project, waits.wait(self._name, timeout))
        self._logged("wait")
        return self

    # -- for the other parts of this package -----------------------------------------------------------------------

    def _commit(
        self,
        project: Project,
        *,
        run: str | None = None,
        aliases: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
        find: bool = False,
        draft: str | None = None,
    ) -> None:
        """Make it a version, or find the one that equals it. A version is logged again: `latest` and the aliases move to it."""
        more = tuple(check_alias(alias) for alias in arguments.names("aliases", aliases or ()))
        marked = tuple(check_tag(tag) for tag in arguments.names("tags", tags or ()))
        with self._lock:
            repository = project.repository
            self._refuse_elsewhere(project)
            building = self._draft
            if building is None:
                version = self._logged("log_artifact")
                building = Draft(
                    self._where.repository,
                    base=version.digest,
                    versions=[(version.artifact, version.number)],
                    words=PYTHON,
                )
            if draft is not None:
                parts = repository.registry.parts(self._name, draft)
                if not parts:  # nothing, or what this process alone holds, would become `latest`
                    raise NotFound(
                        f"{self._name} has no parts under distributed_id={draft!r}: upsert_artifact(…) adds them; they are gone "
                        "once the version is made, and after a day"
                    )
                for tree in parts:
                    building.add_tree(tree, repository)
            description, metadata = self._description, self._metadata
            result = building.commit(
                self._name,
                type=self._type,
                aliases=tuple(alias for alias in more if alias != LATEST),
                tags=marked,
                description=description,
                metadata=metadata,
                run=run,
                find=find,
                draft=draft,
                repository=repository,
            )
            self._become(project, result.version)
            stays = (description and description != result.version.description) or (
                metadata and arguments.metadata(metadata) != result.version.metadata
            )
        if stays and not result.created and not find:
            warnings.warn(
                f"{self.name} has the same contents already, so its description and metadata stay as they are; "
                "change them on the artifact and call save()",
                stacklevel=4,
            )

    def _refuse_elsewhere(self, project: Project) -> None:
        """A reference by ``artifact://`` is read in the repository that it is logged in, which must have what was meant."""
        if elsewhere := sorted(self._refers - {project.location}):
            raise InvalidInput(
                f"{self._name} refers to an artifact of {elsewhere[0]}, which readers of {project.location} do not reach: "
                "download that and add its files, or bring it there with `artifactfs copy`"
            )

    def _add_part(self, project: Project, draft: str) -> None:
        """Store it as a part of a draft that somebody finishes."""
        with self._lock:
            building = self._changing()
            self._refuse_elsewhere(project)
            tree = building.store_part(self._name, draft, project.repository)
            self._waits = _Waits(project, draft, tree)
            self._final = True

    def _become(self, project: Project, version: VersionRecord) -> None:
        self._project = project
        self._draft = None
        self._deleted = False
        if self._spool is not None:
            self._spool.close()
            self._spool = None
        self._know(version)

    def _know(self, version: VersionRecord) -> None:
        self._version = version
        self._type = version.type
        self._description = version.description
        self._metadata = copy.deepcopy(version.metadata)
        self._aliases = list(version.aliases)
        self._tags = list(version.tags)

    def _find(self, path: str) -> Source | Entry | None:
        """What is at a path; None when nothing is, or a directory of the draft."""
        if self._version is not None:
            found = self._where.repository.trees.find(self._version.digest, path) if path else None
            return found.entry if found is not None else None
        with self._lock:
            member = self._building().find(path)
        return None if isinstance(member, Directory) else member

    def _walk(self) -> Iterator[tuple[str, Source | Entry]]:
        if self._version is None:
            with self._lock:
                yield from list(self._building().walk())
            return
        for path, entry in self._where.repository.trees.walk(self._version.digest):
            if not isinstance(entry, DirEntry):
                yield path, entry

    def _entry(self, path: str) -> ManifestEntry:
        return self.manifest.entry(path)

    def _download_entry(self, path: str, root: str | os.PathLike[str] | None) -> Path:
        version = self._logged("download")
        where = self._root(root)
        files.download_entry(self._where.repository, version, where, path)
        return where / path

    # -- within ----------------------------------------------------------------------------------------------------

    @property
    def _where(self) -> Project:
        assert self._project is not None  # noqa: S101 - asked for of versions and their drafts alone
        return self._project

    def _known(self) -> Project | None:
        """Where it is, or will most likely be logged; None when that is not said yet."""
        active = activity()
        return self._project or (active.project if active is not None else None)

    def _usual(self) -> Project:
        """Where artifacts are looked up that are named before this one is logged."""
        return self._known() or open_project(create=False)

    def _logged(self, what: str) -> VersionRecord:
        version = self._version
        if version is None:
            raise ArtifactNotLoggedError(
                f"{self._name} is not logged yet, so there is no {what}; log it with run.log_artifact(…)"
            )
        return version

    def _building(self) -> Draft:
        assert self._draft is not None  # noqa: S101 - it has a draft until it is a version
        return self._draft

    def _changing(self) -> Draft:
        if self._version is not None:
            raise ArtifactFinalizedError(
                f"{self.name} was logged, and contents of versions never change; new_draft() begins the next one"
            )
        if self._final:
            raise ArtifactFinalizedError(
                f"{self._name} was finalized, so its contents cannot be changed; make a new Artifact"
            )
        return self._building()

    def _root(self, root: str | os.PathLike[str] | None) -> Path:
        version = self._logged("directory")
        if root is None:
            root = f"{version.artifact}-v{version.number}"
        return arguments.path("root", root).absolute()


class _Waits:
    """A part of a draft that somebody else finishes."""

    def __init__(self, project: Project, draft: str, tree: bytes) -> None:
        self.project = project
        self._draft = draft
        self._tree = tree

    def wait(self, name: str, timeout: float | None) -> VersionRecord:
        """The version that the draft became."""
        repository = self.project.repository
        deadline = monotonic() + (PART_SECONDS if timeout is None else timeout)
        pause = 0.05
        while self._tree in repository.registry.parts(name, self._draft):
            left = deadline - monotonic()
            if left <= 0:
                raise WaitTimeoutError(
                    f"the draft {self._draft!r} of {name} was not finished within {timeout} s; run.finish_artifact(…, "
                    f"distributed_id={self._draft!r}) does that"
                )
            sleep(min(pause, left))
            pause = min(2 * pause, _POLL_SECONDS)
        for version in reversed(repository.registry.versions(name)):
            # Parts go with the commit, so the version is there; it has all that the part had.
            if all(change.kind == "added" for change in diff_trees(repository.trees, self._tree, version.digest)):
                return version
        raise Conflict(
            f"no version of {name} has this part of the draft {self._draft!r}: it was too old, or its version was deleted"
        )


def _check_policy(policy: str | None) -> None:
    if policy not in {None, "mutable", "immutable"}:
        raise InvalidInput(f"policy={policy!r} is none; it is 'mutable' or 'immutable'")


def _named_by_contents(source: Path, name: str | None) -> str:
    """A name that the contents of a temporary file choose: its digest takes the place of what is before the first dot."""
    whole = source.absolute()
    try:
        found = hash_source(Source(str(whole.parent), whole.name, follow=True))
    except OSError as error:
        raise translate_os(error, f"cannot add {source}") from error
    parents, slash, last = (name or whole.name).rpartition("/")
    ending = last.partition(".")
    return f"{parents}{slash}{found.digest.hex()[:20]}{ending[1]}{ending[2]}"


def instant(nanoseconds: int) -> str:
    """An instant (ns since the epoch) in ISO 8601, UTC, to the second."""
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
