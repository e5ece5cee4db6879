"""RemoteRegistry: the Registry contract over HTTP, with what is known while the server cannot be reached.

Used by the Repository. Any thread; :meth:`RemoteRegistry.changed` by one at a time.

*Followed*: while somebody calls :meth:`RemoteRegistry.changed` again and again, the project's revision is known without asking, and
what was answered at this revision is not asked for again. Otherwise every question is a request. When the server cannot be reached,
what was answered last takes its place (``online`` tells so); writing, searching, Runs, lineage, and what was never asked, is
Unavailable. Bounds: as in ``client.py``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Final, TypeVar

from msgspec.structs import replace

from artifactfs.errors import Access, ArtifactFSError, InvalidInput, NotFound, Unavailable
from artifactfs.model.digest import DIGEST_SIZE
from artifactfs.model.lineage import Link, Links, NewRun, RunRecord
from artifactfs.model.names import check_alias, check_config, check_metadata, check_name, check_run, is_run
from artifactfs.model.query import Query
from artifactfs.model.records import ArtifactRecord, CommitRequest, CommitResult, Location, PackRow, VersionRecord
from artifactfs.model.retention import Begun, Tombstone
from artifactfs.remote import wire
from artifactfs.remote.answers import Answer, Answers, Memory
from artifactfs.remote.client import Connection, Reply, query, segment
from artifactfs.remote.direct import Direct
from artifactfs.remote.retention import RemoteRetention
from artifactfs.remote.tokens import RemoteTokens

FOLLOWED_SECONDS: Final = 15.0
"""How long after the last :meth:`RemoteRegistry.changed` the revision still counts as followed: longer than who calls it pauses
after a failure."""
PAUSE_SECONDS: Final = 0.2
"""Between two polls of which the first ended early without news: a server that stops ends them all."""
CHECK_SECONDS: Final = 600.0
"""A check of the database reads all of it."""
PACK_SECONDS: Final = 30.0
"""Added for each pack that is to be recorded: the server reads it whole, and a slow disk takes that long for 64 MiB."""
SEARCHES: Final = 3
"""How often a result of several answers is asked for, when the project changes in between, before it is taken as it came."""
LARGEST: Final = 2**63 - 1
"""The largest number that a registry holds."""

T = TypeVar("T")
W = TypeVar("W")


class RemoteRegistry:
    """One project of the registry behind a server. ``memory`` keeps its answers for the time without a network.

    ``direct`` takes the URLs that come with places.
    """

    def __init__(
        self, connection: Connection, *, project: str, memory: Memory | None, direct: Direct | None = None
    ) -> None:
        self._connection = connection
        self._direct = direct
        self._name = check_name(project)
        self._base = f"/v1/projects/{segment(project)}/"
        self._answers = Answers(memory, f"{connection.url}{self._base}")
        self._lock = threading.Lock()  # guards what follows
        self._key_id: str | None = None
        self._known: int | None = None  # the revision, as last heard
        self._polls = 0  # under way
        self._polled = -FOLLOWED_SECONDS  # when the last one ended

    @property
    def project(self) -> str:
        """Name of the project that all calls are bounded by."""
        return self._name

    @property
    def online(self) -> bool:
        """Whether the server answered when last asked."""
        return self._connection.online

    @property
    def tokens(self) -> RemoteTokens:
        """Tokens that an admin may see and make here."""
        return RemoteTokens(self._connection, self._base)

    def close(self) -> None:
        """Close the connection, which is the whole repository's. Idempotent. Ends a :meth:`changed` that waits."""
        self._connection.close()

    # -- the revision ----------------------------------------------------------------------------------------------

    def revision(self) -> int:
        """The project's revision: as last heard while it is followed, else asked for."""
        known = self._known
        if known is not None and self._followed():
            return known
        found = self._ask("revision", wire.Revision)
        known = self._known  # heard just now, or before it could not be reached
        if known is not None:
            return known
        return found.revision if found is not None else 0

    def changed(self, after: int, *, seconds: float) -> int:
        """Wait until the revision is another than ``after``, at most ``seconds``; returns the present one.

        Unavailable at once when the server cannot be reached; asked again, it tries again. Closed meanwhile, it returns what is known.
        """
        deadline = time.monotonic() + seconds
        known = self._known
        with self._lock:
            self._polls += 1
        try:
            while known is None or known == after or seconds <= 0:
                left = max(0.0, min(deadline - time.monotonic(), wire.POLL_SECONDS))
                began = time.monotonic()
                known = self._poll(after, left)
                if known != after or time.monotonic() >= deadline:
                    break
                if time.monotonic() - began < left / 2:
                    time.sleep(min(PAUSE_SECONDS, left))
            return known
        except Unavailable:
            if self._connection.closed:
                return self._known if self._known is not None else after
            raise
        finally:
            with self._lock:
                self._polls -= 1
                self._polled = time.monotonic()

    def _poll(self, after: int, seconds: float) -> int:
        before = self._known
        wait = query(after=after, seconds=f"{seconds:.3f}") if seconds > 0 else ""
        reply = self._connection.ask(
            "GET",
            f"{self._base}revision{wait}",
            seconds=seconds + self._connection.seconds,
            answer=seconds + self._connection.silence,
            probe=True,
        )
        present = self._connection.read(reply, wire.Revision).revision
        self._hear(present, before)
        found = wire.Revision(present)
        held = self._answers.held("revision")
        # Also when another answer told of it already: a mount without a network begins with what is remembered here.
        if held is None or held.value != found:
            self._answers.keep("revision", Answer(found, wire.encode(found), revision=present, heard=present))
        return present

    def _followed(self) -> bool:
        return self._polls > 0 or time.monotonic() - self._polled < FOLLOWED_SECONDS

    def _hear(self, present: int | None, before: int | None) -> None:
        """The revision that an answer bore; ``before``: what was known when it was asked for.

        Answers overtake each other, so a lower number is old news. Only one lower than what was known before it was asked for says
        that the server was put back to an earlier state.
        """
        if present is None:
            return
        with self._lock:
            back = before is not None and present < before
            if back or self._known is None or present > self._known:
                self._known = present
        if back:
            self._answers.outdate()

    # -- reading ---------------------------------------------------------------------------------------------------

    def artifacts(self) -> list[ArtifactRecord]:
        """All artifacts that have a living version, sorted by name."""
        found = self._read("artifacts", wire.Artifacts)
        return list(found.artifacts) if found is not None else []

    def artifact(self, name: str) -> ArtifactRecord | None:
        """One artifact, or None when it is not there."""
        if not _may_be(check_name, name):
            return None

        def pick(whole: wire.Artifacts) -> ArtifactRecord | None:
            return next((record for record in whole.artifacts if record.name == name), None)

        return self._read(f"artifacts/{segment(name)}", ArtifactRecord, "artifacts", wire.Artifacts, pick)

    def versions(self, name: str) -> list[VersionRecord]:
        """Living versions of an artifact, rising numbers; empty when the artifact is not there."""
        if not _may_be(check_name, name):
            return []
        found = self._read(_versions_of(name), wire.Versions)
        return list(found.versions) if found is not None else []

    def version(self, name: str, number: int) -> VersionRecord | None:
        """One living version, or None."""
        if not 0 <= number <= LARGEST:
            return None
        return self._one(name, f"versions/{number}", lambda record: record.number == number)

    def resolve(self, name: str, alias: str) -> VersionRecord | None:
        """The version that an alias names, or None."""
        if not _may_be(check_alias, alias):
            return None
        return self._one(name, f"aliases/{segment(alias)}", lambda record: alias in record.aliases)

    def find_digest(self, name: str, digest: bytes) -> VersionRecord | None:
        """The living version of an artifact whose root digest is this, or None."""
        if len(digest) != DIGEST_SIZE:
            return None
        return self._one(name, f"digests/{digest.hex()}", lambda record: record.digest == digest)

    def aliases(self, name: str) -> dict[str, int]:
        """Aliases of an artifact with the number each names."""
        if not _may_be(check_name, name):
            return {}

        def pick(whole: wire.Versions) -> wire.Aliases:
            return wire.Aliases({alias: record.number for record in whole.versions for alias in record.aliases})

        found = self._read(f"artifacts/{segment(name)}/aliases", wire.Aliases, _versions_of(name), wire.Versions, pick)
        return dict(sorted(found.aliases.items())) if found is not None else {}

    def find(self, query: Query) -> list[VersionRecord]:
        """Living versions of the project that match, in the order asked for. InvalidInput says what is wrong with a condition.

        More than 10,000 come in several answers, and are asked for anew when the project changed in between. If it does so each time,
        some may be missing.
        """
        found: list[VersionRecord] = []
        for _ in range(SEARCHES):
            found, whole = self._search(query)
            if whole:
                break
        return found

    def _search(self, query: Query) -> tuple[list[VersionRecord], bool]:
        """What is found, each version once, and whether all of it was so at one revision."""
        found: dict[int, VersionRecord] = {}
        revisions: set[int | None] = set()
        count = 0
        while True:
            rest = replace(query, offset=query.offset + count, limit=query.limit and query.limit - count)
            reply = self._tell("POST", "find", rest)
            answer = self._connection.read(reply, wire.Found)
            found.update((record.id, record) for record in answer.versions)
            revisions.add(answer.revision)
            if not (answer.more and answer.versions):
                # One answer is of one moment; several are when nothing changed from before the first until after the last.
                return list(found.values()), count == 0 or revisions == {reply.revision}
            count += len(answer.versions)

    def _one(self, name: str, path: str, wanted: Callable[[VersionRecord], bool]) -> VersionRecord | None:
        if not _may_be(check_name, name):
            return None

        def pick(whole: wire.Versions) -> VersionRecord | None:
            return next(filter(wanted, whole.versions), None)

        return self._read(f"artifacts/{segment(name)}/{path}", VersionRecord, _versions_of(name), wire.Versions, pick)

    def _read(
        self,
        path: str,
        kind: type[T],
        within: str = "",
        whole: type[W] | None = None,
        pick: Callable[[W], T | None] | None = None,
    ) -> T | None:
        """The answer to a question, None for absence. ``pick`` takes it from the answer to the question ``within``."""
        known = self._known
        if known is not None and self._followed():
            held = self._answers.valid(path, kind, known)
            if held is not None:
                return held.value
            around = self._answers.valid(within, whole, known) if whole is not None else None
            if around is not None:
                return None if around.value is None or pick is None else pick(around.value)
        return self._ask(path, kind, within, whole, pick)

    def _ask(
        self,
        path: str,
        kind: type[T],
        within: str = "",
        whole: type[W] | None = None,
        pick: Callable[[W], T | None] | None = None,
    ) -> T | None:
        deadline = time.monotonic() + self._connection.seconds
        try:
            return self._fetch(path, kind, self._connection.seconds, hasty=True)
        except ArtifactFSError as error:
            # Whose token has ended reads on in a mount what is known here; anybody else is told.
            if self._connection.online or (isinstance(error, Access) and not self._followed()):
                raise
            last = self._answers.last(path, kind)
            found = last.value if last is not None else None
            other = self._answers.last(within, whole) if whole is not None else None
            if other is not None and other.value is not None and pick is not None:
                picked = pick(other.value)
                if picked is not None and (last is None or last.heard <= other.heard):
                    found = picked
            if found is not None:
                return found
            left = deadline - time.monotonic()
            if left <= 0 or not isinstance(error, Unavailable):
                raise
        # Nobody else can tell: the server is waited for, in case it is only being restarted.
        return self._fetch(path, kind, left, hasty=False)

    def _fetch(self, path: str, kind: type[T], seconds: float, *, hasty: bool) -> T | None:
        # The answer is as new as what was known when it was asked for, at least.
        before = self._known
        value: T | None = None
        body = b""
        revision: int | None = None
        try:
            reply = self._connection.ask("GET", self._base + path, seconds=seconds, hasty=hasty)
        except NotFound:
            pass
        else:
            value = self._connection.read(reply, kind)
            body = reply.body if reply.media == wire.MSGPACK else wire.encode(value)
            revision = reply.revision
            self._hear(revision, before)
        self._answers.keep(path, Answer(value, body, revision=before, heard=revision or before or 0))
        return value

    # -- chunk index -----------------------------------------------------------------------------------------------

    def missing(self, digests: Collection[bytes]) -> set[bytes]:
        """Those of these chunks (any number) that the project does not hold."""
        found: set[bytes] = set()
        for batch in _batches(digests):
            found.update(self._call(wire.Digests, "POST", "chunks/missing", wire.Digests(batch)).digests)
        return found

    def locate(self, digests: Collection[bytes]) -> dict[bytes, Location]:
        """Where these chunks (any number) are; unknown ones are left out."""
        found: dict[bytes, Location] = {}
        for batch in _batches(digests):
            wanted = wire.PlacesWanted(batch, self._direct is not None and self._direct.wanted)
            places = self._call(wire.Places, "POST", "chunks/locate", wanted)
            if self._direct is not None:
                self._direct.learn(places)
            found.update(wire.from_places(places))
        return found

    def key_id(self) -> str:
        """Id of the key of the project; empty: it is not encrypted. Asked for once, and told anew by each session that is opened."""
        known = self._key_id
        if known is None:
            known = self._key_id = self._call(wire.KeyId, "GET", "key").key_id
        return known

    def add_packs(self, packs: Iterable[PackRow], *, session: int | None = None) -> None:
        """Record packs that are durable in the Store. The server reads and checks them first.

        All or none, unless there are more than fit into a message (50,000 chunks): then all or none of each message's.
        """
        for batch in _pack_batches(packs):
            seconds = self._connection.seconds + PACK_SECONDS * len(batch)
            self._tell("POST", "packs", wire.NewPacks(batch, session), seconds=seconds)

    def expect_pack(self, digest: str, size: int) -> None:
        """Nothing: the server says it to itself when it is sent a pack."""

    def packs(self) -> list[tuple[str, int]]:
        """Every pack of the project: digest and size in bytes."""
        return self._call(wire.Packs, "GET", "packs").packs

    # -- commit ----------------------------------------------------------------------------------------------------

    def commit(self, request: CommitRequest) -> CommitResult:
        """Make, or reuse, a version, durable on return. Repeated by itself when the reply is lost: its id makes it one commit."""
        return self._call(CommitResult, "POST", "commits", replace(request, metadata=_checked(request.metadata)))

    @property
    def retention(self) -> RemoteRetention:
        """What may be deleted, what was, and how much there may be."""
        return RemoteRetention(self._call, self._tell, self._connection.read)

    def move_aliases(self, name: str, number: int, aliases: Sequence[str], *, protected: bool = False) -> VersionRecord:
        """Point aliases at a version. `latest` too, when asked. NotFound without such a version, Conflict for protected ones."""
        message = wire.AliasNames(list(aliases), protected)
        return self._call(VersionRecord, "POST", f"{self._version_path(name, number)}/aliases", message)

    def remove_aliases(self, name: str, aliases: Sequence[str], *, protected: bool = False) -> None:
        """Remove aliases, all or none. NotFound names those that are not there; `latest` cannot be removed (Conflict)."""
        message = wire.AliasNames(list(aliases), protected)
        path = f"artifacts/{segment(check_name(name))}/aliases"
        try:
            self._tell("POST", f"{path}/remove", message, once=True)
        except Unavailable:
            # Sent again after a lost reply it would not find them. What is there tells whether they were removed.
            present = self._call(wire.Aliases, "GET", path).aliases
            if not present.keys().isdisjoint(aliases):
                self._tell("POST", f"{path}/remove", message)

    def edit(
        self,
        name: str,
        number: int,
        *,
        description: str | None = None,
        metadata: dict[str, Any] | None = None,
        tags: Sequence[str] | None = None,
        add_tags: Sequence[str] = (),
        remove_tags: Sequence[str] = (),
    ) -> VersionRecord:
        """Replace description, metadata or tags of a version (None leaves as is), or add and remove tags. NotFound without it."""
        new = wire.Edit(
            description, _checked(metadata), None if tags is None else list(tags), list(add_tags), list(remove_tags)
        )
        return self._call(VersionRecord, "PATCH", self._version_path(name, number), new)

    def delete(self, name: str, number: int, *, delete_aliases: bool = False) -> None:
        """Delete a version. Conflict names its aliases other than `latest`, unless they may go too. NotFound without it."""
        path = self._version_path(name, number)
        target = path + (query(delete_aliases="true") if delete_aliases else "")
        seconds = self._connection.seconds
        try:
            self._tell("DELETE", target, seconds=seconds, once=True)
        except Unavailable:
            # Sent again after a lost reply it would not find it. Whether it is there tells whether it was deleted.
            with suppress(NotFound):
                self._tell("GET", path)
                self._tell("DELETE", target, seconds=seconds)

    def _version_path(self, name: str, number: int) -> str:
        if not 0 <= number <= LARGEST:
            raise NotFound(f"there is no {check_name(name)}:v{number}; `artifactfs log {name}` lists what is there")
        return f"artifacts/{segment(check_name(name))}/versions/{number}"

    # -- drafts that several processes fill ------------------------------------------------------------------------

    def add_part(self, name: str, draft: str, digest: bytes, *, session: int) -> None:
        """Record a tree as a part of a draft of an artifact; ``session`` protects what it holds. Idempotent."""
        self._tell("POST", f"artifacts/{segment(check_name(name))}/parts", wire.Part(draft, digest, session))

    def parts(self, name: str, draft: str) -> list[bytes]:
        """Trees that were added to a draft, in order of digest; empty when nothing was, or it was committed."""
        if not (_may_be(check_name, name) and _is_text(draft)):
            return []
        path = f"artifacts/{segment(name)}/parts{query(draft=draft)}"
        return self._call(wire.Digests, "GET", path).digests

    # -- runs and lineage ------------------------------------------------------------------------------------------

    def start_run(self, new: NewRun) -> RunRecord:
        """Start a Run, or take up the one with this id again: it runs then, and keeps what it had. InvalidInput for what is none."""
        return self._call(RunRecord, "POST", "runs", replace(new, config=check_config(new.config)))

    def renew_run(self, run: str, *, seconds: float) -> None:
        """Say that a Run still runs, for so long. Of one that ended nothing changes. NotFound without such a Run."""
        self._tell("PUT", f"{_run_path(run)}/life", wire.RunLife(seconds))

    def update_run(
        self,
        run: str,
        *,
        config: dict[str, Any] | None = None,
        state: str | None = None,
        exit_status: int | None = None,
    ) -> RunRecord:
        """Replace a Run's configuration, or end it (state finished or failed). None leaves as is. NotFound without such a Run."""
        checked = None if config is None else check_config(config)
        return self._call(RunRecord, "PATCH", _run_path(run), wire.RunChange(checked, state, exit_status))

    def run(self, run: str) -> RunRecord | None:
        """One Run, or None."""
        if not is_run(run):
            return None
        try:
            return self._call(RunRecord, "GET", _run_path(run))
        except NotFound:
            return None

    def runs(
        self,
        *,
        job_type: str | None = None,
        state: str | None = None,
        name: str | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[RunRecord]:
        """Runs, the last started first. More than 10,000 come in several answers; one that starts meanwhile may be missing."""
        asked = {"job_type": job_type, "state": state, "name": name}
        kept = {key: text for key, text in asked.items() if text is not None}
        if not (_is_text(job_type or "") and _is_text(name or "")):
            return []
        found: dict[str, RunRecord] = {}
        count = 0
        while True:
            bounds = {"offset": offset + count} | ({} if limit is None else {"limit": limit - count})
            answer = self._call(wire.Runs, "GET", f"runs{query(**kept, **bounds)}")
            # One that started since the last answer has moved all others by one.
            found.update((record.id, record) for record in answer.runs)
            if not (answer.more and answer.runs):
                return list(found.values())
            count += len(answer.runs)

    def add_inputs(self, run: str, versions: Collection[int]) -> None:
        """Record that a Run, running or ended, used these versions (VersionRecord.id). Idempotent. NotFound without it or one of them.

        All or none, unless there are more than fit into a message (50,000): then all or none of each message's.
        """
        path = f"{_run_path(run)}/inputs"
        if unknown := [identity for identity in versions if not _may_be_id(identity)]:
            raise NotFound(
                f"there is no version with the id {unknown[0]} in this project; use the id of a version's record"
            )
        for batch in _batches(versions) if versions else ([],):
            self._tell("POST", path, wire.Inputs(batch))

    def links(self, *, versions: Collection[int] = (), runs: Collection[str] = ()) -> Links:
        """All links of these versions and of these Runs, with the Runs and versions at both ends. Unknown ones have none.

        Any number of each; what does not fit into one answer comes in several.
        """
        links: dict[tuple[str, int, bool], Link] = {}
        named_runs: dict[str, RunRecord] = {}
        named_versions: dict[int, VersionRecord] = {}
        deleted: dict[int, Tombstone] = {}
        for question in _links_wanted(list(filter(_may_be_id, versions)), list(filter(is_run, runs))):
            count = 0
            more = True
            while more:
                answer = self._call(wire.Lineage, "POST", "links", replace(question, after=count))
                links.update(((link.run, link.version, link.output), link) for link in answer.links)
                named_runs.update((record.id, record) for record in answer.runs)
                named_versions.update((record.id, record) for record in answer.versions)
                deleted.update((record.id, record) for record in answer.deleted)
                count += len(answer.links)
                more = answer.more and bool(answer.links)
        ordered = sorted(links.values(), key=lambda link: (link.at, link.run, link.version, link.output))
        ids = list(dict.fromkeys(link.version for link in ordered))
        return Links(
            ordered,
            [named_runs[name] for name in dict.fromkeys(link.run for link in ordered) if name in named_runs],
            [named_versions[one] for one in ids if one in named_versions],
            [deleted[one] for one in ids if one in deleted],
        )

    # -- sessions --------------------------------------------------------------------------------------------------

    def open_session(self, kind: str, *, seconds: float) -> int:
        """Register a writer or reader that lives for ``seconds`` unless renewed; returns its id."""
        return self.begin(kind, seconds=seconds).session

    def begin(self, kind: str, *, seconds: float) -> Begun:
        """As :meth:`open_session`, and what the project takes, where it may not take any number of bytes."""
        found = self._call(wire.Session, "POST", "sessions", wire.NewSession(kind, seconds))
        self._key_id = found.key_id
        return Begun(found.session, found.usage)

    def renew_session(self, session: int, *, seconds: float) -> None:
        """Prolong a session. Conflict when it has expired or was closed."""
        self._tell("PUT", f"sessions/{session}", wire.SessionLife(seconds))

    def close_session(self, session: int) -> None:
        """End a session. Idempotent."""
        self._tell("DELETE", f"sessions/{session}")

    # -- upkeep ----------------------------------------------------------------------------------------------------

    def start_collection(self, *, dry_run: bool, wait: float) -> wire.CollectionState:
        """Have the server collect garbage, or find out what it would. Conflict while it does."""
        asked = wire.CollectionWanted(dry_run, wait)
        return self._call(wire.CollectionState, "POST", "collection", asked)

    def collection_state(self) -> wire.CollectionState:
        """How the last collection is going, or how it ended."""
        return self._call(wire.CollectionState, "GET", "collection")

    # -- health ----------------------------------------------------------------------------------------------------

    def check(self) -> list[str]:
        """Damages of the database itself, one line each; empty when it is whole. Takes 600 s at most."""
        return self._call(wire.Damages, "GET", "check", seconds=CHECK_SECONDS).damages

    # -- requests --------------------------------------------------------------------------------------------------

    def _call(self, kind: type[T], method: str, path: str, message: Any = None, *, seconds: float | None = None) -> T:
        return self._connection.read(self._tell(method, path, message, seconds=seconds), kind)

    def _tell(
        self, method: str, path: str, message: Any = None, *, seconds: float | None = None, once: bool = False
    ) -> Reply:
        before = self._known
        reply = self._connection.ask(method, self._base + path, message, seconds=seconds, answer=seconds, once=once)
        self._hear(reply.revision, before)
        return reply


def _may_be(check: Callable[[str], str], text: str) -> bool:
    """Whether text keeps the grammar; what does not is nowhere, and has no place in a URL."""
    try:
        check(text)
    except (InvalidInput, UnicodeError):
        return False
    return True


def _checked(metadata: dict[str, Any] | None) -> dict[str, Any] | None:
    """Metadata as a registry keeps it. What JSON cannot hold is refused here, where a message would change it: a set into a list."""
    return None if metadata is None else check_metadata(metadata)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _may_be_id(identity: int) -> bool:
    return 0 < identity <= LARGEST


def _run_path(run: str) -> str:
    return f"runs/{check_run(run)}"


def _versions_of(name: str) -> str:
    return f"artifacts/{segment(name)}/versions"


def _batches(items: Collection[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, wire.BATCH)):
        yield batch


def _links_wanted(versions: list[int], runs: list[str]) -> Iterator[wire.LinksWanted]:
    if len(versions) + len(runs) > wire.BATCH:
        yield from (wire.LinksWanted(versions=batch) for batch in _batches(versions))
        yield from (wire.LinksWanted(runs=batch) for batch in _batches(runs))
    elif versions or runs:
        yield wire.LinksWanted(versions, runs)


def _pack_batches(packs: Iterable[PackRow]) -> Iterator[list[PackRow]]:
    batch: list[PackRow] = []
    rows = 0
    for pack in packs:
        if batch and rows + len(pack.chunks) > wire.BATCH:
            yield batch
            batch, rows = [], 0
        batch.append(pack)
        rows += len(pack.chunks)
    if batch:
        yield batch
