"""Documents whose commands run as printed: their blocks, the shell that runs them, and what a block shows as a pattern."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

SECONDS = 240  # for one example; the slowest takes a few, and 40 on a machine with other work

SHOWN_HOME = "/home/you"
SHOWN_PORT = "7420"
MARK = "--end-of-command--"


def console_blocks(path: Path) -> list[str]:
    return re.findall(r"^```console\n(.*?)^```$", path.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def commands_of(block: str) -> list[tuple[str, str]]:
    """Each command of a block with the output that the document shows."""
    found: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return [(command, "\n".join(output)) for command, output in found]


def pattern_of(shown: str) -> re.Pattern[str]:
    """Shown output as a pattern: `…` alone on a line is any lines, within a line any text; blanks count as one."""
    parts = []
    for line in shown.splitlines():
        if line.strip() == "…":
            parts.append(r"(?:.*\n)*?")
        else:
            words = re.sub(r"\s+", " ", line).strip()
            parts.append(".*".join(re.escape(text) for text in words.split("…")) + r"\n")
    return re.compile("".join(parts))


def plain(output: str) -> str:
    lines = [re.sub(r"\s+", " ", line).strip() for line in output.splitlines()]
    return "".join(f"{line}\n" for line in lines)


def mounts_below(home: Path) -> list[str]:
    points = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if point.startswith(f"{home}/")]


def environment(home: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ARTIFACTFS_", "XDG_", "LC_")) and name not in {"HOME", "LANG", "PWD", "OLDPWD"}
    }
    programs = Path(sys.executable).parent
    return {**kept, "HOME": str(home), "LC_ALL": "C.UTF-8", "PATH": f"{programs}:{kept['PATH']}"}


def run(
    commands: list[str], home: Path, variables: dict[str, str] | None = None, *, seconds: float = SECONDS
) -> list[tuple[int, str]]:
    """Run commands one after the other in one shell; each one's exit status, and its output followed by its errors.

    Programs buffer output that goes to no terminal, so the two streams are kept apart and joined as a person sees them. What the shell
    leaves in the background ends with it, but for mounts, which the home directory's fixture unmounts.
    """
    mark = f"status=$?; printf '%s%s\\n' '{MARK}' $status; printf '%s%s\\n' '{MARK}' $status >&2"
    script = "".join(f"{command}\n{mark}\n" for command in commands)
    shell = subprocess.Popen(
        ["bash", "--noprofile", "--norc", "-s"],
        cwd=home,
        env={**environment(home), **(variables or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        streams = shell.communicate(script, seconds)
    except subprocess.TimeoutExpired as late:
        raise AssertionError(
            f"not over after {seconds:g} s: {(late.stdout or b'')[-2000:]!r} {(late.stderr or b'')[-2000:]!r}"
        ) from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
    outputs, errors = (re.split(rf"{MARK}(\d+)\n", stream) for stream in streams)
    assert len(outputs) == len(errors) == 2 * len(commands) + 1, f"the shell ended early: {streams[1][-2000:]}"
    return [
        (int(status), (output + error).replace(str(home), SHOWN_HOME))
        for output, error, status in zip(outputs[:-1:2], errors[:-1:2], outputs[1::2], strict=True)
    ]


def check(block: str, home: Path, variables: dict[str, str] | None = None, *, seconds: float = SECONDS) -> None:
    expected = commands_of(block)
    results = run([command for command, _ in expected], home, variables, seconds=seconds)
    for (command, shown), (status, output) in zip(expected, results, strict=True):
        as_shown = pattern_of(shown).fullmatch(plain(output)) is not None
        assert as_shown, f"$ {command}\n{output}\ninstead of\n{shown}"
        assert status == 0 or shown, f"$ {command} failed silently with {status}"
