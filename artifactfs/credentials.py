"""Credentials: what opens a server and an encrypted project, and where a process finds it.

Made by ``config.py`` from the environment and the configuration file, used by whoever opens a repository. Values are immutable and
show no secret when they are printed. A secret comes from a variable or from a file, never from an argument list or a URL, as others
see these. Files are read when they are needed, so that a renewed token is found without a restart.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from artifactfs.errors import Access, InvalidInput

LONGEST: Final = 64 << 10
"""Bytes of a file that holds a secret, at most."""


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """Where secrets are found. Empty values and None: nowhere.

    ``token`` is the text of a token, ``token_file`` holds one. ``ca_file`` has the certificates (PEM) that a server's is checked with,
    instead of those of the system. ``key`` is the text of a project's key, ``key_file`` holds it, ``key_command`` prints it.
    ``plain_http``: a token may go over ``http://`` to another machine. ``direct``: packs that the server
    signs URLs of are read straight from the object store.
    """

    token: str = field(default="", repr=False)
    token_file: Path | None = None
    ca_file: Path | None = None
    plain_http: bool = False
    direct: bool = True
    key: str = field(default="", repr=False)
    key_file: Path | None = None
    key_command: tuple[str, ...] = field(default=(), repr=False)

    def read_token(self) -> str:
        """The token as it is now; empty when there is none. Access, InvalidInput for a file that is no token's."""
        if self.token:
            return check_token(self.token, "ARTIFACTFS_TOKEN")
        if self.token_file is None:
            return ""
        return check_token(read_secret(self.token_file, "the token"), str(self.token_file))


NONE: Final = Credentials()


def check_token(text: str, where: str) -> str:
    """A token without the white space around it. InvalidInput for what no header can hold; the message does not quote it."""
    token = text.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidInput(f"{where} holds no token: one is a word like afs_…, as `artifactfs token create` prints it")
    return token


def is_loopback(url: str) -> bool:
    """Whether a URL is of this machine, by what it says: no name but localhost is looked up."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def read_secret(path: Path, what: str) -> str:
    """The text of a file that holds a secret. Access when it cannot be read, or when others than its owner may read it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise InvalidInput(f"{path} is no file; {what} is read from one")
            if found.st_mode & 0o077 and found.st_uid == os.geteuid():
                raise Access(f"{path} holds {what}, and others may read it; run: chmod 600 {path}")
            data = os.read(descriptor, LONGEST + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Access(
            f"cannot read {what} from {path}: {error.strerror or error}; check the path and its permissions"
        ) from error
    if len(data) > LONGEST:
        raise InvalidInput(f"{path} is too large to hold {what}")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} holds no text; {what} is read from it") from error
