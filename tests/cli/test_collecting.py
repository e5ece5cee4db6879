from __future__ import annotations

import json
import re
import sys


def put(cli, name: str, content: str) -> None:
    source = cli.home / "source"
    source.mkdir(exist_ok=True)
    (source / "file").write_text(content)
    cli("put", name, source)


def test_gc_frees_what_was_deleted_and_says_how_much(cli, repository):
    put(cli, "data", "one")
    put(cli, "data", "two")
    repository.registry.delete("data", 0)
    before = sum(size for _, size in repository.store.list())
    said = cli("gc", "--dry-run").lines
    assert said[0].startswith("alive: 1 version, 2 chunks in ")
    assert said[1].startswith("would be deleted: 2 packs (")
    assert sum(size for _, size in repository.store.list()) == before
    report = json.loads(cli("gc", "--json").stdout)
    assert report["freed"] == before - sum(size for _, size in repository.store.list())
    assert report["deleted_packs"] == 2
    assert report["condemned_packs"] == 0
    assert cli("gc").lines[1:] == ["deleted: 0 packs (0 B)", "freed: 0 B"]
    assert cli("get", "data", cli.home / "out").status == 0
    assert (cli.home / "out/file").read_text() == "two"


def test_gc_says_whom_it_waits_for_and_when_to_run_it_again(cli, repository):
    put(cli, "data", "one")
    session = repository.registry.open_session("put", seconds=600)
    repository.registry.delete("data", 0)
    lines = cli("gc", "--wait", "0.5").lines
    assert lines[-2].startswith("condemned: 2 packs (")
    assert re.fullmatch(
        r"these are deleted once 1 session \(put\) that began before has ended: run `artifactfs gc` again then "
        r"\(a session that died ends at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\), or give --wait SECONDS",
        lines[-1],
    )
    repository.registry.close_session(session)
    assert cli("gc").lines[1].startswith("deleted: 2 packs (")


def test_gc_says_what_cannot_be_read_and_deletes_nothing(cli, repository):
    put(cli, "data", "one")
    packs = list(cli.home.rglob("*.pack"))
    for pack in packs:
        pack.write_bytes(bytes(pack.stat().st_size))
    message = cli.refuses("gc")
    assert message.startswith("data:v0 cannot be read, so nothing is collected: ")
    assert all(pack.exists() for pack in packs)


def test_gc_refuses_what_it_is_not_given(cli):
    assert "Invalid value for '--wait'" in cli.run("gc", "--wait", "-1").stderr
    assert cli.run("gc", "--wait", "-1").status == 2


def test_while_a_backup_runs_nothing_goes_that_it_may_copy(cli, repository):
    put(cli, "data", "one")
    put(cli, "data", "two")
    source = cli.home / "source"
    cli("--project", "other", "put", "data", source)
    own = f"{sys.executable} -m artifactfs"
    delete = f"{own} delete data:v0 && {own} gc"
    other = f"{own} --project other delete data:v0 && {own} --project other gc"
    held = cli("gc", "--hold", "--", "sh", "-c", f"{delete} && {other}").stdout
    assert held.count("(backup) that began before has ended") == 2
    assert "deleted: 0 packs (0 B)" in held
    assert cli("gc").lines[1].startswith("deleted: 2 packs (")
    assert cli("--project", "other", "gc").lines[1].startswith("deleted: 2 packs (")


def test_a_hold_passes_on_how_its_command_ended(cli, repository):
    assert cli.run("gc", "--hold", "--", "sh", "-c", "exit 3").status == 3
    assert cli.run("gc", "--hold", "--", "sh", "-c", "kill -TERM $$").status == 143
    assert cli.refuses("gc", "--hold", status=2).startswith("--hold needs a COMMAND")
    assert cli.refuses("gc", "--hold", "--", "/no/such/program", status=2).startswith("cannot run /no/such/program")
    assert "goes with --hold" in cli.refuses("gc", "data", status=2)
