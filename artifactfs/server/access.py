"""Access: who asks, and whether they may.

Used before every operation that is not open (``document.py`` sees to it). On the event loop's thread; tokens are looked up on a
reading thread, and kept for KEPT_SECONDS, which is how long a revoked one may go on beginning requests through another server.

Whoever has no good token learns nothing (401), whoever asks for another project than their token's learns that it is not theirs (404),
in the same words whether or not it is there. Of a token nothing is logged or said but its id, and this to its holder alone.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Collection
from typing import Final, NamedTuple

from starlette.requests import Request

from artifactfs import errors
from artifactfs.model.access import ADMIN, ALL_PROJECTS, TokenRecord, allows, split
from artifactfs.registry.tokens import Kept, TokenTable, proves
from artifactfs.server.failures import Refusal
from artifactfs.server.threads import Threads

KEPT_SECONDS: Final = 5.0
"""How long what was looked up is taken for true: a token, and that there are none."""
KNOWN: Final = 10_000
"""Tokens that are kept: 1 KB each."""

_CHALLENGE: Final = 'Bearer realm="artifactfs"'
_HINT: Final = "give one by ARTIFACTFS_TOKEN_FILE, or ask an admin for it"


class Holder(NamedTuple):
    """Who asks, as far as it matters. ``token`` is None where nobody is asked."""

    role: str
    project: str  # empty: all
    token: TokenRecord | None = None

    def sees(self, project: str) -> bool:
        """Whether a project is theirs."""
        return self.project in {ALL_PROJECTS, project}


def asker(request: Request) -> str:
    """Who asks, in words that are kept with what they change: their token, or where nobody is asked the address they came from."""
    holder: Holder = request.state.holder
    if holder.token is not None:
        name = f" ({holder.token.name})" if holder.token.name else ""
        return f"token {holder.token.id}{name}"[:255]
    return f"client {request.client.host}" if request.client is not None else "client"


ANYBODY: Final = Holder(ADMIN, ALL_PROJECTS)


class Access:
    """Who may come in. ``required``: a token is asked for also before one was ever made.

    ``hosts``: where no token is asked for, the names by which requests may call the server, besides literal addresses of this machine;
    None: any. A page of the web that has its own name lead to this machine could ask it otherwise, with a person's browser.
    """

    def __init__(
        self, tokens: TokenTable, threads: Threads, *, required: bool = False, hosts: Collection[str] | None = None
    ) -> None:
        self.tokens = tokens
        self._threads = threads
        self._required = required
        self._hosts = None if hosts is None else {name.lower() for name in hosts}
        self._looked = float("-inf")
        self._known: OrderedDict[str, tuple[Kept, float]] = OrderedDict()

    async def admit(self, request: Request, role: str, project: str | None) -> Holder:
        """Who asks for something that takes a role, in a project or (None) in all of them. Refusal, Access, Unavailable."""
        holder = await self._identify(request)
        if project is not None and not holder.sees(project):
            raise Refusal(404, errors.Access(f"this token is of no project {project!r}; name another --project"))
        if project is None and holder.project != ALL_PROJECTS:
            raise errors.Access(f"this needs a token of all projects, and this one is of {holder.project}; use another")
        if not allows(holder.role, role):
            raise errors.Access(
                f"this needs the role {role}, and the token has the role {holder.role}; ask an admin for another token"
            )
        return holder

    def forget(self, identity: str = "") -> None:
        """Look a token up again at the next request, and whether there is any."""
        self._known.pop(identity, None)
        self._looked = float("-inf")

    async def _identify(self, request: Request) -> Holder:
        if not await self._asks():
            self._check_host(request)
            return ANYBODY
        given = request.headers.getlist("authorization")
        if not given:
            raise _stranger("this server asks for a token, and none came", "")
        scheme, _, word = given[0].partition(" ")
        text = split(word.strip()) if len(given) == 1 and scheme.lower() == "bearer" else None
        if text is None:
            raise _stranger("what came is no token", "invalid_token")
        kept = await self._find(text.id)
        if not proves(kept, text):
            raise _stranger("the token is not known here", "invalid_token")
        assert kept is not None  # noqa: S101 - it proved itself
        record = kept.record
        if ended := record.ended(self.tokens.now()):
            raise _stranger(f"the token {record.id} {ended}", "invalid_token")
        return Holder(record.role, record.project, record)

    async def _asks(self) -> bool:
        if not self._required and time.monotonic() - self._looked >= KEPT_SECONDS:
            looked = time.monotonic()
            self._required = await self._threads.run(self.tokens.exist)  # and stays so: tokens are never removed
            self._looked = looked
        return self._required

    async def _find(self, identity: str) -> Kept | None:
        known = self._known.get(identity)
        now = time.monotonic()
        if known is not None and now - known[1] < KEPT_SECONDS:
            return known[0]
        found = await self._threads.run(lambda: self.tokens.find(identity))
        self._known.pop(identity, None)
        if found is not None:
            self._known[identity] = (found, now)
            if len(self._known) > KNOWN:
                self._known.popitem(last=False)
        return found

    def _check_host(self, request: Request) -> None:
        if self._hosts is None:
            return
        called = _host_of(request.headers.get("host", ""))
        if called not in self._hosts and not _is_loopback(called):
            raise errors.Access(
                f"this server asks nobody who they are, so it answers on its own machine alone, and not as {called[:80]!r}; use "
                "http://127.0.0.1, or make a token (artifactfs token create), or serve with --allow-unauthenticated"
            )


def _stranger(words: str, error: str) -> Refusal:
    challenge = f'{_CHALLENGE}, error="{error}"' if error else _CHALLENGE
    return Refusal(401, errors.Access(f"{words}; {_HINT}"), {"WWW-Authenticate": challenge})


def _host_of(header: str) -> str:
    """The name in a Host header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
