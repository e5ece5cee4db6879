"""A short case of each kind of the long test, with its kills. By the hour: ``python tests/properties/collecting.py --minutes 60``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.properties.garbage.ground import KINDS

SECONDS = 600  # for a case whose every wait is bounded, on a busy machine


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_alive_is_lost_and_nothing_dead_stays(kind):
    script = Path(__file__).with_name("collecting.py")
    words = f"--kind {kind} --cases 1 --seed 1 --operations 10 --seconds 6".split()
    with subprocess.Popen(
        [sys.executable, script, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            said, errors = process.communicate(timeout=SECONDS)
        finally:
            process.terminate()  # and what it started
    assert process.returncode == 0, said[-2000:] + errors[-4000:]
    assert f"done: {{'{kind}': {{'cases': 1, " in said
