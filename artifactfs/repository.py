"""Repository: a Registry and a Store behind one door.

Everything above this floor works through it and does not know which kinds are behind. An embedded repository is a directory::

    repository.json   {"magic": "artifactfs-repository", "format": 1}
    registry.db       the Registry (SQLite)
    store/            the Store (packs)

A Repository may be used from any thread. A forked child must open its own.
"""

from __future__ import annotations

import difflib
import fcntl
import os
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from artifactfs.content.backing import Backing
from artifactfs.content.local import LocalStore
from artifactfs.content.reader import ContentReader, FileReader
from artifactfs.content.source import Source
from artifactfs.content.store import Store
from artifactfs.content.stored import StoredSource
from artifactfs.content.writer import ContentWriter
from artifactfs.credentials import NONE, Credentials
from artifactfs.errors import ArtifactFSError, Conflict, Format, InvalidInput, NotFound, Unavailable, translate_os
from artifactfs.forks import Gate
from artifactfs.model.digest import TREE, format_digest
from artifactfs.model.names import LATEST, Address, check_name, parse_version
from artifactfs.model.records import CommitRequest, CommitResult, VersionRecord
from artifactfs.model.tree import Entry, FileEntry, Found, RefEntry, Trees, TreeSummary
from artifactfs.registry.contract import Registry
from artifactfs.registry.sql import SQLRegistry

if TYPE_CHECKING:
    from artifactfs.content.cache import Cache, CacheSettings
    from artifactfs.references.contract import ReferenceFile
    from artifactfs.references.references import References

SECONDS: Final = 30.0
"""How long what is asked of a server may take, unless said otherwise."""
MAGIC: Final = "artifactfs-repository"
FORMAT: Final = 1
MARKER: Final = "repository.json"
SESSION_SECONDS: Final = 600.0
"""How long a writer that fell silent still protects what it stored."""
HEARTBEAT_SECONDS: Final = 60.0
"""How often a writer renews its Session: a tenth of its life, so that nine renewals may fail."""


_BESIDE: Final = f".{MARKER}.new"


class _Marker(msgspec.Struct):
    magic: str
    format: int


class Repository:
    """An open repository, bounded by one project. ``disk`` is a directory on the disk that it grows on here."""

    def __init__(
        self,
        location: str,
        *,
        registry: Registry,
        store: Store,
        source: Source,
        disk: Path,
        cache: Cache | None = None,
        settings: CacheSettings | None = None,
        seconds: float = SECONDS,
        credentials: Credentials = NONE,
    ) -> None:
        self.location = location
        self.registry = registry
        self.store = store
        self.disk = disk
        self.cache = cache
        self.reader = ContentReader(source)
        self.trees = Trees(self._node)
        self._seconds = seconds
        self._credentials = credentials
        self._settings = settings
        self._outside_cache = cache  # for References; a repository in a directory opens it when it reads one first
        self._references: References | None = None
        self._others: dict[str, Repository] = {}  # other projects, for References to what is in them
        self._making = Lock()  # guards the three
        self._backing: Backing | None = None
        if isinstance(store, LocalStore) and isinstance(source, StoredSource):
            self._backing = Backing(store, source)

    def _node(self, digest: bytes) -> bytes:
        return self.reader.chunk(digest, TREE, along=self.trees.following(digest))

    @property
    def project(self) -> str:
        """The project that all names are looked up in."""
        return self.registry.project

    def is_same(self, other: Repository) -> bool:
        """Whether both are one project of one repository, as far as their locations tell."""
        return self.project == other.project and _canonical(self.location) == _canonical(other.location)

    @property
    def online(self) -> bool:
        """Whether the repository answered when last asked; one in a directory always does."""
        return self.registry.online

    # -- opening ---------------------------------------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        location: str,
        *,
        project: str = "default",
        cache: CacheSettings | None = None,
        seconds: float = SECONDS,
        credentials: Credentials = NONE,
    ) -> Repository:
        """Open the repository in a directory, or the one of a server (``http://…``).

        A server's needs a ``cache``, and is not asked anything yet; what asks it ends within ``seconds``. In a directory the ``cache``
        is for References alone, and need not be. ``credentials`` open the server, or an encrypted project in a directory. Raises
        NotFound (nothing there), InvalidInput (no repository), Format (a newer one), Access, Unavailable.
        """
        check_name(project)
        if is_url(location):
            if cache is None:
                raise InvalidInput(f"the repository {location} needs a cache: give a directory for it")
            return cls._open_remote(location, project, cache, seconds, credentials)
        path = _directory_of(location)
        _check_marker(path)
        registry = SQLRegistry(path / "registry.db", project=project)
        try:
            store = LocalStore(path / "store")
        except BaseException:
            registry.close()
            raise
        source = StoredSource(store, registry)
        return cls(
            str(path),
            registry=registry,
            store=store,
            source=source,
            disk=path,
            settings=cache,
            seconds=seconds,
            credentials=credentials,
        )

    @classmethod
    def _open_remote(
        cls, url: str, project: str, cache: CacheSettings, seconds: float, credentials: Credentials
    ) -> Repository:
        # Here and not above: HTTP and the cache take 0.1 s to import, which a repository in a directory need not pay. Not while
        # another thread forks: in the child a module would stay locked that was being imported.
        with Gate(seconds=seconds):
            from artifactfs.content.cache import Cache  # noqa: PLC0415
            from artifactfs.content.fetch import FetchedSource  # noqa: PLC0415
            from artifactfs.remote.client import Connection  # noqa: PLC0415
            from artifactfs.remote.nodes import RemoteNodes  # noqa: PLC0415
            from artifactfs.remote.registry import RemoteRegistry  # noqa: PLC0415
            from artifactfs.remote.store import RemoteStore  # noqa: PLC0415

        kept = Cache(cache)
        try:
            connection = Connection(url, seconds=seconds, credentials=credentials)
        except BaseException:
            kept.close()
            raise
        registry = RemoteRegistry(connection, project=project, memory=kept)
        store = RemoteStore(connection, project, spool=cache.directory)
        source = FetchedSource(store, registry, RemoteNodes(connection, project), kept, seconds=seconds)
        return cls(
            connection.url,
            registry=registry,
            store=store,
            source=source,
            disk=cache.directory,
            cache=kept,
            settings=cache,
            seconds=seconds,
            credentials=credentials,
        )

    @classmethod
    def create(
        cls,
        location: str,
        *,
        project: str = "default",
        cache: CacheSettings | None = None,
        seconds: float = SECONDS,
        credentials: Credentials = NONE,
    ) -> Repository:
        """Make an embedded repository in a directory that is absent or empty. Conflict when one is there already."""
        check_name(project)
        path = _directory_of(location)
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _locked(path):
                present = sorted(item.name for item in path.iterdir())
                if MARKER in present:
                    raise Conflict(f"{path} is a repository already")
                if not all(map(_is_part, present)):
                    raise InvalidInput(
                        f"{path} is not empty ({present[0]!r} is there); give an empty or a new directory"
                    )
                SQLRegistry(path / "registry.db", project=project, create=True).close()
                LocalStore(path / "store", create=True).close()
                # Last, as it makes the directory a repository: a creation that was killed is simply made again.
                _write_marker(path)
        except OSError as error:
            raise translate_os(error, f"cannot make a repository in {path}") from error
        return cls.open(location, project=project, cache=cache, seconds=seconds, credentials=credentials)

    @classmethod
    def open_or_create(
        cls,
        location: str,
        *,
        project: str = "default",
        cache: CacheSettings | None = None,
        seconds: float = SECONDS,
        credentials: Credentials = NONE,
    ) -> Repository:
        """Open a repository, making an embedded one on first use."""
        try:
            return cls.open(location, project=project, cache=cache, seconds=seconds, credentials=credentials)
        except NotFound:
            pass
        try:
            return cls.create(location, project=project, cache=cache, seconds=seconds, credentials=credentials)
        except Conflict:  # another process made it in between
            return cls.open(location, project=project, cache=cache, seconds=seconds, credentials=credentials)

    def close(self) -> None:
        """Release descriptors and connections. Idempotent."""
        if self._references is not None:
            self._references.close()
        for other in self._others.values():
            other.close()
        self.reader.close()
        self.registry.close()
        self.store.close()
        if self._outside_cache is not None:
            self._outside_cache.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- reading ---------------------------------------------------------------------------------------------------

    def resolve(self, address: Address) -> VersionRecord:
        """The version an Address names; `latest` when it names none. NotFound says what is there instead."""
        if address.project is not None and address.project != self.project:
            raise InvalidInput(
                f"{address} is in the project {address.project!r}, but {self.project!r} is open; "
                f"use --project {address.project}"
            )
        name = address.name
        if address.digest is not None:
            version = self.registry.find_digest(name, address.digest)
        else:
            selector = address.selector or LATEST
            number = parse_version(selector)
            version = self.registry.resolve(name, selector) if number is None else self.registry.version(name, number)
        if version is None:
            raise self._missing(address)
        return version

    def _missing(self, address: Address) -> NotFound:
        name = address.name
        versions = self.registry.versions(name)
        if not versions:
            names = [artifact.name for artifact in self.registry.artifacts()]
            close = difflib.get_close_matches(name, names, 3, 0.6)
            if not names:
                hint = "the project has no artifacts yet: `artifactfs put` makes one"
            elif close:
                hint = f"did you mean {' or '.join(close)}?"
            else:
                hint = "`artifactfs ls` lists what is there"
            return NotFound(f"no artifact {name!r} in project {self.project!r}; {hint}")
        if address.digest is not None:
            return NotFound(
                f"no version of {name} has the digest {format_digest(address.digest)}; see `artifactfs log {name}`"
            )
        aliases = sorted({alias for version in versions for alias in version.aliases})
        span = f"v{versions[0].number}" if len(versions) == 1 else f"v{versions[0].number} to v{versions[-1].number}"
        known = f"{span}, aliases {', '.join(aliases[:8])}{'…' if len(aliases) > 8 else ''}"
        return NotFound(f"{name} has no version or alias {address.selector or LATEST!r}; it has {known}")

    def find(self, version: VersionRecord, path: str) -> Found:
        """The entry of a path (not empty) in a version. NotFound names the version and near misses."""
        self.reader.path(version.digest, path)
        found = self.trees.find(version.digest, path)
        if found is None:
            raise NotFound(f"{version.name} has no {path!r}; `artifactfs ls {version.name}` lists what it has")
        return found

    def entry(self, version: VersionRecord, path: str) -> Entry:
        """As :meth:`find`, the entry alone."""
        return self.find(version, path).entry

    def open_file(self, entry: FileEntry, neighbours: Callable[[], Collection[bytes]] | None = None) -> FileReader:
        """Read a file's bytes, verified. ``neighbours`` gives digests whose places are asked for along."""
        return self.reader.open(entry.digest, entry.size, neighbours)

    @property
    def references(self) -> References:
        """What URIs stand for, and the bytes that lie there."""
        if self._references is None:
            from artifactfs.references.references import References  # noqa: PLC0415 - most commands need none

            with self._making:
                if self._references is None:
                    self._references = References(
                        self.reader, self._cache_of_references, self._in_project, seconds=self._seconds
                    )
        return self._references

    def open_reference(self, entry: RefEntry) -> ReferenceFile:
        """Read the bytes at a Reference's URI, checked against what it records. Asks nobody yet. InvalidInput for unknown schemes."""
        return self.references.open(entry)

    def _in_project(self, project: str | None) -> Repository:
        """This repository, open in a project of it. What is opened here is closed with it."""
        if project is None or project == self.project:
            return self
        with self._making:
            other = self._others.get(project)
            if other is None:
                other = self._others[project] = Repository.open(
                    self.location,
                    project=project,
                    cache=self._settings,
                    seconds=self._seconds,
                    credentials=self._credentials,
                )
            return other

    def _cache_of_references(self) -> Cache | None:
        if self._outside_cache is None and self._settings is not None:
            from artifactfs.content.cache import Cache  # noqa: PLC0415 - takes 30 ms to import

            with self._making:
                if self._outside_cache is None:
                    self._outside_cache = Cache(self._settings)
        return self._outside_cache

    def backing(self, file: FileReader) -> str | None:
        """The local path whose bytes are exactly this file's, once all were verified; "" while they may become so; else None."""
        return self._backing.path(file) if self._backing is not None else None

    def verified_backing(self, file: FileReader) -> str:
        """As :meth:`backing`, after verifying what lies in the kernel's memory: no disk is waited for."""
        return self._backing.verified_path(file) if self._backing is not None else ""

    # -- writing ---------------------------------------------------------------------------------------------------

    @contextmanager
    def writing(self, kind: str, *, lasting: float = 0.0) -> Iterator[Writing]:
        """A Session with a writer, renewed while it lasts; ``kind`` says what for (put, commit).

        ``lasting``: seconds that it protects what was stored after a block that did not raise.
        """
        session = self.registry.open_session(kind, seconds=SESSION_SECONDS)
        stop = Event()
        beat = Thread(target=self._heartbeat, args=(session, stop), name="session-heartbeat", daemon=True)
        beat.start()
        writer = ContentWriter(self.store, self.registry, session=session)
        stored = False
        try:
            yield Writing(self.registry, writer, session)
            writer.close()
            stored = True
        finally:
            if not stored:
                writer.abort()
            stop.set()
            beat.join()
            if stored and lasting:
                self.registry.renew_session(session, seconds=lasting)
            else:
                with suppress(ArtifactFSError):  # it expires by itself; what was done stays done
                    self.registry.close_session(session)

    def _heartbeat(self, session: int, stop: Event) -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            try:
                self.registry.renew_session(session, seconds=SESSION_SECONDS)
            except Conflict:
                return  # expired: the commit will say so
            except ArtifactFSError:
                continue  # busy or out of reach now: eight more tries before it expires


class Progress(msgspec.Struct, frozen=True):
    """How far a commit is: files and bytes read, bytes stored (both rising)."""

    files: int
    bytes_read: int
    bytes_stored: int


class Writing:
    """What a commit works with: a content writer under a Session, then one transaction."""

    def __init__(self, registry: Registry, writer: ContentWriter, session: int) -> None:
        self.writer = writer
        self._registry = registry
        self._session = session

    def commit(
        self,
        artifact: str,
        root: TreeSummary,
        *,
        type: str | None = None,  # noqa: A002 - the word of the vocabulary
        aliases: tuple[str, ...] = (),
        description: str | None = None,
        metadata: dict[str, Any] | None = None,
        base: int | None = None,
        force: bool = False,
        commit_id: str | None = None,
        tags: tuple[str, ...] = (),
        run: str | None = None,
        find: bool = False,
        draft: str | None = None,
    ) -> CommitResult:
        """Make everything written durable, then make the version. Arguments as in CommitRequest."""
        self.writer.flush()
        return self._registry.commit(
            CommitRequest(
                commit_id=commit_id or new_commit_id(),
                artifact=artifact,
                type=type,
                digest=root.digest,
                size=root.size,
                files=root.files,
                entries=root.entries,
                aliases=aliases,
                description=description,
                metadata=metadata,
                base=base,
                force=force,
                session=self._session,
                tags=tags,
                run=run,
                find=find,
                draft=draft,
            )
        )

    def keep(self, versions: Collection[tuple[str, int]]) -> None:
        """Keep versions (artifact, number) that what is written builds on without storing it anew. Conflict when one was deleted."""
        lost = self._registry.keep_versions(self._session, versions)
        if lost:
            names = ", ".join(f"{name}:v{number}" for name, number in lost)
            raise Conflict(f"{names} was deleted, so nothing can be built on it any more; begin with another version")

    def add_part(self, artifact: str, draft: str, root: TreeSummary) -> None:
        """Make everything written durable, then record its tree as a part of a draft (:meth:`Registry.add_part`)."""
        self.writer.flush()
        self._registry.add_part(artifact, draft, root.digest, session=self._session)


def _canonical(location: str) -> str:
    return location.rstrip("/") if "://" in location else os.path.realpath(location)


def new_commit_id() -> str:
    """A fresh identity of a commit: 32 hexadecimal digits."""
    return uuid.uuid4().hex


def is_url(location: str) -> bool:
    """Whether a repository's location is a server's."""
    return location.lower().startswith(("http://", "https://"))


def _directory_of(location: str) -> Path:
    scheme, mark, rest = location.partition("://")
    if mark:
        if scheme == "file":
            return Path(rest)
        if is_url(location):
            raise InvalidInput(
                f"{location} is a server's; make a repository in a directory on its machine, and serve it"
            )
        raise InvalidInput(f"cannot open {location!r}: a repository is a directory, or http(s)://HOST:PORT of a server")
    if not location:
        raise InvalidInput("the repository's location is empty; give a directory")
    return Path(location).absolute()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One creation at a time. The lock is the kernel's, so it goes with a process that is killed."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for _ in range(300):  # 30 s; a creation takes some 50 ms
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.1)
        else:
            raise Unavailable(f"another process has been making a repository in {path} for 30 s; try again later")
        yield
    finally:
        os.close(directory)


def _is_part(name: str) -> bool:
    """What a creation that is under way, or was killed, may have left: none of it makes the directory something else."""
    return name.startswith("registry.db") or name in {"store", _BESIDE}


def _check_marker(path: Path) -> None:
    try:
        data = (path / MARKER).read_bytes()
    except FileNotFoundError:
        if not path.exists():
            raise NotFound(f"no repository at {path}; `artifactfs init {path}` makes one") from None
        # The marker itself may have come since.
        if all(item.name == MARKER or _is_part(item.name) for item in path.iterdir()):
            raise NotFound(f"no repository in {path} yet; `artifactfs init {path}` makes one") from None
        raise InvalidInput(f"{path} is not an ArtifactFS repository: it has no {MARKER}") from None
    except OSError as error:
        if isinstance(error, NotADirectoryError):
            raise InvalidInput(f"{path} is not a directory, so it is no ArtifactFS repository") from error
        raise translate_os(error, f"cannot open the repository {path}") from error
    try:
        marker = msgspec.json.decode(data, type=_Marker)
    except msgspec.MsgspecError as error:
        raise Format(f"{path / MARKER} is damaged: {error}; restore it from another repository of format 1") from error
    if marker.magic != MAGIC:
        raise InvalidInput(f"{path} is not an ArtifactFS repository: {MARKER} says {marker.magic!r}")
    if marker.format != FORMAT:
        raise Format(f"{path} has format {marker.format}; this release reads format {FORMAT}: use a newer artifactfs")


def _write_marker(path: Path) -> None:
    beside = path / _BESIDE
    with beside.open("wb") as file:
        file.write(msgspec.json.encode(_Marker(MAGIC, FORMAT)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path / MARKER)
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
