"""The client with a token: what it sends to whom, and what it says when nobody lets it in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from artifactfs.credentials import Credentials
from artifactfs.errors import Access, InvalidInput, Unavailable
from artifactfs.remote import wire
from artifactfs.remote.client import Connection
from artifactfs.remote.ticket import Ticket
from tests.access.authority import Authority
from tests.access.conftest import Guarded, keep

REVISION = "/v1/projects/default/revision"
TOKEN = "afs_00000000_" + "A" * 43


@pytest.fixture
def opened(shared: Guarded) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def connect(shared: Guarded, opened: ExitStack, **words: object) -> Connection:
    known: dict[str, object] = {"ca_file": shared.authority.file, **words}
    connection = Connection(shared.url, credentials=Credentials(**known))  # type: ignore[arg-type]
    opened.callback(connection.close)
    return connection


def revision(connection: Connection) -> wire.Revision:
    return connection.call(wire.Revision, "GET", REVISION)


def test_it_comes_in_with_a_token_by_a_private_ca(shared, opened, tmp_path):
    token = shared.token("read")
    file = tmp_path / "token"
    keep(file, token)
    assert revision(connect(shared, opened, token=token)).revision >= 0
    assert revision(connect(shared, opened, token_file=file)).revision >= 0


def test_a_certificate_of_an_unknown_ca_is_refused_and_says_what_to_do(shared, opened, tmp_path):
    for words in ({"ca_file": None}, {"ca_file": Authority(tmp_path, "another").file}):
        with pytest.raises(Unavailable, match=r"its certificate is not valid .*ARTIFACTFS_CA_FILE") as caught:
            revision(connect(shared, opened, token=TOKEN, **words))
        assert "\n" not in str(caught.value)


def test_a_wrong_ca_file_is_one_line(shared, opened, tmp_path):
    (tmp_path / "empty").touch()
    with pytest.raises(InvalidInput, match="holds no certificate"):
        connect(shared, opened, ca_file=tmp_path / "empty")
    with pytest.raises(Access, match="cannot read the CA file"):
        connect(shared, opened, ca_file=tmp_path / "absent")


def test_errors_say_what_to_do(shared, opened, tmp_path):
    file = tmp_path / "token"
    keep(file, TOKEN)
    with pytest.raises(Access, match=r"asks for a token: put one into .*ARTIFACTFS_TOKEN_FILE"):
        revision(connect(shared, opened))
    with pytest.raises(Access, match=f"refuses the token from {file}: the token is not known here; ask an admin"):
        revision(connect(shared, opened, token_file=file))
    with pytest.raises(Access, match="refuses the token from ARTIFACTFS_TOKEN") as caught:
        revision(connect(shared, opened, token=TOKEN))
    assert TOKEN not in str(caught.value)
    with pytest.raises(Access, match="needs the role write, and the token has the role read"):
        connect(shared, opened, token=shared.token("read")).tell("POST", "/v1/projects/default/sessions", {})
    with pytest.raises(Access, match="of no project 'theirs'"):
        connect(shared, opened, token=shared.token("admin")).tell("GET", "/v1/projects/theirs/artifacts")
    os.chmod(file, 0o644)
    with pytest.raises(Access, match="others may read it; run: chmod 600"):
        revision(connect(shared, opened, token_file=file))


def test_a_token_file_is_read_again_once_when_it_is_refused(shared, opened, tmp_path):
    file = tmp_path / "token"
    keep(file, TOKEN)
    connection = connect(shared, opened, token_file=file)
    with pytest.raises(Access):
        revision(connection)
    assert connection.requests == 1
    assert not connection.online
    keep(file, shared.token("read"))
    assert revision(connection).revision >= 0
    assert connection.requests == 3
    assert connection.online


class Once(Credentials):
    """A token that is another one whenever it is read."""

    def read_token(self) -> str:
        return os.urandom(8).hex()


def test_two_refusals_in_a_row_are_the_last(shared, opened):
    connection = Connection(shared.url, credentials=Once(ca_file=shared.authority.file))
    opened.callback(connection.close)
    with pytest.raises(Access):
        revision(connection)
    assert connection.requests == 2


@pytest.mark.parametrize(
    ("url", "plain_http", "sent"),
    [
        ("https://data.example.org", False, True),
        ("http://127.0.0.1:7420", False, True),
        ("http://[::1]:7420", False, True),
        ("http://localhost:7420", False, True),
        ("http://data.example.org", False, False),
        ("http://192.0.2.1:7420", False, False),
        ("http://localhost.example.org", False, False),
        ("http://data.example.org", True, True),
    ],
)
def test_a_token_never_goes_where_others_can_read_it(url, plain_http, sent):
    ticket = Ticket(url, Credentials(token=TOKEN, plain_http=plain_http))
    assert ticket.show() == (TOKEN if sent else "")
    assert TOKEN not in repr(ticket)
    if not sent:
        assert "not sent over http://" in ticket.refused("no token came; words")


# -- commands ----------------------------------------------------------------------------------------------------------


def test_commands_work_with_the_usual_token_file(shared: Guarded, tmp_path: Path):
    cli = shared.client(tmp_path / "writer", shared.token("write", "team"))
    cli.env["ARTIFACTFS_PROJECT"] = "team"
    (cli.home / "hello.txt").write_text("hello\n")
    cli("put", "greeting", cli.home / "hello.txt")
    reader = shared.client(tmp_path / "reader", shared.token("read", "team"))
    reader.env["ARTIFACTFS_PROJECT"] = "team"
    assert "greeting" in reader("ls").stdout
    assert "needs the role write" in reader.refuses("put", "more", cli.home / "hello.txt")
    assert "of no project 'default'" in reader.refuses("--project", "default", "ls")
    stranger = shared.client(tmp_path / "stranger")
    assert "asks for a token" in stranger.refuses("ls")


def test_content_goes_and_comes_through_tls(shared: Guarded, tmp_path: Path):
    cli = shared.client(tmp_path / "writer", shared.token("write", "large"))
    cli.env["ARTIFACTFS_PROJECT"] = "large"
    (tmp_path / "input").mkdir()
    for name in ("a", "b"):
        (tmp_path / "input" / name).write_bytes(os.urandom(24 << 20))
    cli("put", "data", tmp_path / "input")
    cli("get", "data", tmp_path / "output")
    for name in ("a", "b"):
        assert (tmp_path / "output" / name).read_bytes() == (tmp_path / "input" / name).read_bytes()


def test_who_lost_a_token_is_told_so_by_commands(shared: Guarded, tmp_path: Path):
    token = shared.token("read")
    cli = shared.client(tmp_path / "reader", token)
    cli("ls")
    shared.revoke(token)
    shared.ask("GET", "/v1/projects/default/tokens", token=shared.token("admin", ""))
    keep(cli.home / ".config/artifactfs/token", TOKEN)
    assert "the token is not known here" in cli.refuses("ls")


def test_admins_manage_tokens_through_the_server(shared: Guarded, tmp_path: Path):
    cli = shared.client(tmp_path / "admin", shared.token("admin", ""))
    made = cli("token", "create", "--role", "read", "--project", "far", "--name", "alice").stdout.strip()
    assert "alice" in cli("--project", "far", "token", "list").stdout
    assert shared.ask("GET", "/v1/projects/far/artifacts", token=made).status == 200
    cli("--project", "far", "token", "revoke", made[4:12])
    assert shared.ask("GET", "/v1/projects/far/artifacts", token=made).status == 401


def test_doctor_says_which_token_and_whether_what_goes_is_encrypted(shared: Guarded, tmp_path: Path):
    token = shared.token("write", seconds=86_400)
    cli = shared.client(tmp_path / "writer", token)
    found = cli.run("doctor").stdout
    assert f"{token[4:12]}: role write, project default, until 20" in found
    assert str(shared.authority.file) in found
    assert token[13:] not in found
