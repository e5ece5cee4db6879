"""RemoteTokens: the tokens of a server, as its admins see them.

Used by the RemoteRegistry, which hands it out. Any thread.
"""

from __future__ import annotations

from artifactfs.errors import InvalidInput
from artifactfs.model.access import ALL_PROJECTS, NewToken, TokenRecord
from artifactfs.model.names import check_name
from artifactfs.remote import wire
from artifactfs.remote.client import Connection, segment


class RemoteTokens:
    """The :class:`~artifactfs.registry.contract.Tokens` behind a server; ``base`` is the path of a project."""

    def __init__(self, connection: Connection, base: str) -> None:
        self._connection = connection
        self._base = base

    def create(self, *, project: str, role: str, name: str = "", seconds: float | None = None) -> NewToken:
        """Make a token of a project, which need not be there yet, or of all (empty). ``seconds``: how long it lives; None: always."""
        wanted = wire.TokenWanted(role, name, seconds, project == ALL_PROJECTS)
        base = self._base if project == ALL_PROJECTS else f"/v1/projects/{segment(check_name(project))}/"
        # Not repeated: what was made by a request whose answer is lost would stay, and nobody has its text.
        reply = self._connection.ask("POST", f"{base}tokens", wanted, once=True)
        return self._connection.read(reply, NewToken)

    def records(self) -> list[TokenRecord]:
        """Tokens in the order they were made, ended ones too."""
        return self._connection.call(wire.Tokens, "GET", f"{self._base}tokens").tokens

    def revoke(self, identity: str) -> TokenRecord:
        """End a token at once; one that was revoked stays so. NotFound without it. Returns what it is then."""
        if not (identity.isascii() and identity.isalnum()):
            raise InvalidInput(f"not the id of a token: {identity!r}; `artifactfs token list` shows them")
        return self._connection.call(TokenRecord, "DELETE", f"{self._base}tokens/{identity}")

    def own(self) -> TokenRecord:
        """The token that requests are made with. NotFound where none is asked for."""
        return self._connection.call(TokenRecord, "GET", f"{self._base}tokens/own")
