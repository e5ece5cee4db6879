"""The messages between client and server, once for both: structs, encodings, headers, error codes, the protocol's version.

Used by ``remote/`` and ``server/``. Pure values, safe from any thread. A message is msgpack or JSON, as ``Content-Type`` says, of the
same struct; in JSON bytes are base64. The records of ``model/records.py`` travel as they are. Paths and what each takes and gives:
the server's OpenAPI document.

A message may gain fields with defaults without a new protocol version: unknown fields are ignored by both sides.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

from artifactfs import errors
from artifactfs.errors import ArtifactFSError, Format, InvalidInput
from artifactfs.model.access import TokenRecord
from artifactfs.model.collecting import Collected
from artifactfs.model.lineage import Link, RunRecord
from artifactfs.model.records import ArtifactRecord, Location, PackRow, VersionRecord
from artifactfs.model.retention import EVERY, NOTHING_MORE, Permissions, Protection, RetentionRule, Tombstone, Usage

PROTOCOL: Final = 2
"""What this release speaks. 2 added runs, lineage, tags, search and deletion."""
OLDEST_PROTOCOL: Final = 1
"""The oldest that a server still answers."""
OLDEST_SERVER: Final = 2
"""The oldest that a client takes of a server: one of protocol 1 would ignore what a commit says of tags and Runs, without a word."""

PROTOCOL_HEADER: Final = "ArtifactFS-Protocol"
"""In every request and every response: the number of the speaker's protocol. A response without it is not of an ArtifactFS server."""
REVISION_HEADER: Final = "ArtifactFS-Revision"
"""In every response below /v1/projects/NAME: the project's revision when the request had been carried out."""

MSGPACK: Final = "application/msgpack"
JSON: Final = "application/json"
BYTES: Final = "application/octet-stream"

MESSAGE_LIMIT: Final = 16 << 20
"""Bytes of a message at most, in both directions; batches are cut to fit: 100,000 digests are 3.4 MB."""
OBJECT_LIMIT: Final = 128 << 20
"""Bytes of an uploaded object at most. Packs close at 64 MiB, so the last chunk makes them 68 MiB at most."""
SIGNED: Final = 1000
"""URLs of one answer at most, some 600 bytes each."""
BATCH: Final = 50_000
"""Digests of one question at most, and rows of packs of one message."""
RECORDS: Final = 10_000
"""Versions or Runs of one answer at most, where there may be any number; the rest is asked for."""
POLL_SECONDS: Final = 50.0
"""The longest that a server lets a request for a revision wait: below the 60 s after which proxies usually give up."""

T = TypeVar("T")


class Failure(msgspec.Struct, frozen=True):
    """The body of every response that is an error. ``code`` is one of the codes of ``errors.py``."""

    code: str
    message: str


class TokenWanted(msgspec.Struct, frozen=True):
    """A token to make; ``seconds``: how long it lives, None: always."""

    role: str
    name: str = ""
    seconds: float | None = None
    all_projects: bool = False


class Tokens(msgspec.Struct, frozen=True):
    """Tokens, without their secrets, in the order they were made."""

    tokens: list[TokenRecord]


class Hello(msgspec.Struct, frozen=True):
    """What answers at an address: GET /v1."""

    service: str  # "artifactfs"
    version: str
    protocol: int
    oldest_protocol: int


class Revision(msgspec.Struct, frozen=True):
    """A project's revision."""

    revision: int


class Artifacts(msgspec.Struct, frozen=True):
    """All artifacts, sorted by name."""

    artifacts: list[ArtifactRecord]


class Versions(msgspec.Struct, frozen=True):
    """Living versions of an artifact, rising numbers; empty when it is not there."""

    versions: list[VersionRecord]


class Aliases(msgspec.Struct, frozen=True):
    """Aliases with the number each names."""

    aliases: dict[str, int]


class AliasNames(msgspec.Struct, frozen=True):
    """Aliases to move to a version, or to remove; ``protected``: also those that are, which an admin alone may say."""

    aliases: list[str]
    protected: bool = False


class Edit(msgspec.Struct, frozen=True):
    """What to replace of a version; None leaves as is."""

    description: str | None = None
    metadata: dict[str, Any] | None = None
    tags: list[str] | None = None
    add_tags: list[str] = []
    remove_tags: list[str] = []


class Found(msgspec.Struct, frozen=True):
    """Versions that a query asks for, in its order; at most RECORDS. ``more``: ask again with an offset behind them.

    ``revision`` is the project's before it was searched, so that parts of one result are told from parts of two.
    """

    versions: list[VersionRecord]
    revision: int
    more: bool = False


class Part(msgspec.Struct, frozen=True):
    """A tree to add to a draft."""

    draft: str
    digest: bytes
    session: int


class RunLife(msgspec.Struct, frozen=True):
    """For how long a Run counts as running."""

    seconds: float


class RunChange(msgspec.Struct, frozen=True):
    """What to replace of a Run; None leaves as is."""

    config: dict[str, Any] | None = None
    state: str | None = None
    exit_status: int | None = None


class Runs(msgspec.Struct, frozen=True):
    """Runs, the last started first; at most RECORDS. ``more``: ask again with an offset behind them."""

    runs: list[RunRecord]
    more: bool = False


class Inputs(msgspec.Struct, frozen=True):
    """Versions (VersionRecord.id) that a Run used; at most BATCH."""

    versions: list[int]


class LinksWanted(msgspec.Struct, frozen=True):
    """Versions and Runs whose links are asked for; at most BATCH together. The first ``after`` links are left out."""

    versions: list[int] = []
    runs: list[str] = []
    after: int = 0


class Lineage(msgspec.Struct, frozen=True):
    """Links, the oldest first, with what they name; of deleted versions the tombstones. ``more``: ask again with a later ``after``."""

    links: list[Link]
    runs: list[RunRecord]
    versions: list[VersionRecord]
    more: bool = False
    deleted: list[Tombstone] = []


class Deletion(msgspec.Struct, frozen=True):
    """Versions of an artifact to delete, all or none, at most BATCH; ``numbers`` None: all of them."""

    numbers: list[int] | None = None
    permissions: Permissions = NOTHING_MORE


class Tombstones(msgspec.Struct, frozen=True):
    """Deleted versions in the order they went. ``more``: ask again with an offset behind them."""

    tombstones: list[Tombstone]
    more: bool = False


class NewName(msgspec.Struct, frozen=True):
    """An artifact's name to be."""

    name: str


class FormerNames(msgspec.Struct, frozen=True):
    """Names that artifacts had, each with the one that they have now."""

    names: dict[str, str]


class Protections(msgspec.Struct, frozen=True):
    """All protected aliases, those of every artifact first."""

    protections: list[Protection]


class Rules(msgspec.Struct, frozen=True):
    """All retention rules, the one of every artifact first."""

    rules: list[RetentionRule]


class RuleOf(msgspec.Struct, frozen=True):
    """The artifact whose rule is meant; empty: the one of every artifact."""

    artifact: str = EVERY


class Held(msgspec.Struct, frozen=True):
    """Versions (VersionRecord.id) that a session keeps, each with what for; at most BATCH."""

    versions: list[tuple[int, str]]


class NotHeld(msgspec.Struct, frozen=True):
    """Versions (VersionRecord.id) that a session does not keep, as they were deleted and nobody kept them."""

    versions: list[int]


class QuotaWanted(msgspec.Struct, frozen=True):
    """What a project may take at most, in bytes, as in Usage; None: any number."""

    stored: int | None = None
    logical: int | None = None


class Digests(msgspec.Struct, frozen=True):
    """Digests of chunks, at most BATCH."""

    digests: list[bytes]


class PlacesWanted(msgspec.Struct, frozen=True):
    """Chunks, at most BATCH, whose places are asked for; ``urls``: with URLs of their packs, if the server has some."""

    digests: list[bytes]
    urls: bool = False


class Places(msgspec.Struct, frozen=True):
    """Where chunks are. ``places``: digest, index in ``packs``, offset, stored length, plain size, flags.

    ``keys``: data keys of ``packs``, empty ones of packs that are not sealed; of an unencrypted project there are none.
    ``urls``: where the packs can be read straight from an object store for the next ``seconds``, parallel to ``packs``, empty for one
    that cannot; none where nothing is signed. They are secrets.
    """

    packs: list[str]
    places: list[tuple[bytes, int, int, int, int, int]]
    keys: list[bytes] = []
    urls: list[str] = []
    seconds: float = 0.0

    def __repr__(self) -> str:
        return f"Places({len(self.places)} in {len(self.packs)} packs)"


class Keys(msgspec.Struct, frozen=True):
    """Keys of objects, at most SIGNED."""

    keys: list[str]


class SignedUrls(msgspec.Struct, frozen=True):
    """Where objects can be read for the next ``seconds``, in the order they were asked for, there or not. They are secrets."""

    urls: list[str]
    seconds: float


class NodesWanted(msgspec.Struct, frozen=True):
    """Nodes of Sequences (of directories and chunk lists), of which only those that the project holds come back.

    ``ahead``: bytes of nodes below them, nearest first, that may come along. Of chunk lists the places of all listed chunks come too,
    with ``urls`` as in :class:`PlacesWanted`.
    """

    digests: list[bytes]
    ahead: int = 0
    urls: bool = False


class PathWanted(msgspec.Struct, frozen=True):
    """All nodes from a directory's root along a path, as far as it exists; of a large file its chunk list too."""

    digest: bytes
    path: str
    urls: bool = False


class Node(msgspec.Struct, frozen=True):
    """One node: ``data`` as stored, ``size`` plain bytes; ``flags`` as in a Location, with the kind."""

    digest: bytes
    size: int
    flags: int
    data: bytes


class Nodes(msgspec.Struct, frozen=True):
    """Nodes, and the places of chunks that will be read next."""

    nodes: list[Node]
    places: Places


class NewPacks(msgspec.Struct, frozen=True):
    """Packs to record. They were uploaded before; each chunk is checked against its digest first."""

    packs: list[PackRow]
    session: int | None = None


class Packs(msgspec.Struct, frozen=True):
    """Every pack of a project: digest and size in bytes."""

    packs: list[tuple[str, int]]


class KeyId(msgspec.Struct, frozen=True):
    """Id of the key that wraps the data keys of a project's packs; empty: the project is not encrypted."""

    key_id: str


class NewSession(msgspec.Struct, frozen=True):
    """A session to open; ``seconds`` that it lives unless renewed."""

    kind: str
    seconds: float


class SessionLife(msgspec.Struct, frozen=True):
    """For how long a session is renewed."""

    seconds: float


class CollectionWanted(msgspec.Struct, frozen=True):
    """A collection of garbage to begin; ``wait``: seconds to wait for writers that began before something was condemned."""

    dry_run: bool = False
    wait: float = 0.0


class CollectionState(msgspec.Struct, frozen=True):
    """How a collection is: what it does now, or its report, or why it failed. Instants are seconds since the epoch."""

    running: bool
    started: float
    ended: float | None = None
    doing: str = ""
    report: Collected | None = None
    failure: Failure | None = None


class Session(msgspec.Struct, frozen=True):
    """A session's id. ``key_id``: as in KeyId, as who opens one will store something. Where the project has a quota, what it takes."""

    session: int
    key_id: str = ""
    usage: Usage | None = None


class Damages(msgspec.Struct, frozen=True):
    """Damages of the database, one line each."""

    damages: list[str]


class Objects(msgspec.Struct, frozen=True):
    """Objects of the store: key and size in bytes, sorted by key; at most BATCH. ``more``: ask again with ``after`` the last key."""

    objects: list[tuple[str, int]]
    more: bool = False


def encode(message: Any, media: str = MSGPACK) -> bytes:
    """A message as bytes of this media type."""
    return msgspec.json.encode(message) if media == JSON else msgspec.msgpack.encode(message)


def decode(data: bytes | memoryview, kind: type[T], media: str = MSGPACK) -> T:
    """A message of a type. Raises InvalidInput for anything else, and for a media type that is neither msgpack nor JSON."""
    name = media.partition(";")[0].strip().lower()
    try:
        if name == MSGPACK:
            return msgspec.msgpack.decode(data, type=kind)
        if name == JSON:
            return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"the message is not a valid {kind.__name__}: {error}") from error
    raise InvalidInput(f"cannot read a message of type {name or 'none'!r}; send {MSGPACK} or {JSON}")


def check_protocol(text: str | None, speaker: str, *, oldest: int) -> None:
    """Refuse a ``speaker`` (this client, the server at URL) whose protocol is below ``oldest``. Raises Format with what to upgrade."""
    try:
        number = int(text or "")
    except ValueError:
        raise Format(f"{speaker} does not speak the ArtifactFS protocol; is the address right?") from None
    if number < oldest:
        raise Format(f"{speaker} speaks protocol {number}, too old for this side ({oldest} to {PROTOCOL}); upgrade it")


def to_places(found: dict[bytes, Location]) -> Places:
    """Places by digest as a message: a pack's name, 64 bytes, comes once and not with each of its thousands of chunks."""
    packs: dict[str, int] = {}
    places = [
        (digest, packs.setdefault(place.pack, len(packs)), place.offset, place.length, place.size, place.flags)
        for digest, place in found.items()
    ]
    keys = {place.pack: place.key for place in found.values() if place.key}
    return Places(list(packs), places, [keys.get(pack, b"") for pack in packs] if keys else [])


def from_places(message: Places) -> dict[bytes, Location]:
    """Places by digest. Raises Format when the message contradicts itself."""
    packs = message.packs
    keys = message.keys or [b""] * len(packs)
    if len(keys) != len(packs):
        raise Format("the server does not name a key for each pack; upgrade it")
    try:
        return {
            digest: Location(packs[pack], offset, length, size, flags, keys[pack])
            for digest, pack, offset, length, size, flags in message.places
        }
    except IndexError as error:
        raise Format("the server names a pack that it does not list; upgrade it") from error


def _subclasses() -> dict[str, type[ArtifactFSError]]:
    return {
        kind.code: kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, ArtifactFSError)
    }


_KINDS: Final = _subclasses()


def to_failure(error: ArtifactFSError) -> Failure:
    """An error as the body of a response."""
    return Failure(error.code, str(error))


def from_failure(failure: Failure) -> ArtifactFSError:
    """The error that a server reported; of an unknown kind it is the base."""
    return _KINDS.get(failure.code, ArtifactFSError)(failure.message)
