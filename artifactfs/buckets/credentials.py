"""Credentials: what the makers of object stores have people set, as far as obstore does not read it by itself.

Used by `bucket.py`. Any thread; nothing is kept, so that renewed keys are seen when a bucket is opened next.

obstore reads AWS_ACCESS_KEY_ID, AWS_REGION, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME and their like. Added here: the
files of AWS profiles with fixed keys, the endpoint of S3 alone, the emulator of Google Cloud Storage, and the words of the ``az``
command. The values go to obstore and nowhere else.
"""

from __future__ import annotations

import configparser
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_KEYS: Final = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}
_AZURE: Final = {
    "AZURE_STORAGE_ACCOUNT": "account_name",
    "AZURE_STORAGE_KEY": "account_key",
    "AZURE_STORAGE_SAS_TOKEN": "sas_key",
}
_CONNECTION: Final = {
    "accountname": "account_name",
    "accountkey": "account_key",
    "sharedaccesssignature": "sas_key",
    "blobendpoint": "endpoint",
}


def of_s3(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Options for S3: those of the profile (AWS_PROFILE), unless the environment has keys; the endpoint; a region."""
    found: dict[str, str] = {}
    profile = environ.get("AWS_PROFILE") or "default"
    keys = _section(environ.get("AWS_SHARED_CREDENTIALS_FILE") or _home(environ, "credentials"), profile)
    settings = _section(
        environ.get("AWS_CONFIG_FILE") or _home(environ, "config"),
        profile if profile == "default" else f"profile {profile}",
    )
    if not environ.get("AWS_ACCESS_KEY_ID"):
        found.update(
            {ours: value for theirs, ours in _KEYS.items() if (value := keys.get(theirs) or settings.get(theirs))}
        )
    if not environ.get("AWS_REGION") and not environ.get("AWS_DEFAULT_REGION") and settings.get("region"):
        found["region"] = settings["region"]
    endpoint = (
        environ.get("AWS_ENDPOINT_URL_S3")
        or environ.get("AWS_S3_ENDPOINT_URL")
        or environ.get("AWS_ENDPOINT_URL")
        or settings.get("endpoint_url")
    )
    if endpoint:
        found["endpoint"] = endpoint
    return found


def of_google(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Options for Google Cloud Storage: an emulator (STORAGE_EMULATOR_HOST), which needs no keys."""
    host = environ.get("STORAGE_EMULATOR_HOST")
    if not host:
        return {}
    # Without a key of an account obstore 0.12 asks Google for a token before it writes, also when it is told to sign nothing.
    account = {
        "gcs_base_url": host if "://" in host else f"http://{host}",
        "disable_oauth": True,
        "client_email": "",
        "private_key": "",
        "private_key_id": "",
    }
    return {"service_account_key": json.dumps(account)}


def of_azure(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Options for Azure: what the ``az`` command reads."""
    found: dict[str, str] = {}
    for part in environ.get("AZURE_STORAGE_CONNECTION_STRING", "").split(";"):
        key, mark, setting = part.partition("=")
        if mark and (ours := _CONNECTION.get(key.strip().lower())):
            found[ours] = setting.strip()
    for theirs, ours in _AZURE.items():
        if value := environ.get(theirs):
            found[ours] = value
    return found


def _home(environ: Mapping[str, str], name: str) -> str:
    return f"{environ.get('HOME', '')}/.aws/{name}"


def _section(path: str, name: str) -> Mapping[str, str]:
    """A section of a file in AWS's manner; empty when there is none, or when it cannot be read: then the source refuses."""
    parser = configparser.RawConfigParser(default_section="")
    try:
        parser.read_string(Path(path).read_text("utf-8"))
        return dict(parser.items(name)) if parser.has_section(name) else {}
    except (OSError, UnicodeDecodeError, configparser.Error):
        return {}
