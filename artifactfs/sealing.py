"""Sealing: AES-256-GCM for stored chunks, and the keys that it takes.

Used by the content floor (chunks) and by the registry (keys of packs). Pure functions, safe from any thread; ``cryptography`` does the
cryptography, and is imported when something is sealed or opened first, as it comes with an extra.

A pack of an encrypted project has a *data key*, 32 random bytes used for this pack alone. A stored chunk is sealed with it::

    nonce            12 bytes: the chunk's offset in the pack, big-endian. Offsets in a pack differ, so no nonce comes twice.
    additional data  33 bytes: the chunk's digest and its flags, so that a chunk cannot be put in another's place
    stored           the sealed bytes and the tag of 16 bytes

The entries of its table of contents are sealed with it too, with twelve bytes 0xff as the nonce, which no offset is, and the table's
header as additional data.

The data key lies in the registry, wrapped by the *project's key*::

    nonce            12 random bytes
    additional data  "artifactfs data key", a zero byte, the project's name, a zero byte, the pack's digest in hexadecimal
    wrapped          nonce, sealed data key, tag: 60 bytes

A random nonce of 96 bits may be used with one key 2^32 times (NIST SP 800-38D, section 8.3): 2^32 packs of 64 MiB are 256 PiB.
"""

from __future__ import annotations

import secrets
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from blake3 import blake3

from artifactfs.errors import Integrity, InvalidInput

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_SIZE: Final = 32
"""Bytes of a key, of a pack and of a project."""
NONCE_SIZE: Final = 12
TAG_SIZE: Final = 16
WRAPPED_SIZE: Final = NONCE_SIZE + KEY_SIZE + TAG_SIZE

_TABLE_NONCE: Final = b"\xff" * NONCE_SIZE
_PURPOSE: Final = b"artifactfs data key\0"
_KEY_ID: Final = "artifactfs 2026 id of a project's key"  # context of the derivation; part of the format
_KEY_ID_SIZE: Final = 8  # bytes; enough to tell keys apart, nothing to learn one from


def require() -> None:
    """InvalidInput when nothing can be sealed here, as cryptography is not installed."""
    _cipher(bytes(KEY_SIZE))


def new_key() -> bytes:
    """32 random bytes."""
    return secrets.token_bytes(KEY_SIZE)


def key_id(key: bytes) -> str:
    """What a key is called where it must not be shown: 16 hexadecimal digits, derived one way."""
    return blake3(key, derive_key_context=_KEY_ID).hexdigest(_KEY_ID_SIZE)


def seal(key: bytes, offset: int, digest: bytes, flags: int, data: bytes | bytearray | memoryview) -> bytes:
    """The sealed bytes of a chunk, 16 more than ``data``, for its ``offset`` in the pack whose data key this is."""
    return _cipher(key).encrypt(offset.to_bytes(NONCE_SIZE), data, digest + bytes((flags,)))


def unseal(key: bytes, offset: int, digest: bytes, flags: int, sealed: bytes | bytearray | memoryview) -> bytes:
    """What :func:`seal` was given. Integrity when anything of it is another: bytes, place, digest, flags or key."""
    try:
        return _cipher(key).decrypt(offset.to_bytes(NONCE_SIZE), sealed, digest + bytes((flags,)))
    except _invalid_tag() as error:
        raise Integrity("its bytes are not those that were sealed: they were damaged or tampered with") from error


def seal_table(key: bytes, header: bytes, entries: bytes) -> bytes:
    """The entries of a pack's table of contents, sealed. A key seals one table, so that its nonce comes once."""
    return _cipher(key).encrypt(_TABLE_NONCE, entries, header)


def unseal_table(key: bytes, header: bytes, sealed: bytes | memoryview) -> bytes:
    """What :func:`seal_table` was given. Integrity when anything of it is another."""
    try:
        return _cipher(key).decrypt(_TABLE_NONCE, sealed, header)
    except _invalid_tag() as error:
        raise Integrity(
            "a pack's table of contents is not the one that was sealed: it was damaged or tampered with; run `artifactfs verify`"
        ) from error


def wrap(project_key: bytes, project: str, pack: str, key: bytes) -> bytes:
    """A pack's data key as the registry holds it."""
    nonce = secrets.token_bytes(NONCE_SIZE)
    return nonce + _cipher(project_key).encrypt(nonce, key, _purpose(project, pack))


def unwrap(project_key: bytes, project: str, pack: str, wrapped: bytes) -> bytes:
    """A pack's data key. Integrity when it was not wrapped with this key for this pack of this project."""
    if len(wrapped) != WRAPPED_SIZE:
        raise Integrity(
            f"the key of pack {pack} has {len(wrapped)} bytes instead of {WRAPPED_SIZE}; run `artifactfs verify`"
        )
    try:
        return _cipher(project_key).decrypt(wrapped[:NONCE_SIZE], wrapped[NONCE_SIZE:], _purpose(project, pack))
    except _invalid_tag() as error:
        raise Integrity(
            f"the key of pack {pack} cannot be unwrapped with the project's key: the registry was damaged or tampered with"
        ) from error


def _purpose(project: str, pack: str) -> bytes:
    return _PURPOSE + project.encode() + b"\0" + pack.encode()


@lru_cache(256)
def _cipher(key: bytes) -> AESGCM:
    # Making one expands the key, 2 us; a walk of a tree changes between few packs.
    try:
        # Here and not above: it comes with an extra, and takes 20 ms.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise InvalidInput("encrypted projects need cryptography: pip install 'artifactfs[encryption]'") from error
    if len(key) != KEY_SIZE:
        raise InvalidInput(f"a key has {KEY_SIZE} bytes, not {len(key)}")
    return AESGCM(key)


def _invalid_tag() -> type[Exception]:
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415

    return InvalidTag
