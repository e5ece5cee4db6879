"""Repository: a Registry and a Store behind one door.

Everything above this floor works through it and does not know which kinds are behind. An embedded repository is a directory, as
:mod:`artifactfs.directory` has it.

A Repository may be used from any thread. A forked child must open its own.
"""

from __future__ import annotations

import difflib
import os
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from artifactfs import directory
from artifactfs.content.backing import Backing
from artifactfs.content.local import LocalStore
from artifactfs.content.reader import ContentReader, FileReader
from artifactfs.content.source import Source
from artifactfs.content.store import Store
from artifactfs.content.stored import StoredSource
from artifactfs.content.writer import ContentWriter
from artifactfs.credentials import NONE, Credentials
from artifactfs.errors import ArtifactFSError, Conflict, Integrity, InvalidInput, NoSpace, NotFound
from artifactfs.forks import Gate
from artifactfs.keys import ProjectKeys
from artifactfs.marking import missing_of
from artifactfs.model.digest import TREE, format_digest
from artifactfs.model.names import LATEST, Address, check_name, parse_version
from artifactfs.model.records import CommitRequest, CommitResult, VersionRecord
from artifactfs.model.retention import Tombstone, Usage, full, over_quota
from artifactfs.model.tree import Entry, FileEntry, Found, RefEntry, Trees, TreeSummary
from artifactfs.placing import Ground, open_stores
from artifactfs.registry.contract import Registry
from artifactfs.registry.deletion import this_user
from artifactfs.registry.sql import SQLRegistry

if TYPE_CHECKING:
    from artifactfs.content.cache import Cache, CacheSettings
    from artifactfs.references.contract import ReferenceFile
    from artifactfs.references.references import References

SECONDS: Final = 30.0
"""How long what is asked of a server may take, unless said otherwise."""
SESSION_SECONDS: Final = 600.0
"""How long a writer that fell silent still protects what it stored."""
HEARTBEAT_SECONDS: Final = 60.0
"""How often a writer renews its Session: a tenth of its life, so that nine renewals may fail."""


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
        directory.opened(path)
        directory.require_registry(path)
        registry = SQLRegistry(path / directory.REGISTRY, project=project, keys=ProjectKeys(credentials))
        try:
            # What they share goes with the last Store that is used.
            ground = Ground(path / directory.STORE, path / directory.SPOOL, seconds)
            stores = open_stores(registry, ground)
            store = stores.of_project(project)
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
    def over(
        cls,
        registry: SQLRegistry,
        *,
        beside: Path | None,
        disk: Path,
        credentials: Credentials,
        seconds: float = SECONDS,
    ) -> Repository:
        """The repository of a registry that is open already, as a database's is; both are closed with it, also when this raises.

        ``beside``: the directory of its packs, when the registry names no bucket; ``disk``: one for what is written down.
        The Store is asked once whether it is there. References into other projects are not followed. Raises InvalidInput without a
        place of packs, NotFound, Access, Unavailable.
        """
        try:
            stores = open_stores(registry, Ground(beside, disk, seconds))
            stores.check()
            store = stores.of_project(registry.project)
        except BaseException:
            registry.close()
            raise
        return cls(
            str(registry),
            registry=registry,
            store=store,
            source=StoredSource(store, registry),
            disk=disk,
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
            from artifactfs.remote.client import CONNECT_SECONDS, Connection  # noqa: PLC0415
            from artifactfs.remote.direct import Direct  # noqa: PLC0415
            from artifactfs.remote.nodes import RemoteNodes  # noqa: PLC0415
            from artifactfs.remote.registry import RemoteRegistry  # noqa: PLC0415
            from artifactfs.remote.store import RemoteStore  # noqa: PLC0415

        kept = Cache(cache)
        try:
            connection = Connection(url, seconds=seconds, credentials=credentials)
        except BaseException:
            kept.close()
            raise
        direct = Direct(connection, project, credentials, connect=CONNECT_SECONDS)
        registry = RemoteRegistry(connection, project=project, memory=kept, direct=direct)
        store = RemoteStore(connection, project, spool=cache.directory, direct=direct)
        source = FetchedSource(store, registry, RemoteNodes(connection, project, direct), kept, seconds=seconds)
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
        directory.create(path, project=project)
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
            return self._by_present_name(address)
        return version

    def present_name(self, name: str) -> str:
        """The name that an artifact has now: this one, unless it was renamed since."""
        if self.online:
            with suppress(ArtifactFSError):  # a server that cannot be asked just now, or does not know of it
                return self.registry.retention.former_names().get(name, name)
        return name

    def _by_present_name(self, address: Address) -> VersionRecord:
        """The version that an address meant when its artifact had another name. NotFound says what is there instead."""
        renamed = address.name if self.registry.versions(address.name) else self.present_name(address.name)
        if renamed == address.name:
            raise self._missing(address)
        return self.resolve(msgspec.structs.replace(address, name=renamed))

    def tombstone(self, address: Address) -> Tombstone | None:
        """What is known of the version of this number, when it was deleted; None for any other address, and offline."""
        number = parse_version(address.selector or "")
        if number is None or not self.online:
            return None
        with suppress(ArtifactFSError):
            name = self.registry.retention.former_names().get(address.name, address.name)
            return self.registry.retention.tombstone(name, number)
        return None

    def _missing(self, address: Address) -> NotFound:
        name = address.name
        gone = self.tombstone(address)
        if gone is not None:
            day = datetime.fromtimestamp(gone.deleted / 1e9, UTC).strftime("%Y-%m-%d %H:%M UTC")
            return NotFound(
                f"{gone.name} was deleted at {day} by {gone.deleted_by or 'somebody'}; "
                f"`artifactfs show {gone.name}` tells what is known of it"
            )
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
        begun = self.registry.begin(kind, seconds=SESSION_SECONDS)
        session = begun.session
        stop = Event()
        heart = Thread(target=beat, args=(self.registry, session, stop), name="session-heartbeat", daemon=True)
        heart.start()
        room = Room(self.project, begun.usage) if begun.usage is not None else None
        writer = ContentWriter(
            self.store, self.registry, session=session, admit=room.stored if room is not None else None
        )
        stored = False
        try:
            yield Writing(self.registry, self.reader, writer, session, room)
            writer.close()
            stored = True
        finally:
            if not stored:
                writer.abort()
            stop.set()
            heart.join()
            if stored and lasting:
                self.registry.renew_session(session, seconds=lasting)
            else:
                with suppress(ArtifactFSError):  # it expires by itself; what was done stays done
                    self.registry.close_session(session)


def beat(registry: Registry, session: int, stop: Event) -> None:
    """Renew a Session until told to stop, or until it has expired. For a thread of its own."""
    while not stop.wait(HEARTBEAT_SECONDS):
        try:
            registry.renew_session(session, seconds=SESSION_SECONDS)
        except Conflict:
            return  # expired: the commit will say so
        except ArtifactFSError:
            continue  # busy or out of reach now: eight more tries before it expires


class Progress(msgspec.Struct, frozen=True):
    """How far a commit is: files and bytes read, bytes stored (both rising)."""

    files: int
    bytes_read: int
    bytes_stored: int


class Room:
    """What a project with a quota may still take, as it was when its session was opened; the registry looks again."""

    def __init__(self, project: str, usage: Usage) -> None:
        self._project = project
        self._usage = usage

    def stored(self, size: int) -> None:
        """NoSpace, with the numbers, when so many stored bytes are too many."""
        self._refuse(over_quota(self._usage, stored=size))

    def logical(self, size: int, *, new: Callable[[], bool]) -> None:
        """NoSpace when a version of this size is too much. ``new``, asked only then: whether there is none with its contents yet."""
        words = over_quota(self._usage, logical=size)
        if words is not None and new():
            self._refuse(words)

    def _refuse(self, words: str | None) -> None:
        if words is not None:
            raise NoSpace(full(self._project, words))


class Writing:
    """What a commit works with: a content writer under a Session, then one transaction."""

    def __init__(
        self,
        registry: Registry,
        reader: ContentReader,
        writer: ContentWriter,
        session: int,
        room: Room | None = None,
    ) -> None:
        self._reader = reader
        self.writer = writer
        self.room = room
        """What the project may still take; None: any number of bytes."""
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

    def keep(self, versions: Collection[tuple[str, int]], tree: bytes | None) -> None:
        """Keep versions (artifact, number), with this ``tree``, that what is written builds on without storing it anew.

        Conflict when one was deleted, unless no collection has condemned anything of the tree yet.
        """
        held: dict[int, str] = {}
        lost: list[str] = []
        retention = self._registry.retention
        for name, number in versions:
            # A mount keeps the version that its staging is based on, also when it was deleted.
            version = self._registry.version(name, number) or retention.tombstone(name, number)
            if version is None:
                lost.append(f"{name}:v{number}")
            else:
                held[version.id] = f"{name}:v{number}"
        gone = set(retention.hold(self._session, {each: f"what {this_user()} is storing" for each in held}))
        lost += [name for identity, name in held.items() if identity in gone]
        if lost and (tree is None or not self._holds(tree)):
            names = ", ".join(lost)
            raise Conflict(f"{names} was deleted, so nothing can be built on it any more; begin with another version")

    def _holds(self, tree: bytes) -> bool:
        """Whether all of a tree can be had back: then it stays until the Session ends."""
        try:
            return missing_of(self._reader, self._registry, "the version", tree) == 0
        except Integrity:
            return False

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
