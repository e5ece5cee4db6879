"""Routes of tokens: made, listed and revoked by admins; and what the one that asks is.

An admin of one project sees and makes tokens of this one, an admin of all projects also those of all projects.
"""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Path
from starlette.requests import Request
from starlette.responses import Response

from artifactfs.errors import Access as Refused
from artifactfs.errors import NotFound
from artifactfs.model.access import ADMIN, ALL_PROJECTS, READ, NewToken, TokenRecord
from artifactfs.registry.tokens import TokenTable, unknown
from artifactfs.remote import wire
from artifactfs.server.access import Access, Holder
from artifactfs.server.calls import ProjectCall
from artifactfs.server.document import Operations

operation: Final = Operations("Tokens")

TokenId = Annotated[str, Path(description="The token's id: the part between afs_ and the next line below.")]


@operation("POST", "/tokens", takes=wire.TokenWanted, gives=NewToken, role=ADMIN)
async def create_token(call: ProjectCall) -> Response:
    """Make a token. Its text is in the answer and nowhere else."""
    wanted = await call.message(wire.TokenWanted)
    access, holder = _asked(call.request)
    if wanted.all_projects and holder.project != ALL_PROJECTS:
        raise Refused(f"a token of all projects is made with one of all projects, and this one is of {holder.project}")
    project = ALL_PROJECTS if wanted.all_projects else call.project

    def make(_: object) -> NewToken:
        return access.tokens.create(project=project, role=wanted.role, name=wanted.name, seconds=wanted.seconds)

    answer = await call.write(make)
    access.forget()
    return answer


@operation("GET", "/tokens", gives=wire.Tokens, role=ADMIN)
async def tokens(call: ProjectCall) -> Response:
    """Tokens of the project in the order they were made, ended ones too; without their secrets."""
    access, holder = _asked(call.request)
    return await call.read(lambda _: wire.Tokens(_visible(access.tokens, holder, call.project)))


@operation("GET", "/tokens/own", gives=TokenRecord, fails=(404,), role=READ)
async def own_token(call: ProjectCall) -> Response:
    """The token that this request came with. Not there where none is asked for."""
    _, holder = _asked(call.request)
    if holder.token is None:
        raise NotFound("this server asks for no token")
    return call.told(holder.token)


@operation("DELETE", "/tokens/{token}", gives=TokenRecord, fails=(404,), role=ADMIN)
async def revoke_token(call: ProjectCall, token: TokenId) -> Response:
    """Revoke a token: no request begins with it any more, through other servers of the same registry after 5 s at most."""
    access, holder = _asked(call.request)

    def end(_: object) -> TokenRecord:
        if token not in {record.id for record in _visible(access.tokens, holder, call.project)}:
            raise unknown(token)
        return access.tokens.revoke(token)

    answer = await call.write(end)
    access.forget(token)
    return answer


def _asked(request: Request) -> tuple[Access, Holder]:
    return request.app.state.access, request.state.holder


def _visible(tokens: TokenTable, holder: Holder, project: str) -> list[TokenRecord]:
    seen = {project, ALL_PROJECTS} if holder.project == ALL_PROJECTS else {project}
    return [record for record in tokens.records() if record.project in seen]
