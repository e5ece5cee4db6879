"""The README's sessions and every example of semantics.md, run as printed, each in a home directory of its own."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.semantics.printed import (
    SECONDS,
    SHOWN_HOME,
    SHOWN_PORT,
    check,
    commands_of,
    console_blocks,
    environment,
    pattern_of,
    plain,
)

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
SEMANTICS = ROOT / "artifactfs" / "docs" / "semantics.md"


@contextmanager
def serving(block: str, home: Path) -> Iterator[str]:
    """The server that a block starts, at another port, while it runs; its port, once all that is shown was printed."""
    ((command, shown),) = commands_of(block)
    log = home.parent / f"{home.name}.log"
    with log.open("w", encoding="utf-8") as output:
        shell = ["bash", "--noprofile", "--norc", "-c", f"exec {command} --port 0"]
        server = subprocess.Popen(shell, cwd=home, env=environment(home), stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + SECONDS
        while len(log.read_text("utf-8").splitlines()) < len(shown.splitlines()) and server.poll() is None:
            assert time.monotonic() < deadline, log.read_text("utf-8")
            time.sleep(0.05)
        text = log.read_text("utf-8").replace(str(home), SHOWN_HOME)
        port = re.search(r"http://127\.0\.0\.1:(\d+)", text)
        assert port is not None, text
        assert pattern_of(shown).fullmatch(plain(text.replace(port[1], SHOWN_PORT))), f"{text}\ninstead of\n{shown}"
        yield port[1]
    finally:
        server.terminate()
        try:
            server.wait(SECONDS)
        finally:
            server.kill()
            log.unlink()


def test_the_readme_sessions_run_as_printed(home: Path):
    alone, recorded, server, team, upkeep = console_blocks(README)
    check(alone + recorded, home)
    with serving(server, home) as port:
        check((team + upkeep).replace(SHOWN_PORT, port), home)


START, *EXAMPLES = console_blocks(SEMANTICS)


@pytest.mark.parametrize("example", EXAMPLES, ids=[block.splitlines()[0] for block in EXAMPLES])
def test_an_example_of_the_semantics_runs_as_printed(example: str, home: Path):
    check(START + example, home)
