"""What a client says is somewhere else: the server keeps the words, and never goes there."""

from __future__ import annotations

import ast
import socket
from contextlib import closing
from pathlib import Path

import pytest

import artifactfs
from tests.conftest import Cli
from tests.server.conftest import Served

SERVER = Path(artifactfs.__file__).parent / "server"
SOURCES = (
    "artifactfs.references",
    "artifactfs.remote.client",
    "artifactfs.remote.transport",
    "requests",
    "urllib",
    "http.client",
)
VALUES = (
    "artifactfs.references.contract"  # what References are made of: plain values and their rules, nothing that asks
)


def test_the_server_has_nothing_to_fetch_with():
    for module in SERVER.glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module or ""]
            found = [name for name in names if name.startswith(SOURCES) and not name.startswith(VALUES)]
            assert not found, module.name


def test_a_reference_to_a_place_of_the_servers_own_is_not_asked_by_it(served: Served, cli: Cli):
    with closing(socket.create_server(("127.0.0.1", 0))) as place:
        place.settimeout(0)
        uri = f"http://127.0.0.1:{place.getsockname()[1]}/secret"
        cli.env["ARTIFACTFS_REPOSITORY"] = served.url
        cli("put", "raw", "--reference", uri, "--no-checksum")
        assert uri in cli("show", "raw:v0", "--json").stdout + cli("ls", "raw:v0", "--json").stdout
        assert served.ask("GET", "check").json == {"damages": []}
        with pytest.raises(BlockingIOError):  # nobody has connected
            place.accept()
