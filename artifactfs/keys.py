"""Keys: a project's key, from wherever its holder keeps it, and the files that keys are made into.

Used by the registry, which asks for the key of an encrypted project by its id, and by ``init`` and ``rekey``. Any thread. A key is
shown nowhere: it is called by its id (:func:`artifactfs.sealing.key_id`).

A key is 32 bytes, written as base64 or as hexadecimal digits. The first of these that is given has it: a variable, a file, a command
that prints it. In a file's name and in a command's words ``{project}`` stands for the project, so that each has its own. When that is
not the key that is asked for, or none is given, the directory of keys is looked into, where those made here lie by their ids.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import select
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from artifactfs import sealing
from artifactfs.credentials import LONGEST, Credentials, read_secret
from artifactfs.errors import Access, ArtifactFSError, Integrity, InvalidInput, Unavailable, translate_os

COMMAND_SECONDS: Final = 30.0
"""How long a command may take to print a key: a KMS takes a second, a person who is asked for a finger some more."""
REST_SECONDS: Final = 5.0
"""How long a key that could not be had is not asked for again: a server is asked for it by each request."""

_WHAT: Final = "a project's key"
_HERE: Final = "{project}"
_ID: Final = re.compile(r"[0-9a-f]{16}")
_HEXADECIMAL: Final = re.compile(r"[0-9a-fA-F]{64}")


class Given(NamedTuple):
    """A key that is given, and where. Not to be printed."""

    key: bytes
    where: str


class ProjectKeys:
    """The keys of projects, by their ids. One that was found is kept in memory; a new one is found when it is asked for."""

    def __init__(self, credentials: Credentials, *, seconds: float = COMMAND_SECONDS) -> None:
        self._credentials = credentials
        self._seconds = seconds
        self._lock = threading.Lock()  # one search at a time
        self._held: dict[str, bytes] = {}
        self._failed: dict[tuple[str, str], tuple[float, ArtifactFSError]] = {}

    def find(self, project: str, identity: str) -> bytes:
        """The key with this id. Access when it is not here, naming the key that is; InvalidInput for what is no key."""
        key = self._held.get(identity)
        if key is not None:
            return key
        if _ID.fullmatch(identity) is None:
            raise Integrity(
                f"the registry names no key of project {project!r} that there can be; run `artifactfs verify`"
            )
        if not self._lock.acquire(timeout=2 * self._seconds):
            raise Unavailable(f"the key of project {project!r} is being waited for; try again")
        try:
            key = self._held.get(identity)
            if key is None:
                failed = self._failed.get((project, identity))
                if failed is not None and time.monotonic() < failed[0]:
                    raise type(failed[1])(str(failed[1]))
                try:
                    key = self._held[identity] = self._search(project, identity)
                except ArtifactFSError as error:
                    self._failed[project, identity] = (time.monotonic() + REST_SECONDS, error)
                    raise
            return key
        finally:
            self._lock.release()

    def _search(self, project: str, identity: str) -> bytes:
        given = given_key(self._credentials, project, seconds=self._seconds)
        if given is not None and sealing.key_id(given.key) == identity:
            return given.key
        directory = self._credentials.key_directory
        if directory is not None and (path := kept_at(directory, identity)).exists():
            kept = read_key(path)
            if sealing.key_id(kept) != identity:
                raise Access(f"{path} holds another key, {sealing.key_id(kept)}; put the key {identity} there")
            return kept
        if given is None:
            raise Access(
                f"project {project!r} is encrypted with the key {identity}, which is not here; name the file that holds it: "
                "ARTIFACTFS_KEY_FILE, or key_file in config.toml"
            )
        raise Access(
            f"project {project!r} is encrypted with the key {identity}, but {given.where} has the key "
            f"{sealing.key_id(given.key)}; give the right one"
        )


def given_key(credentials: Credentials, project: str, *, seconds: float = COMMAND_SECONDS) -> Given | None:
    """The key that a variable, a file or a command gives for a project now; None when none of them is named.

    Access when it cannot be had, InvalidInput when what is there is no key.
    """
    if credentials.key:
        return Given(parse_key(credentials.key, "ARTIFACTFS_KEY"), "ARTIFACTFS_KEY")
    if credentials.key_file is not None:
        path = Path(str(credentials.key_file).replace(_HERE, project))
        return Given(read_key(path), str(path))
    if credentials.key_command:
        words = [word.replace(_HERE, project) for word in credentials.key_command]
        where = f"the key_command {words[0]}"
        return Given(parse_key(_output_of(words, where, seconds), where), where)
    return None


def parse_key(text: str, where: str) -> bytes:
    """A key from its text. InvalidInput for what is none; the message does not quote it."""
    word = text.strip()
    if _HEXADECIMAL.fullmatch(word):
        return bytes.fromhex(word)
    with suppress(binascii.Error, ValueError):
        key = base64.b64decode(word.replace("-", "+").replace("_", "/") + "=" * (-len(word) % 4), validate=True)
        if len(key) == sealing.KEY_SIZE:
            return key
    raise InvalidInput(f"{where} holds no key: one is {sealing.KEY_SIZE} bytes as base64 or as hexadecimal digits")


def read_key(path: Path) -> bytes:
    """A key from a file that nobody else may read. Access, InvalidInput."""
    return parse_key(read_secret(path, _WHAT), str(path))


def write_key(path: Path, key: bytes) -> None:
    """Make a file for a key that nobody else can read, durable on return, and its directory. InvalidInput when it is there already."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.write(descriptor, base64.b64encode(key) + b"\n")
            os.fsync(descriptor)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except FileExistsError as error:
        raise InvalidInput(f"{path} is there already, and a key is never overwritten; name a new file") from error
    except OSError as error:
        raise translate_os(error, f"cannot make {path} for {_WHAT}") from error


def kept_at(directory: Path, identity: str) -> Path:
    """Where a key lies in the directory of keys."""
    return directory / f"{identity}.key"


def _output_of(words: list[str], where: str, seconds: float) -> str:
    """What a command prints, which is bounded in bytes and in time. Of its words only the first is ever shown."""
    deadline = time.monotonic() + seconds
    try:
        # A group of its own, so that what it started ends with it.
        process = subprocess.Popen(  # noqa: S603 - the words of this user's configuration; no shell
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0, start_new_session=True
        )
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise Access(f"{where} cannot be run: {reason.lower()}; mend key_command") from error
    try:
        data = _read_all(process, where, deadline)
        status = process.wait(max(0.0, deadline - time.monotonic()))
    except (TimeoutError, subprocess.TimeoutExpired) as error:
        raise Access(f"{where} did not end within {seconds:g} s; run it by hand to see why") from error
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if status:
        raise Access(f"{where} failed with status {status}; run it by hand to see why")
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{where} prints no key: one is base64 or hexadecimal digits") from error


def _read_all(process: subprocess.Popen[bytes], where: str, deadline: float) -> bytes:
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    descriptor = process.stdout.fileno()
    waiting = select.poll()  # and not select(), which knows no descriptor above 1,023
    waiting.register(descriptor, select.POLLIN)
    data = b""
    while len(data) <= LONGEST:
        if not waiting.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
            raise TimeoutError
        part = os.read(descriptor, LONGEST + 1)
        if not part:
            return data
        data += part
    raise InvalidInput(f"{where} prints too much to be {_WHAT}; it should print the key alone")
