"""What schemathesis is told besides the OpenAPI document; loaded by its own process (SCHEMATHESIS_HOOKS)."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import schemathesis

from artifactfs.remote import wire


@schemathesis.serializer(wire.MSGPACK)
def pack(_context: object, value: Any) -> bytes:
    """A message as msgpack, with bytes where the schema of JSON says base64 and what stands there is some."""
    return msgspec.msgpack.encode(_packed(value))


@schemathesis.deserializer(wire.MSGPACK)
def unpack(_context: object, response: Any) -> Any:
    """An answer in msgpack as the same answer in JSON would be."""
    return _unpacked(msgspec.msgpack.decode(response.content))


@schemathesis.hook
def before_load_schema(_context: object, raw_schema: dict[str, Any]) -> None:
    for methods in raw_schema["paths"].values():
        for operation in methods.values():
            # With it every status would be as documented.
            del operation["responses"]["default"]
    for name in ("Held", "Objects", "Packs", "Places"):
        _widen(raw_schema["components"]["schemas"][name])


def _widen(schema: Any) -> None:
    """Tuples of answers as lists of any of their items: the schemas of answers are converted without regard to ``prefixItems``.

    That answers hold each item at its place is tested in tests/server/test_document.py.
    """
    if isinstance(schema, dict):
        if "prefixItems" in schema:
            schema["items"] = {"anyOf": schema.pop("prefixItems")}
        for below in schema.values():
            _widen(below)
    elif isinstance(schema, list):
        for below in schema:
            _widen(below)


def _packed(value: Any, *, digests: bool = False) -> Any:
    if isinstance(value, dict):
        return {
            _packed(key): _bytes(below) if key == "digest" else _packed(below, digests=key == "digests")
            for key, below in value.items()
        }
    if isinstance(value, list):
        return [_bytes(below) if digests else _packed(below) for below in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return min(max(value, -(2**63)), 2**64 - 1)  # msgpack has no others
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def _bytes(value: Any) -> Any:
    try:
        return base64.b64decode(value, validate=True) if isinstance(value, str) else _packed(value)
    except ValueError:
        return _packed(value)


def _unpacked(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {key: _unpacked(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_unpacked(below) for below in value]
    return value
