"""Ticket: the token of one connection, whether it may be shown, and what to do when it is refused.

Used by ``client.py``. Any thread.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from threading import Lock

from artifactfs.credentials import Credentials, is_loopback
from artifactfs.errors import Access, ArtifactFSError, InvalidInput


class Ticket:
    """The token for the server at ``url``. It is read when it is first needed, and again when it was refused."""

    def __init__(self, url: str, credentials: Credentials) -> None:
        self._url = url
        self._credentials = credentials
        self._lock = Lock()
        self._token: str | None = None  # None: not read yet
        self._plain = not credentials.plain_http and not url.startswith("https:") and not is_loopback(url)

    def __repr__(self) -> str:
        return f"Ticket({self._url!r})"

    def show(self) -> str:
        """The token to send; empty for none. Access, InvalidInput when its file cannot be used."""
        if self._plain:
            return ""
        if self._token is None:
            with self._lock:
                if self._token is None:
                    self._token = self._credentials.read_token()
        return self._token

    def renew(self, refused: str) -> bool:
        """Read the token again; whether there is another one now than the one that was refused."""
        if self._plain:
            return False
        with self._lock:
            if self._token == refused:
                try:
                    self._token = self._credentials.read_token()
                except ArtifactFSError:
                    return False  # its file is being replaced, or is gone: the refusal is what there is to say
            return self._token not in {refused, ""}

    def refused(self, words: str) -> str:
        """What to say when the server let nobody in. ``words`` are the server's."""
        if self._plain:
            return (
                f"{self._url} asks for a token, which is not sent over http:// to another machine, where others could read it: use "
                "https://, or accept it with ARTIFACTFS_ALLOW_PLAIN_HTTP=1"
            )
        if not self._token:
            return (
                f"{self._url} asks for a token: put one into ~/.config/artifactfs/token (chmod 600), or name its file with "
                "ARTIFACTFS_TOKEN_FILE or token_file in the configuration, or set ARTIFACTFS_TOKEN"
            )
        where = "ARTIFACTFS_TOKEN" if self._credentials.token else str(self._credentials.token_file)
        return f"{self._url} refuses the token from {where}: {words.partition(';')[0]}; ask an admin of the server for another"


def check_ca(path: Path | None) -> Path | None:
    """The file with a private CA's certificates. Access, InvalidInput when it cannot be used."""
    if path is not None:
        try:
            ssl.create_default_context(cafile=path)
        except ssl.SSLError as error:
            raise InvalidInput(
                f"the CA file {path} holds no certificate in PEM; name another by ARTIFACTFS_CA_FILE"
            ) from error
        except OSError as error:
            raise Access(
                f"cannot read the CA file {path}: {(error.strerror or str(error)).lower()}; name another by ARTIFACTFS_CA_FILE"
            ) from error
    return path
