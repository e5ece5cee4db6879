"""View: the file tree that everybody sees, as nodes. It knows no FUSE binding.

::

    /                         artifacts, and new names that have only a staging area yet
    /NAME/vN/…                versions: immutable, resolved from node numbers without any table
    /NAME/ALIAS -> vN         symlinks, never cached
    /NAME/staging/…           the writable area, answered by :class:`~artifactfs.mount.staging.Staging`
    /.artifactfs/…            the mount explains itself (mount/explain.py)

What is open for reading is in mount/reading.py, what attributes of the vocabulary say in mount/xattrs.py.

Node numbers are the inode numbers too. Bits 60 to 62 are the space: 1 is the root; space 1 holds hashes of names
(artifacts, aliases, control files); space 2 is ``version id << 36 | number of the entry in its tree`` (model/tree.py), so
that a node of a version needs no memory here and stays valid over remounts; spaces 3 and 4 are staging's.

Threads: operations come from any thread. The tables of listings and special nodes are only touched by single, atomic operations of
dictionaries; no lock is held while the kernel is notified or a file's content is read.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from artifactfs.errors import ArtifactFSError, InvalidInput, NotFound
from artifactfs.model.digest import DATA, digest
from artifactfs.model.names import CONTROL_DIRECTORY, STAGING, check_name, parse_version
from artifactfs.model.records import VersionRecord
from artifactfs.model.tree import DirEntry, Entry, FileEntry, Found, LinkEntry, RefEntry
from artifactfs.mount.catalog import Catalog
from artifactfs.mount.contract import FOREVER, ROOT, Attr, Caller, Data, Notifier, Opened, SetAttr, StatFS
from artifactfs.mount.explain import Explain
from artifactfs.mount.follower import Follower, Outage
from artifactfs.mount.prefetch import Planned
from artifactfs.mount.reading import Reading
from artifactfs.mount.sources import Sources
from artifactfs.mount.xattrs import PREFIX, of_entry, of_version
from artifactfs.repository import Repository

if TYPE_CHECKING:
    from artifactfs.mount.staging import Staging
    from artifactfs.mount.witness import Witness

SPACE_SHIFT: Final = 60
SPECIAL: Final = 1
VERSION: Final = 2
STAGING_SPACES: Final = (3, 4)
VERSION_SHIFT: Final = 36  # 2^36 entries a version, 2^24 versions a registry
NUMBER_MASK: Final = (1 << VERSION_SHIFT) - 1
VERSION_MASK: Final = (1 << (SPACE_SHIFT - VERSION_SHIFT)) - 1
_HASH_MASK: Final = (1 << SPACE_SHIFT) - 1

SERIES_ATTR_SECONDS: Final = 1.0

_DIRECTORY: Final = stat.S_IFDIR | 0o755
_FILE: Final = stat.S_IFREG | 0o644
_EXECUTABLE: Final = stat.S_IFREG | 0o755
_LINK: Final = stat.S_IFLNK | 0o777
_CONTROL: Final = stat.S_IFREG | 0o444


def _fail(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class _Special:
    """What a node of space 1 stands for: an artifact, an alias of one, or a control file or directory."""

    __slots__ = ("kind", "name", "path")

    def __init__(self, kind: str, name: str, path: str = "") -> None:
        self.kind = kind  # artifact, alias, control
        self.name = name  # the artifact's
        self.path = path  # the alias, or the path below .artifactfs


class _Listing:
    """An open directory outside versions and staging: what it held when it was read from the start."""

    __slots__ = ("entries",)

    def __init__(self) -> None:
        self.entries: list[tuple[bytes, Attr]] = []


class View:
    """The whole mount as a :class:`~artifactfs.mount.contract.Tree`."""

    def __init__(
        self,
        repository: Repository,
        staging: Staging | None,
        *,
        pins: dict[str, int],
        uid: int,
        gid: int,
        status: Callable[[], dict[str, Any]],
        sources: Sources | None = None,
        witness: Witness | None = None,
    ) -> None:
        self._repository = repository
        self._catalog = Catalog(repository.registry, pins)
        self._trees = repository.trees
        self._staging = staging
        self._uid = uid
        self._gid = gid
        self._explain = Explain(self._catalog, status)
        self._follower = Follower(repository.registry, self.refresh)
        self.notifier: Notifier | None = None
        self._listener: Callable[[int], None] | None = None
        self._witness = witness
        self._specials: dict[int, _Special] = {}
        self._sources = sources or Sources(repository)
        self._reading = Reading(repository, self._sources, self._name_of)
        self._listings: dict[int, _Listing] = {}
        self._counters = Lock()
        self._reads = 0
        self._bytes = 0

    # -- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to follow the registry. Call once the notifier is set and the mount stands."""
        self._follower.start()

    def stop(self) -> None:
        """End following: nothing is told to the kernel or to staging any more."""
        self._follower.stop()

    def outage(self) -> Outage | None:
        """Since when and why the registry cannot be reached; None while it answers."""
        return self._follower.outage()

    def counters(self) -> dict[str, int]:
        """Reads answered, bytes served, and bytes fetched from the Store and from sources of references since the mount began."""
        fetched = self._repository.reader.bytes_fetched + self._repository.references.bytes_fetched
        with self._counters:
            return {"reads": self._reads, "bytes_served": self._bytes, "bytes_fetched": fetched}

    def refresh(self, returned: bool = False) -> None:
        """Bring the kernel up to date: names that vanished are forgotten, clean staging follows `latest`.

        ``returned``: the registry could not be reached until now.
        """
        if returned:
            self._catalog.doubt()
        vanished = self._catalog.vanished()
        for name in vanished.artifacts:
            if not self._has_area(name):
                self._forget_name(ROOT, name.encode())
        for name, number in vanished.versions:
            self._forget_name(self._special(_Special("artifact", name)), f"v{number}".encode())
        failed: ArtifactFSError | OSError | None = None
        for name in self._staging.names() if self._staging is not None else ():
            try:
                self.follow(name)
            except (ArtifactFSError, OSError) as error:
                failed = error  # of one artifact; the others follow
        if failed is not None:
            raise failed

    def follow(self, name: str) -> None:
        """Let the clean staging of an artifact start from its present `latest`, and tell the kernel."""
        if self._staging is None:
            return
        latest = self.latest(name)
        if latest is not None:
            stale = self._staging.follow(self._staging.area(name, latest), latest)
            if stale:
                self.notify(stale)
                self.forget_staging(name)

    def notify(self, invalidations: Any) -> None:
        """Send what staging changed behind the kernel."""
        notifier = self.notifier
        if notifier is None:
            return
        for item in invalidations:
            if item.name is None:
                notifier.inval_inode(item.node)
            else:
                notifier.inval_entry(item.node, item.name)

    def _forget_name(self, parent: int, name: bytes) -> None:
        if self.notifier is not None:
            self.notifier.inval_entry(parent, name)

    def forget_staging(self, name: str) -> None:
        """Make the kernel look up an artifact's staging anew: its root became another node."""
        self._forget_name(self._special(_Special("artifact", name)), STAGING.encode())

    def _has_area(self, name: str) -> bool:
        return self._staging is not None and name in self._staging.names()

    def _exists(self, name: str) -> bool:
        return name in self._catalog.names() or self._has_area(name)

    def latest(self, name: str) -> VersionRecord | None:
        """The version that `latest` names in this mount, or None."""
        return self._catalog.latest(name)

    def listen(self, listener: Callable[[int], None] | None) -> None:
        """Have the node of each file of a version that is opened told, or no more."""
        self._listener = listener

    def files_at(self, path: str) -> Iterator[Planned]:
        """The files of versions at a path below the mountpoint, in order. NotFound when no version has it."""
        name, _, rest = path.strip("/").partition("/")
        selector, _, below = rest.partition("/")
        number = parse_version(selector)
        if number is None:
            number = self._catalog.target(name, selector)
        record = self._catalog.version(name, number) if number is not None else None
        if record is None:
            raise NotFound(f"{path!r} is in no version that this mount has")
        root = VERSION << SPACE_SHIFT | record.id << VERSION_SHIFT
        if not below:
            yield from self._files_below(root, record.digest)
            return
        found = self._repository.find(record, below)
        yield from self._files_of(root + found.offset, found.entry)

    def _files_below(self, node: int, directory: bytes) -> Iterator[Planned]:
        for _, offset, entry in self._trees.scan(directory):
            yield from self._files_of(node + offset, entry)

    def _files_of(self, node: int, entry: Entry) -> Iterator[Planned]:
        if isinstance(entry, DirEntry):
            yield from self._files_below(node, entry.digest)
        elif not isinstance(entry, LinkEntry):
            yield Planned(node, entry)

    # -- nodes -----------------------------------------------------------------------------------------------------

    def _special(self, special: _Special) -> int:
        text = f"{special.kind}\0{special.name}\0{special.path}".encode()
        node = SPECIAL << SPACE_SHIFT | (int.from_bytes(digest(DATA, text)[:8], "big") & _HASH_MASK)
        if node not in self._specials:
            self._specials[node] = special
        return node

    def _record(self, node: int) -> VersionRecord:
        return self._catalog.record(node >> VERSION_SHIFT & VERSION_MASK)

    def _name_of(self, node: int) -> str:
        """``name:vN/path`` of a version's node, for people."""
        record = self._record(node)
        try:
            trail = self._trees.trail(record.digest, node & NUMBER_MASK)
            path = "/".join(found.entry.name for found in trail)
        except ArtifactFSError:
            path = f"entry {node & NUMBER_MASK}"  # the directories cannot be read either
        return f"{record.name}/{path}"

    def _found(self, node: int) -> Found | None:
        """The entry of a version's node; None is the version's root."""
        record = self._record(node)
        number = node & NUMBER_MASK
        return self._trees.at(record.digest, number) if number else None

    def _directory(self, node: int) -> bytes:
        """The tree of a version's directory."""
        found = self._found(node)
        if found is None:
            return self._record(node).digest
        if not isinstance(found.entry, DirEntry):
            raise _fail(errno.ENOTDIR)
        return found.entry.digest

    def _asked_attr(self, node: int, entry: Entry, created: int) -> Attr:
        """As :meth:`_entry_attr`, for one who asks for this entry alone.

        The size of a reference that was recorded by its URI alone is found out when it is opened. A mount without staging sees no
        opens, and what has no size there reads as empty: so it is asked of the source here.
        """
        if (
            isinstance(entry, RefEntry)
            and entry.size is None
            and self._staging is None
            and self._sources.readable(entry)
        ):
            self._reading.ask_size(node, entry)
        return self._entry_attr(node, entry, created)

    def _entry_attr(self, node: int, entry: Entry, created: int) -> Attr:
        size = 0
        if isinstance(entry, FileEntry):
            mode, size = _EXECUTABLE if entry.executable else _FILE, entry.size
        elif isinstance(entry, DirEntry):
            mode = _DIRECTORY
        elif isinstance(entry, LinkEntry):
            mode, size = _LINK, len(entry.target.encode())
        elif not self._sources.readable(entry):
            mode, size = _LINK, len(self._sources.target(entry))
        elif entry.size is not None:
            mode, size = self._sources.mode(entry, _FILE), entry.size
        else:
            mode = self._sources.mode(entry, _FILE)
            return self._plain(node, mode, self._sources.found_size(node), created, FOREVER, 0.0)
        return self._plain(node, mode, size, created, FOREVER, FOREVER)

    def _plain(self, node: int, mode: int, size: int, when: int, entry_valid: float, attr_valid: float) -> Attr:
        blocks = (size + 511) >> 9
        return Attr(node, mode, size, when, 1, self._uid, self._gid, entry_valid, attr_valid, when, when, blocks)

    def _root_attr(self) -> Attr:
        return self._plain(ROOT, _DIRECTORY, 0, self._explain.since, FOREVER, SERIES_ATTR_SECONDS)

    def _series_attr(self, name: str) -> Attr:
        node = self._special(_Special("artifact", name))
        artifact = self._catalog.names().get(name)
        when = artifact.created if artifact is not None else self._explain.since
        return self._plain(node, _DIRECTORY, 0, when, FOREVER, SERIES_ATTR_SECONDS)

    def _version_attr(self, record: VersionRecord) -> Attr:
        node = VERSION << SPACE_SHIFT | record.id << VERSION_SHIFT
        return self._plain(node, _DIRECTORY, 0, record.created, FOREVER, FOREVER)

    def _alias_attr(self, name: str, alias: str, number: int) -> Attr:
        node = self._special(_Special("alias", name, alias))
        target = self._catalog.version(name, number)
        when = target.created if target is not None else self._explain.since
        return self._plain(node, _LINK, len(f"v{number}"), when, 0.0, 0.0)

    def _control_attr(self, path: str) -> Attr:
        node = self._special(_Special("control", "", path))
        size = self._explain.size(path)
        mode = _DIRECTORY if size is None else _CONTROL
        # A changed time makes the kernel drop what it may have cached, where it sees no opens.
        when = self._explain.since if size is None else time.time_ns()
        return self._plain(node, mode, size or 0, when, 0.0, 0.0)

    def _staging_attr(self, name: str) -> Attr:
        assert self._staging is not None  # noqa: S101 - callers have checked
        return self._staging.getattr(self._staging.area(name, self.latest(name)).root)

    # -- Tree: names -----------------------------------------------------------------------------------------------

    def lookup(self, parent: int, name: bytes) -> Attr:
        space = parent >> SPACE_SHIFT
        if space == VERSION:
            try:
                text = name.decode()
            except UnicodeDecodeError:
                raise _fail(errno.ENOENT) from None
            found = self._trees.lookup(self._directory(parent), text)
            if found is None:
                return Attr(0, 0, entry_valid=FOREVER)
            return self._asked_attr(parent + found.offset, found.entry, self._record(parent).created)
        if space in STAGING_SPACES:
            return self._need_staging().lookup(parent, name)
        try:
            text = name.decode()
        except UnicodeDecodeError:
            raise _fail(errno.ENOENT) from None
        if parent == ROOT:
            if text == CONTROL_DIRECTORY:
                return self._control_attr("")
            if not self._exists(text):
                raise _fail(errno.ENOENT)
            return self._series_attr(text)
        special = self._known(parent)
        if special.kind == "artifact":
            return self._member(special.name, text)
        if special.kind == "control":
            path = f"{special.path}/{text}" if special.path else text
            if not self._explain.exists(path):
                raise _fail(errno.ENOENT)
            return self._control_attr(path)
        raise _fail(errno.ENOTDIR)

    def _member(self, name: str, text: str) -> Attr:
        if not self._exists(name):
            raise _fail(errno.ENOENT)
        if text == STAGING and self._staging is not None:
            return self._staging_attr(name)
        number = parse_version(text)
        if number is None:
            number = self._catalog.target(name, text)
            if number is not None:
                return self._alias_attr(name, text, number)
        elif (record := self._catalog.version(name, number)) is not None:
            return self._version_attr(record)
        raise _fail(errno.ENOENT)

    def _known(self, node: int) -> _Special:
        special = self._specials.get(node)
        if special is None:
            raise _fail(errno.ESTALE)
        return special

    def _need_staging(self) -> Staging:
        if self._staging is None:
            raise _fail(errno.ESTALE)
        return self._staging

    def getattr(self, node: int, fh: int | None = None) -> Attr:
        space = node >> SPACE_SHIFT
        if space == VERSION:
            found = self._found(node)
            if found is None:
                return self._version_attr(self._record(node))
            return self._asked_attr(node, found.entry, self._record(node).created)
        if space in STAGING_SPACES:
            return self._need_staging().getattr(node, fh)
        if node == ROOT:
            return self._root_attr()
        special = self._known(node)
        if special.kind == "artifact":
            if not self._exists(special.name):
                raise _fail(errno.ENOENT)
            return self._series_attr(special.name)
        if special.kind == "alias":
            number = self._catalog.target(special.name, special.path)
            if number is None:
                raise _fail(errno.ENOENT)
            return self._alias_attr(special.name, special.path, number)
        if not self._explain.exists(special.path):
            raise _fail(errno.ENOENT)
        return self._control_attr(special.path)

    def readlink(self, node: int) -> bytes:
        space = node >> SPACE_SHIFT
        if space in STAGING_SPACES:
            return self._need_staging().readlink(node)
        if space == VERSION:
            found = self._found(node)
            if found is None or isinstance(found.entry, FileEntry | DirEntry):
                raise _fail(errno.EINVAL)
            if isinstance(found.entry, LinkEntry):
                return found.entry.target.encode()
            if self._sources.readable(found.entry):
                raise _fail(errno.EINVAL)
            return self._sources.target(found.entry)
        special = self._known(node)
        if special.kind != "alias":
            raise _fail(errno.EINVAL)
        number = self._catalog.target(special.name, special.path)
        if number is None:
            raise _fail(errno.ENOENT)
        return f"v{number}".encode()

    # -- Tree: directories -----------------------------------------------------------------------------------------

    def opendir(self, node: int, caller: Caller) -> Opened:
        space = node >> SPACE_SHIFT
        if space == VERSION:
            self._directory(node)
            return Opened(0, keep_cache=True, cache_dir=True)
        if space in STAGING_SPACES:
            return self._need_staging().opendir(node, caller)
        self.getattr(node)
        number = self._reading.number()
        self._listings[number] = _Listing()
        return Opened(number)

    def readdir(self, node: int, fh: int, offset: int) -> Iterator[tuple[bytes, Attr]]:
        space = node >> SPACE_SHIFT
        if space == VERSION:
            return self._read_version(node, offset)
        if space in STAGING_SPACES:
            return self._need_staging().readdir(node, fh, offset)
        listing = self._listings.get(fh)
        if listing is None:
            raise _fail(errno.EBADF)
        if offset == 0:
            listing.entries = list(self._read_special(node))
        return iter(listing.entries[offset:])

    def _read_version(self, node: int, offset: int) -> Iterator[tuple[bytes, Attr]]:
        # The hot path of `find`: about 1.5 µs an entry, so attributes are made in place.
        created = self._record(node).created
        uid, gid = self._uid, self._gid
        for _, number, entry in self._trees.scan(self._directory(node), offset):
            if type(entry) is FileEntry:
                size = entry.size
                mode = _EXECUTABLE if entry.executable else _FILE
                blocks = (size + 511) >> 9
                yield (
                    entry.name.encode(),
                    Attr(node + number, mode, size, created, 1, uid, gid, FOREVER, FOREVER, created, created, blocks),
                )
            else:
                yield entry.name.encode(), self._entry_attr(node + number, entry, created)

    def _read_special(self, node: int) -> Iterator[tuple[bytes, Attr]]:
        if node == ROOT:
            names = set(self._catalog.names())
            if self._staging is not None:
                names.update(self._staging.names())
            yield CONTROL_DIRECTORY.encode(), self._control_attr("")
            for name in sorted(names):
                yield name.encode(), self._series_attr(name)
            return
        special = self._known(node)
        if special.kind == "artifact":
            if not self._exists(special.name):
                raise _fail(errno.ENOENT)
            series = self._catalog.series(special.name)
            if series is not None:
                for number in sorted(series.versions):
                    yield f"v{number}".encode(), self._version_attr(series.versions[number])
                for alias in sorted(series.aliases):
                    yield alias.encode(), self._alias_attr(special.name, alias, series.aliases[alias])
            if self._staging is not None:
                yield STAGING.encode(), self._staging_attr(special.name)
            return
        if special.kind != "control":
            raise _fail(errno.ENOTDIR)
        for name in self._explain.names(special.path):
            path = f"{special.path}/{name}" if special.path else name
            yield name.encode(), self._control_attr(path)

    def releasedir(self, fh: int) -> None:
        if fh & 1:
            self._need_staging().releasedir(fh)
        else:
            self._listings.pop(fh, None)

    # -- Tree: reading files ---------------------------------------------------------------------------------------

    def open(self, node: int, flags: int, caller: Caller) -> Opened:
        space = node >> SPACE_SHIFT
        if space in STAGING_SPACES:
            staging = self._need_staging()
            opened = staging.open(node, flags, caller)
            if (
                (witness := self._witness) is not None
                and flags & os.O_ACCMODE != os.O_WRONLY
                and not flags & os.O_TRUNC
            ):
                witness.opened_base(caller.pid, node, staging)
            return opened
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise _fail(errno.EROFS)
        if space == VERSION:
            found = self._found(node)
            if found is None or isinstance(found.entry, DirEntry):
                raise _fail(errno.EISDIR)
            if isinstance(found.entry, FileEntry):
                opened = self._reading.open_file(node, found, found.entry)
            elif isinstance(found.entry, RefEntry) and self._sources.readable(found.entry):
                opened = self._reading.open_reference(node, found.entry)
            else:
                raise _fail(errno.ELOOP)
            if (listener := self._listener) is not None:
                listener(node)
            if (witness := self._witness) is not None:
                witness.opened(caller.pid, node >> VERSION_SHIFT & VERSION_MASK)
            return opened
        special = self._known(node) if node != ROOT else None
        if special is None or special.kind != "control":
            raise _fail(errno.EISDIR)
        content = self._explain.content(special.path)
        if content is None:
            raise _fail(errno.EISDIR)
        return self._reading.open_content(content)

    def verified_backing(self, fh: int) -> str:
        return self._reading.verified_backing(fh)

    def ready(self, fh: int, offset: int, size: int) -> bool:
        if fh & 1:
            return self._need_staging().ready(fh, offset, size)
        return self._reading.ready(fh, offset, size)

    def read(self, fh: int, offset: int, size: int) -> Data:
        parts = [self._need_staging().read(fh, offset, size)] if fh & 1 else self._reading.read(fh, offset, size)
        with self._counters:
            self._reads += 1
            self._bytes += sum(map(len, parts))
        return parts

    def release(self, fh: int) -> None:
        if fh & 1:
            self._need_staging().release(fh)
        else:
            self._reading.release(fh)

    def flush(self, fh: int) -> None:
        if fh & 1:
            self._need_staging().flush(fh)

    def fsync(self, fh: int, datasync: bool) -> None:
        if fh & 1:
            self._need_staging().fsync(fh, datasync)

    def fsyncdir(self, node: int) -> None:
        if node >> SPACE_SHIFT in STAGING_SPACES:
            self._need_staging().fsyncdir(node)

    # -- Tree: writing: staging's, or refused ----------------------------------------------------------------------

    def _writable(self, *nodes: int) -> Staging:
        """Staging, when all nodes are its own; versions are read-only, and the rest is not made by hand."""
        spaces = {node >> SPACE_SHIFT for node in nodes}
        if spaces <= set(STAGING_SPACES):
            return self._need_staging()
        if VERSION in spaces or self._staging is None:
            raise _fail(errno.EROFS)
        if spaces & set(STAGING_SPACES):
            raise _fail(errno.EXDEV)
        raise _fail(errno.EPERM)

    def write(self, fh: int, offset: int, data: memoryview) -> int:
        if not fh & 1:
            raise _fail(errno.EBADF)
        return self._need_staging().write(fh, offset, data)

    def setattr(self, node: int, change: SetAttr, fh: int | None, caller: Caller) -> Attr:
        return self._writable(node).setattr(node, change, fh, caller)

    def create(self, parent: int, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Attr, Opened]:
        return self._writable(parent).create(parent, name, mode, flags, caller)

    def mknod(self, parent: int, name: bytes, mode: int, caller: Caller) -> Attr:
        return self._writable(parent).mknod(parent, name, mode, caller)

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Attr:
        if parent != ROOT or self._staging is None:
            return self._writable(parent).mkdir(parent, name, mode, caller)
        try:
            text = check_name(name.decode())
        except (UnicodeDecodeError, InvalidInput):
            raise _fail(errno.EINVAL) from None
        if self._exists(text):
            raise _fail(errno.EEXIST)
        self._staging.area(text, None)
        return self._series_attr(text)

    def rmdir(self, parent: int, name: bytes) -> None:
        if parent != ROOT or self._staging is None:
            self._writable(parent).rmdir(parent, name)
            return
        text = name.decode(errors="replace")
        if not self._exists(text):
            raise _fail(errno.ENOENT)
        if text in self._catalog.names():
            raise _fail(errno.EPERM)  # versions go by `artifactfs delete`, never by rm
        self._staging.drop(text)

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Attr:
        return self._writable(parent).symlink(parent, name, target, caller)

    def link(self, node: int, parent: int, name: bytes) -> Attr:
        if node >> SPACE_SHIFT not in STAGING_SPACES and parent >> SPACE_SHIFT in STAGING_SPACES:
            raise _fail(errno.EXDEV)
        return self._writable(node, parent).link(node, parent, name)

    def unlink(self, parent: int, name: bytes) -> None:
        self._writable(parent).unlink(parent, name)

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        self._writable(parent, new_parent).rename(parent, name, new_parent, new_name, flags)

    def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None:
        if not fh & 1:
            raise _fail(errno.EBADF)
        self._need_staging().fallocate(fh, mode, offset, length)

    def lseek(self, fh: int, offset: int, whence: int) -> int:
        if fh & 1:
            return self._need_staging().lseek(fh, offset, whence)
        size = self._reading.size(fh)
        if offset >= size:
            raise _fail(errno.ENXIO)
        return size if whence == os.SEEK_HOLE else offset  # a version's file has no holes

    # -- Tree: attributes of the vocabulary ------------------------------------------------------------------------

    def getxattr(self, node: int, name: bytes) -> bytes:
        if node >> SPACE_SHIFT in STAGING_SPACES:
            return self._need_staging().getxattr(node, name)
        if not name.startswith(PREFIX):
            raise _fail(errno.ENODATA)
        value = self._xattrs(node).get(name[len(PREFIX) :].decode(errors="replace"))
        if value is None:
            raise _fail(errno.ENODATA)
        return value

    def listxattr(self, node: int) -> list[bytes]:
        """Staging's own. Those of versions are had by name alone: `cp -a` and `rsync -X` would try to copy what is listed."""
        return self._need_staging().listxattr(node) if node >> SPACE_SHIFT in STAGING_SPACES else []

    def setxattr(self, node: int, name: bytes, value: bytes, flags: int) -> None:
        self._writable(node).setxattr(node, name, value, flags)

    def removexattr(self, node: int, name: bytes) -> None:
        self._writable(node).removexattr(node, name)

    def _xattrs(self, node: int) -> dict[str, bytes]:
        if node >> SPACE_SHIFT == VERSION:
            known = self._record(node)
            # Aliases, description and metadata may have changed since the record was read.
            series = self._catalog.series(known.artifact)
            record = series.versions.get(known.number, known) if series is not None else known
            values = of_version(record)
            found = self._found(node)
            if found is not None:
                values |= of_entry(self._repository, found.entry, self._reading.last_error(node))
            return values
        special = self._specials.get(node)
        if special is None or special.kind == "control":
            return {}
        names = {"artifact": special.name.encode()}
        if special.kind == "artifact":
            artifact = self._catalog.names().get(special.name)
            return names | ({"type": artifact.type.encode()} if artifact is not None else {})
        series = self._catalog.series(special.name)
        number = series.aliases.get(special.path) if series is not None else None
        target = series.versions.get(number) if series is not None and number is not None else None
        return of_version(target) if target is not None else names

    # -- Tree: the rest --------------------------------------------------------------------------------------------

    def statfs(self, node: int) -> StatFS:
        """The numbers of the disk that staging grows on, or else of the repository's or its cache's."""
        if self._staging is not None:
            return self._staging.statfs(node)
        numbers = os.statvfs(self._repository.disk)
        return StatFS(
            numbers.f_frsize, numbers.f_blocks, numbers.f_bfree, numbers.f_bavail, numbers.f_files, numbers.f_ffree
        )

    def forget(self, node: int, count: int) -> None:
        if node >> SPACE_SHIFT in STAGING_SPACES and self._staging is not None:
            self._staging.forget(node, count)
