"""``serve`` with tokens and TLS: what it refuses to begin with, and whom it answers."""

from __future__ import annotations

import http.client
import socket
import sqlite3
import ssl
import warnings
from contextlib import closing
from datetime import timedelta

import pytest

from tests.access.authority import Authority
from tests.access.conftest import Guarded
from tests.conformance.registry import request
from tests.conftest import eventually

ANY = "0.0.0.0"  # noqa: S104 - what is tried here
ARTIFACTS = "/v1/projects/default/artifacts"


@pytest.fixture
def authority(tmp_path) -> Authority:
    return Authority(tmp_path)


def test_beyond_this_machine_it_takes_tls_and_a_token(cli, authority):
    chain, key = authority.certify()
    tls = ("--tls-cert", chain, "--tls-key", key)
    message = cli.refuses("serve", "--host", ANY, "--port", 0)
    assert "--tls-cert and --tls-key" in message
    assert "--allow-plain-http" in message
    cli("init")
    message = cli.refuses("serve", "--host", ANY, "--port", 0, *tls)
    assert "there is no token yet" in message
    assert "token create --role admin --all-projects" in message


def test_beyond_this_machine_it_asks_for_tokens(guarded: Guarded):
    token = guarded.token("read")
    guarded.start("--host", ANY)
    guarded.url = f"https://127.0.0.1:{guarded.port}"
    assert guarded.ask("GET", ARTIFACTS).status == 401
    assert guarded.ask("GET", ARTIFACTS, token=token).status == 200


def test_options_that_exclude_each_other(cli, authority):
    chain, _ = authority.certify()
    assert "belong together" in cli.refuses("serve", "--tls-cert", chain, status=2)
    assert "exclude each other" in cli.refuses("serve", "--require-tokens", "--allow-unauthenticated", status=2)


def test_a_certificate_is_looked_at_first(cli, authority, tmp_path):
    def told(chain, key, status=2) -> str:
        message = cli.refuses("serve", "--port", 0, "--tls-cert", chain, "--tls-key", key, status=status)
        assert "\n" not in message
        return message

    chain, key = authority.certify()
    _, other = authority.certify("other")
    old, old_key = authority.certify("old", begins=timedelta(days=-3), ends=timedelta(days=-1))
    future, future_key = authority.certify("future", begins=timedelta(days=1), ends=timedelta(days=2))
    locked, locked_key = authority.certify("locked", password=b"word")
    assert told(tmp_path / "absent", key, 1) == f"--tls-cert: there is no file {tmp_path / 'absent'}; check the path"
    assert told(chain, tmp_path / "absent", 1).startswith("--tls-key: there is no file")
    assert "is not the key of" in told(chain, other)
    assert "holds no certificate" in told(key, key)
    assert "holds no private key" in told(chain, chain)
    assert "has expired on" in told(old, old_key)
    assert "is not valid before" in told(future, future_key)
    assert "the key is encrypted" in told(locked, locked_key)
    assert not (cli.home / ".local").exists()


def test_without_tokens_it_answers_to_the_names_of_its_own_machine_alone(guarded: Guarded):
    guarded.start(tls=False)
    for host in ("localhost", f"localhost:{guarded.port}", "127.0.0.1", "127.0.0.2:80", "[::1]:7420", "LOCALHOST"):
        assert guarded.ask("GET", ARTIFACTS, headers={"Host": host}).status == 200, host
    for host in ("evil.example", "evil.example:7420", "127.0.0.1.evil.example", "", "localhost.evil.example", "[::2]"):
        answer = guarded.ask("GET", ARTIFACTS, headers={"Host": host})
        assert (answer.status, answer.code) == (403, "access"), host
    # With a token nobody needs to guess: a page of the web has none.
    token = guarded.token("read")
    eventually(lambda: guarded.ask("GET", ARTIFACTS).status == 401)
    assert guarded.ask("GET", ARTIFACTS, headers={"Host": "data.example.org"}, token=token).status == 200


def test_a_proxy_that_knows_who_may_is_believed_when_told_so(guarded: Guarded):
    guarded.start("--allow-unauthenticated", tls=False)
    assert guarded.ask("GET", ARTIFACTS, headers={"Host": "artifactfs"}).status == 200


def test_tokens_are_asked_for_before_there_is_one_when_told_so(guarded: Guarded):
    guarded.start("--require-tokens", tls=False)
    assert guarded.ask("GET", ARTIFACTS).status == 401
    assert guarded.ask("GET", "/readyz").status == 200


def test_once_there_was_a_token_it_is_never_open_again(guarded: Guarded):
    guarded.revoke(guarded.token("read"))
    guarded.start(tls=False)
    assert guarded.ask("GET", ARTIFACTS).status == 401


def test_a_revoked_token_is_heeded_soon(guarded: Guarded):
    token = guarded.token("read")
    guarded.start()
    assert guarded.ask("GET", ARTIFACTS, token=token).status == 200
    guarded.revoke(token)
    eventually(lambda: guarded.ask("GET", ARTIFACTS, token=token).status == 401)


def test_damages_of_others_are_told_to_admins_of_all_alone(guarded: Guarded):
    of_one, of_all = guarded.token("admin"), guarded.token("admin", "")
    with closing(guarded.registry()) as registry:
        registry.of_project("theirs").commit(request("a"))
    with closing(sqlite3.connect(guarded.repository / "registry.db")) as file:
        file.execute("DELETE FROM alias")
        file.execute("UPDATE artifact SET next_number = 0")
        file.commit()
    guarded.start()
    path = "/v1/projects/default/check"
    whole = guarded.ask("GET", path, token=of_all).json["damages"]
    assert whole
    told = guarded.ask("GET", path, token=of_one).json["damages"]
    assert told == ["the registry's database is damaged; an admin of all projects sees how by: artifactfs verify"]


def test_who_speaks_http_to_a_server_with_tls_is_told_so(guarded: Guarded, tmp_path):
    guarded.start()
    cli = guarded.client(tmp_path / "home")
    message = cli.refuses("--timeout", 3, "--repository", guarded.url.replace("https:", "http:"), "ls")
    assert "with https:// if the server speaks TLS" in message


def test_two_tokens_at_once_are_none(guarded: Guarded):
    token = guarded.token("read")
    guarded.start()
    with closing(
        http.client.HTTPSConnection(
            "127.0.0.1", guarded.port, timeout=30, context=ssl.create_default_context(cafile=guarded.authority.file)
        )
    ) as connection:
        connection.putrequest("GET", ARTIFACTS)
        for _ in range(2):
            connection.putheader("Authorization", f"Bearer {token}")
        connection.endheaders()
        assert connection.getresponse().status == 401


# -- TLS ---------------------------------------------------------------------------------------------------------------


def shake(guarded: Guarded, *, newest: ssl.TLSVersion, oldest: ssl.TLSVersion, ciphers: str = "") -> tuple[str, str]:
    """The version and the cipher that a client of these versions comes to. SSLError, OSError without any."""
    context = ssl.create_default_context(cafile=guarded.authority.file)
    context.set_ciphers(ciphers or "ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = oldest, newest
    with (
        closing(socket.create_connection(("127.0.0.1", guarded.port), 30)) as line,
        context.wrap_socket(line, server_hostname="localhost") as wrapped,
    ):
        cipher = wrapped.cipher()
        assert cipher is not None
        return wrapped.version() or "", cipher[0]


def test_tls_is_of_today(guarded: Guarded):
    guarded.start()
    versions = ssl.TLSVersion
    assert shake(guarded, oldest=versions.TLSv1_2, newest=versions.TLSv1_3)[0] == "TLSv1.3"
    version, cipher = shake(guarded, oldest=versions.TLSv1_2, newest=versions.TLSv1_2)
    assert version == "TLSv1.2"
    assert cipher.startswith("ECDHE-")
    assert "GCM" in cipher or "CHACHA20" in cipher
    for wrong in ("AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384", "eNULL", "aNULL"):
        with pytest.raises(OSError, match=r"(?i)ssl|handshake|reset|cipher"):
            shake(guarded, oldest=versions.TLSv1_2, newest=versions.TLSv1_2, ciphers=f"{wrong}:@SECLEVEL=0")
    with pytest.raises(OSError, match=r"(?i)ssl|version|reset|protocol"):
        shake(guarded, oldest=versions.TLSv1, newest=versions.TLSv1_1)


def test_a_key_that_everybody_may_read_is_refused(cli, authority):
    chain, key = authority.certify()
    key.chmod(0o644)
    message = cli.refuses("serve", "--port", 0, "--tls-cert", chain, "--tls-key", key)
    assert message == f"--tls-key: every user of this machine may read {key}; run: chmod o-rwx {key}"
    assert not (cli.home / ".local").exists()


def test_a_certificate_of_another_name_is_refused_by_clients(guarded: Guarded, tmp_path):
    token = guarded.token("read")
    guarded.start("--host", ANY)
    cli = guarded.client(tmp_path / "home", token)
    cli.env["ARTIFACTFS_REPOSITORY"] = f"https://127.0.0.2:{guarded.port}"
    message = cli.refuses("ls")
    assert "its certificate is not valid" in message
    assert "127.0.0.2" in message


# -- where it listens --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", [ANY, "::", "0", "::ffff:0.0.0.0", "192.0.2.1", "fe80::1"])
def test_no_address_that_others_reach_is_taken_for_this_machine(cli, host):
    assert "can be reached from other machines" in cli.refuses("serve", "--host", host, "--port", 0)
    assert not (cli.home / ".local").exists()


@pytest.mark.parametrize("host", ["", "unix:/tmp/socket", "/tmp/socket", "no-such-host.invalid", "127.0.0.1:80", "*"])  # noqa: S108 - no file
def test_what_is_no_address_is_refused(cli, host):
    message = cli.refuses("serve", "--host", host, "--port", 0, status=2)
    assert "has no address" in message
    assert not (cli.home / ".local").exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "127.1", "localhost"])
def test_addresses_of_this_machine_alone_need_neither(guarded: Guarded, host: str):
    guarded.start("--host", host, tls=False)
    assert guarded.ask("GET", ARTIFACTS).status == 200
