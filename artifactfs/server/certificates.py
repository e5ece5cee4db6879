"""Certificates: what a server proves itself with, looked at before it begins.

Used by ``cli/serving.py``. On the main thread.
"""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from cryptography import x509

from artifactfs.errors import Access, InvalidInput, NotFound


class Certificate(NamedTuple):
    """Files in PEM: the certificate with those between it and the CA's, and its key."""

    chain: Path
    key: Path


def check_certificate(certificate: Certificate) -> Certificate:
    """Both can be read, the key by no others, belong together, and are valid today. NotFound, Access, InvalidInput name the option."""
    texts = {}
    for option, path in (("--tls-cert", certificate.chain), ("--tls-key", certificate.key)):
        try:
            texts[option] = path.read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"{option}: there is no file {path}; check the path") from error
        except OSError as error:
            raise Access(f"{option}: cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    try:
        first = x509.load_pem_x509_certificates(texts["--tls-cert"])[0]
    except ValueError as error:
        raise InvalidInput(
            f"--tls-cert: {certificate.chain} holds no certificate in PEM; give the chain's file"
        ) from error
    if b"PRIVATE KEY-----" not in texts["--tls-key"]:
        raise InvalidInput(f"--tls-key: {certificate.key} holds no private key in PEM; give the key's file")
    found = certificate.key.stat()
    if found.st_mode & 0o007 and found.st_uid == os.geteuid():
        # That of another user, as a secret that is mounted into a container, is theirs to guard.
        raise Access(
            f"--tls-key: every user of this machine may read {certificate.key}; run: chmod o-rwx {certificate.key}"
        )
    try:
        # Without a password there is nobody to ask, and OpenSSL would ask the terminal.
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(*certificate, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise InvalidInput(
                f"--tls-key: {certificate.key} is not the key of {certificate.chain}; give the one that it was made with"
            ) from error
        raise InvalidInput(
            f"--tls-cert, --tls-key: {certificate.chain} and {certificate.key} cannot be used: "
            f"{(error.reason or str(error)).lower().replace('_', ' ')}"
        ) from error
    now = datetime.now(UTC)
    if first.not_valid_after_utc <= now:
        raise InvalidInput(
            f"--tls-cert: {certificate.chain} has expired on {first.not_valid_after_utc:%Y-%m-%d}; renew it"
        )
    if first.not_valid_before_utc > now:
        raise InvalidInput(
            f"--tls-cert: {certificate.chain} is not valid before {first.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; check this clock"
        )
    return certificate


def _no_password() -> str:
    raise InvalidInput(
        "--tls-key: the key is encrypted; give one without a password, in a file that the server alone may read"
    )
