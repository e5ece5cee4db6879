"""Checkup: verify and repair of a repository whose Store and Registry are at hand, in a directory or in the server's own process.

Used by the command line. One thread, and :class:`~artifactfs.health.examine.PackPass`'s. What a server's client checks, it checks
through its own read path (:mod:`artifactfs.upkeep`).

A whole verify reads each pack once, in order of its bytes, and then walks the trees of all versions for what no pack has. Of chosen
versions the walk comes first, and gathers :data:`WINDOW` chunks at a time that are then read in the order of packs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final, Protocol, TypeVar, cast

import msgspec

from artifactfs.content.cache import Cache
from artifactfs.content.pack import pack_key, read_table
from artifactfs.content.stored import opened
from artifactfs.directory import REGISTRY, SPOOL, STORE
from artifactfs.errors import ArtifactFSError, Conflict, Format, Integrity, InvalidInput, NoSpace, NotFound, Unavailable
from artifactfs.health import faults
from artifactfs.health.examine import PackPass
from artifactfs.health.faults import Faults
from artifactfs.health.hits import Hit, Walk
from artifactfs.health.mend import adopt, adopt_all, mend_pack, set_aside_wrong
from artifactfs.health.outside import parts_outside
from artifactfs.health.pace import Pace
from artifactfs.health.position import InFile, InNote, Kept, Position
from artifactfs.model.digest import CHUNKS, DATA, digest
from artifactfs.model.records import Location, VersionRecord
from artifactfs.model.tree import RefEntry
from artifactfs.placing import Ground, open_stores
from artifactfs.references.contract import list_of
from artifactfs.registry.contract import PackIndex
from artifactfs.registry.rescue import is_damaged, rescue
from artifactfs.registry.sealed import Keys
from artifactfs.registry.sql import SQLRegistry
from artifactfs.repository import SECONDS, Repository, is_url

WINDOW: Final = 50_000
"""Chunks of chosen versions that are gathered before they are read: some 20 MB of memory."""
ROUNDS: Final = 64
"""How often recovered nodes may show others that are lost: the depth of a tree, at most."""
NAMED: Final = 20
"""Sources of lost chunks that are named, of those that gave some, and of those that were no help."""
SILENT: Final = 3
"""How often a host that references name is waited for in vain before its other references are left alone."""


class Checked(msgspec.Struct):
    """What was looked at and found. ``bytes``: plain bytes of files, each chunk once; ``hits``: what cannot be read of versions.

    ``packs``: of the faults of packs, a line each; ``registry``: the damages of the database itself.
    """

    versions: int = 0
    files: int = 0
    packs: int = 0
    chunks: int = 0
    bytes: int = 0
    registry: list[str] = msgspec.field(default_factory=list)
    faults: list[str] = msgspec.field(default_factory=list)
    hits: list[Hit] = msgspec.field(default_factory=list)
    total: int = 0  # bytes of the packs to be read
    stored: int = 0  # of them so far

    @property
    def sound(self) -> bool:
        """Whether nothing was found."""
        return not (self.registry or self.faults or self.hits)


class Repaired(msgspec.Struct):
    """What was done, a line each, and what is still wrong.

    ``unused``: sources of References that should have had lost chunks and were no help, why, a line each.
    """

    done: list[str] = msgspec.field(default_factory=list)
    restored: int = 0  # chunks
    unused: list[str] = msgspec.field(default_factory=list)
    left: Checked = msgspec.field(default_factory=Checked)


Progress = Callable[[Checked], None]
Item = TypeVar("Item")


class Holder(Protocol):
    """Something that may have lost chunks."""

    name: str

    def chunk(self, name: bytes, kind: int) -> bytes | None:
        """Its verified bytes, or None."""


def index_of(repository: Repository) -> PackIndex:
    """The registry of a repository, as upkeep needs it. InvalidInput for a server's."""
    if is_url(repository.location):
        raise InvalidInput(
            f"{repository.location} is a server's; run this on its machine, with the directory that it serves: "
            "artifactfs --repository DIR verify"
        )
    return cast("PackIndex", repository.registry)


def require_key(index: PackIndex) -> None:
    """Access without the key of an encrypted project, which reading its packs takes: nothing is looked at, and nothing changed."""
    with suppress(Integrity):  # of a damaged registry: verify lists it
        index.check_key()


def position_file(repository: Repository) -> Path:
    """Where a full verify of a repository in a directory writes down how far it is."""
    return repository.disk / f"verify-{repository.project}.json"


def _position(repository: Repository, index: PackIndex) -> Kept:
    # A repository in a directory has its registry there; of a database nothing stays on this machine.
    if (repository.disk / REGISTRY).exists():
        return InFile(position_file(repository), repository.project)
    return InNote(index)


def all_versions(repository: Repository) -> Iterator[VersionRecord]:
    """Every living version of the project."""
    for artifact in repository.registry.artifacts():
        yield from repository.registry.versions(artifact.name)


def check_whole(
    repository: Repository,
    *,
    content: bool,
    resume: bool = False,
    pace: Pace,
    progress: Progress | None = None,
) -> Checked:
    """Look at the registry, every pack and, where it matters, every version.

    ``content``: read all packs, which ``resume`` goes on with where it was interrupted; else only sizes, tables and the index are
    compared, and versions are walked when something is wrong. An interruption leaves the position written down. Access without the key
    of an encrypted project.
    """
    index = index_of(repository)
    require_key(index)
    checked = Checked(registry=repository.registry.check())
    found = Faults()
    packs = _packs(index, checked)
    if content:
        _read_packs(repository, index, packs, found, checked, resume=resume, pace=pace, progress=progress)
    else:
        _look_at_packs(repository, index, packs, found, checked, pace=pace, progress=progress)
    checked.faults += [
        fault.reason for fault in found.all if fault.kind in {faults.MISSING, faults.SIZE, faults.TABLE, faults.ROW}
    ]
    if content or found.all or _roots_lost(repository, index, checked):
        _name(repository, index, found, checked, progress)
    if content:
        _position(repository, index).forget()
    return checked


def check_versions(
    repository: Repository, versions: Iterable[VersionRecord], *, pace: Pace, progress: Progress | None = None
) -> Checked:
    """Read all that these versions are made of. Access without the key of an encrypted project."""
    index = index_of(repository)
    require_key(index)
    chosen = list(versions)
    checked = Checked()
    found = Faults()
    window: dict[bytes, Location] = {}
    seen: set[bytes] = set()
    work = PackPass(repository.store, index, content=True, pace=pace)

    def read() -> None:
        for examined in work.check(window.items()):
            found.add(examined.faults)
            checked.chunks += examined.chunks
            checked.bytes += examined.plain
            checked.stored += examined.stored
        window.clear()
        if progress is not None:
            progress(checked)

    def gather(digests: Collection[bytes]) -> Mapping[bytes, str]:
        window.update(index.locate([name for name in digests if name not in seen]))
        if len(seen) > 20 * WINDOW:
            seen.clear()  # read twice rather than remembered without a bound
        seen.update(digests)
        if len(window) >= WINDOW:
            read()
        return {}

    try:
        walk = Walk(repository.trees, repository.reader, gather, list_of)
        for version in chosen:
            for _ in walk.version(version):
                pass
        read()
    finally:
        work.close()
    _name(repository, index, found, checked, progress, chosen)
    return checked


def _packs(index: PackIndex, checked: Checked) -> list[tuple[str, int]]:
    try:
        return index.packs()
    except Integrity as error:
        checked.registry = list(dict.fromkeys([*checked.registry, str(error)]))
        return []


def _look_at_packs(
    repository: Repository,
    index: PackIndex,
    packs: list[tuple[str, int]],
    found: Faults,
    checked: Checked,
    *,
    pace: Pace,
    progress: Progress | None,
) -> None:
    work = PackPass(repository.store, index, content=False, pace=pace)
    try:
        for examined in work.run(packs):
            found.add(examined.faults)
            checked.packs += 1
            if progress is not None:
                progress(checked)
    except Integrity as error:  # the index cannot be asked
        checked.registry = list(dict.fromkeys([*checked.registry, str(error)]))
    finally:
        work.close()


def _read_packs(
    repository: Repository,
    index: PackIndex,
    packs: list[tuple[str, int]],
    found: Faults,
    checked: Checked,
    *,
    resume: bool,
    pace: Pace,
    progress: Progress | None,
) -> None:
    kept = _position(repository, index)
    at = kept.load() if resume else Position(repository.project)
    found.add(at.faults)
    checked.packs, checked.chunks, checked.bytes = at.packs, at.chunks, at.bytes
    checked.total = sum(size for _, size in packs)
    checked.stored = sum(size for pack, size in packs if pack <= at.after)
    _save(kept, at)
    began = saved = time.monotonic()
    work = PackPass(repository.store, index, content=True, pace=pace)
    try:
        for examined in work.run((pack, size) for pack, size in packs if pack > at.after):
            found.add(examined.faults)
            checked.packs += 1
            checked.chunks += examined.chunks
            checked.bytes += examined.plain
            checked.stored += examined.stored
            at.after, at.packs, at.chunks, at.bytes = examined.pack, checked.packs, checked.chunks, checked.bytes
            at.faults = found.all
            if time.monotonic() - saved >= kept.seconds:
                _save(kept, at)
                saved = time.monotonic()
            if progress is not None:
                progress(checked)
        if time.monotonic() - began >= kept.seconds:
            _save(kept, at)  # what is left is the walk
    except Integrity as error:  # the index cannot be asked
        checked.registry = list(dict.fromkeys([*checked.registry, str(error)]))
    except BaseException:
        pace.stop()
        with suppress(ArtifactFSError):  # what it ends with is told, and a full disk has no room for this
            kept.save(at)
        raise
    finally:
        work.close()


def _save(kept: Kept, at: Position) -> None:
    """Write how far it is. A full disk has no room for that, and is to be verified nevertheless: it cannot be resumed then."""
    with suppress(NoSpace):
        kept.save(at)


def _roots_lost(repository: Repository, index: PackIndex, checked: Checked) -> bool:
    """Whether a version's root is in no pack: the walk then says which."""
    try:
        for version in all_versions(repository):
            checked.versions += 1
            if version.digest not in index.locate([version.digest]):
                return True
    except Integrity as error:
        checked.registry = list(dict.fromkeys([*checked.registry, str(error)]))
    return False


def _name(
    repository: Repository,
    index: PackIndex,
    found: Faults,
    checked: Checked,
    progress: Progress | None = None,
    versions: Iterable[VersionRecord] | None = None,
) -> Walk:
    """Walk versions, all unless some are given, for what cannot be read of them."""

    def judge(digests: Collection[bytes]) -> Mapping[bytes, str]:
        try:
            places = index.locate(digests)
        except Integrity as error:
            return dict.fromkeys(digests, str(error))
        reasons = ((name, found.reason(name, places.get(name))) for name in digests)
        return {name: reason for name, reason in reasons if reason is not None}

    walk = Walk(repository.trees, repository.reader, judge, list_of)

    def step() -> None:
        checked.files = walk.files
        if progress is not None:
            progress(checked)

    walk.step = step
    checked.versions = 0
    try:
        for version in all_versions(repository) if versions is None else versions:
            checked.versions += 1
            hits = walk.version(version)
            if hits and repository.registry.version(version.artifact, version.number) is None:
                continue  # it was deleted, and perhaps collected, since it was listed
            checked.hits += hits
    except Integrity as error:
        checked.registry = list(dict.fromkeys([*checked.registry, str(error)]))
    checked.files = walk.files
    return walk


# -- repair ------------------------------------------------------------------------------------------------------------


class CacheHolder:
    """This user's cache: chunks of servers' repositories, which may be copies of this one or the other way round."""

    name = "the cache"

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def chunk(self, name: bytes, kind: int) -> bytes | None:
        """Its verified bytes, or None."""
        held = self._cache.find((name,), kind).get(name)
        stored = None if held is None else self._cache.read(held)
        if held is None or stored is None:
            return None
        try:
            return opened(stored, Location("", held.offset, held.length, held.size, held.flags), name, kind)
        except ArtifactFSError:
            return None


class RepositoryHolder:
    """Another repository, of whatever kind."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self.name = repository.location

    def chunk(self, name: bytes, kind: int) -> bytes | None:
        """Its verified bytes, or None."""
        try:
            return self._repository.reader.chunk(name, kind)
        except Integrity:
            return None


def rescue_registry(place: Path, project: str, *, keys: Keys | None = None) -> list[str]:
    """Give a repository in a directory a new registry, if pages of it are damaged; what was done, a line each.

    Nobody may have it open, this process neither. ``keys`` has the keys of encrypted projects. Rows of chunks that were lost are found
    in the tables of contents of all packs that the registry names. Conflict, Integrity as
    :func:`~artifactfs.registry.rescue.rescue`; Access, before anything is changed, when one of these keys is not there.
    """
    path = place / REGISTRY
    if not path.is_file() or not is_damaged(path):
        return []
    with suppress(Integrity), closing(SQLRegistry(path, project=project, keys=keys)) as damaged:
        for name in damaged.projects():
            require_key(damaged.of_project(name))
    lost = rescue(path)
    done = [f"{REGISTRY} was made anew of all that could be read; the damaged one is beside it"]
    if lost:
        registry = SQLRegistry(path, project=project, keys=keys)
        stores = open_stores(registry, Ground(place / STORE, place / SPOOL, SECONDS))
        try:
            for name in registry.projects():
                index, store = registry.of_project(name), stores.of_project(name)
                packs = index.packs()
                for pack, _ in packs:
                    with suppress(NotFound, Integrity, Format):  # the pack's examination tells
                        index.add_packs([read_table(store, pack, index.data_key(pack))])
                done.append(f"the chunk index of project {name} was made anew from {len(packs)} packs")
        finally:
            stores.close()
            registry.close()
    return done


def repair(
    repository: Repository,
    reopen: Callable[[], Repository],
    holders: Collection[Holder],
    *,
    pace: Pace,
    progress: Progress | None = None,
) -> Repaired:
    """Mend packs and the index, and restore what was lost from whoever has it: other packs, ``holders``, the sources of References.

    ``reopen`` gives the repository anew, to see what is there rather than what is in memory; it is closed here. Before anything is
    changed: Conflict when the Store has none of the packs, Access without the key of an encrypted project.
    """
    index = index_of(repository)
    require_key(index)
    result = Repaired()
    if not index.packs() and next(all_versions(repository), None) is None:
        result.left.registry = repository.registry.check()
        return result  # also a project that is not there, which a Session would make
    _require_store(repository, index)
    damaged, sound = _damaged_packs(repository, index, pace, result, progress)
    # Under a Session, so that no collection deletes a pack that is written, or was found, before it is recorded.
    with repository.writing("repair"):
        for pack, size in damaged:
            mended = mend_pack(repository.store, index, pack, size, pace)
            if mended is not None:
                lost = f", {_number(mended.lost, 'is lost', 'are lost')}" if mended.lost else ""
                result.done.append(f"pack {pack}: {mended.done}{lost}")
    result.done += [
        f"pack {pack}: nothing names it and its bytes are wrong, so it was set aside"
        for pack in set_aside_wrong(repository.store, index, pace)
    ]
    restoring = _Restoring(holders, sound, pace, result)
    before: set[bytes] = set()
    for _ in range(ROUNDS):
        with reopen() as fresh:
            result.left = Checked(registry=fresh.registry.check())
            walk = _name(fresh, index_of(fresh), Faults(), result.left, progress)
            # Whatever cannot be read, whether its index row is there or not.
            if not walk.lost or walk.lost.keys() == before:
                break
            before = set(walk.lost)
            restored = restoring.restore(fresh, walk.lost, walk.outside)
        if not restored:
            break
        result.restored += restored
    return result


def _damaged_packs(
    repository: Repository, index: PackIndex, pace: Pace, result: Repaired, progress: Progress | None
) -> tuple[list[tuple[str, int]], set[str]]:
    """Read all packs, several at a time; those that something is wrong with, and sound ones of which the index lacks chunks."""
    packs = index.packs()
    sizes = dict(packs)
    damaged = []
    sound = set()
    work = PackPass(repository.store, index, content=True, pace=pace)
    try:
        for examined in work.run(packs):
            if any(fault.kind != faults.UNRECORDED for fault in examined.faults):
                damaged.append((examined.pack, sizes[examined.pack]))
            elif examined.faults and not examined.bad:
                sound.add(examined.pack)
            result.left.packs += 1
            result.left.stored += examined.stored
            if progress is not None:
                progress(result.left)
    except BaseException:
        pace.stop()
        raise
    finally:
        work.close()
    return damaged, sound


def _require_store(repository: Repository, index: PackIndex) -> None:
    packs = index.packs()
    for pack, _ in packs:
        with suppress(NotFound):
            repository.store.size(pack_key(pack))
            return
    if packs:
        where = "is its disk mounted" if repository.store.local else "are its packs in this bucket, below this prefix"
        raise Conflict(
            f"the store has none of the {len(packs)} packs of project {repository.project!r}: {where}? "
            "Nothing was changed; bring it back, or give the packs back from a backup, and repeat"
        )


class _Restoring:
    """Looks for chunks and nodes wherever they may be. ``sound``: packs with chunks that the index lacks, every one of them right."""

    def __init__(self, holders: Collection[Holder], sound: Collection[str], pace: Pace, result: Repaired) -> None:
        self._holders = holders
        self._sound = sound
        self._pace = pace
        self._result = result
        self._all_adopted = False
        self._refused: set[tuple[str, str | None]] = set()  # sources that were no help, by URI and checksum
        self._silent: dict[str, int] = {}  # how often hosts could not be reached

    def restore(self, repository: Repository, lost: Mapping[bytes, int], outside: Iterable[RefEntry]) -> int:
        """Returns how many of ``lost``, each with its kind, were found. ``outside``: References whose chunk lists are hit."""
        index = index_of(repository)
        there = self._adopt(repository, index, lost)
        wanted = {name: kind for name, kind in lost.items() if name not in there}
        if not wanted:
            return len(there)
        # Rows that lead to where it cannot be read would keep it from being stored.
        misplaced = index.locate(list(wanted))
        if misplaced:
            index.settle_packs([], lost=misplaced, without={place.pack for place in misplaced.values()})
        counts: dict[str, int] = {}
        with repository.writing("repair") as writing:
            for name, data, kind, source in self._found(repository, wanted, outside):
                writing.writer.add_chunk(name, data, kind)
                counts[source] = counts.get(source, 0) + 1
        lines = [
            f"{_number(count, 'lost chunk was', 'lost chunks were')} restored from {name}"
            for name, count in islice(counts.items(), NAMED)
        ]
        if len(counts) > NAMED:
            more = sum(islice(counts.values(), NAMED, None))
            words = _number(more, "lost chunk was", "lost chunks were")
            lines.append(f"{words} restored from {len(counts) - NAMED} more sources")
        self._result.done += lines
        return len(there) + sum(counts.values())

    def _adopt(self, repository: Repository, index: PackIndex, lost: Mapping[bytes, int]) -> set[bytes]:
        """Those of ``lost`` that are in a pack, which the index has from now on."""
        # Once all tables were taken in, only what lies elsewhere than the index says can still be found so.
        asked = {name: lost[name] for name in index.locate(list(lost))} if self._all_adopted else lost
        if not asked:
            return set()
        store = repository.store
        with repository.writing("repair"):
            there = adopt(store, index, asked, self._pace)
            count = len(there)
            if not self._all_adopted and any(lost[name] != DATA for name in there):
                # The index lost rows of nodes, so it may have lost those of what they lead to as well.
                count += adopt_all(store, index, self._pace, sound=self._sound)
                self._all_adopted = True
        if count:
            self._result.done.append(
                _number(
                    count,
                    "chunk that the index lacked was found in a pack",
                    "chunks that the index lacked were found in packs",
                )
            )
        return there

    def _found(
        self, repository: Repository, wanted: dict[bytes, int], outside: Iterable[RefEntry]
    ) -> Iterator[tuple[bytes, bytes, int, str]]:
        """Chunks that somebody has, with bytes, kind and who; one at a time. What was found is ``wanted`` no more."""
        for name, kind in list(wanted.items()):
            for holder in self._holders:
                data = holder.chunk(name, kind)
                if data is not None:
                    del wanted[name]
                    yield name, data, kind, holder.name
                    break
        lists = {name for name, kind in wanted.items() if kind == CHUNKS}
        for entry in {(entry.uri, entry.checksum): entry for entry in outside}.values():
            if not lists:
                break
            for node in self._from_source(entry, repository.references.nodes):
                name = digest(CHUNKS, node)
                if name in lists:
                    lists.discard(name)
                    del wanted[name]
                    yield name, node, CHUNKS, entry.uri
        chunks = {name for name, kind in wanted.items() if kind == DATA}
        if not chunks:
            return
        roots = (version.digest for version in all_versions(repository))
        for entry, parts in parts_outside(repository.trees, repository.reader, roots, chunks):
            for part, data in self._from_source(entry, partial(repository.references.parts, parts=parts)):
                if part.digest in chunks:
                    chunks.discard(part.digest)
                    del wanted[part.digest]
                    yield part.digest, data, DATA, entry.uri

    def _from_source(self, entry: RefEntry, read: Callable[[RefEntry], Iterable[Item]]) -> Iterator[Item]:
        """What ``read`` gives of a Reference's source. One that has changed, or cannot be had, is told and not asked again."""
        which = (entry.uri, entry.checksum)
        host = entry.uri.partition("://")[2].partition("/")[0]
        if which in self._refused or self._silent.get(host, 0) >= SILENT:
            return
        try:
            items = iter(read(entry))
            while True:
                try:
                    item = next(items)
                except StopIteration:
                    return
                yield item
        except ArtifactFSError as error:
            self._refused.add(which)
            if isinstance(error, Unavailable) and host:
                self._silent[host] = self._silent.get(host, 0) + 1
            if len(self._result.unused) < NAMED:
                self._result.unused.append(str(error))


def _number(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"
