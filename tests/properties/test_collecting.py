"""One case of the long test, with its kills. By the hour: ``python tests/properties/collecting.py --minutes 60``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_nothing_alive_is_lost_and_nothing_dead_stays(tmp_path):
    script = Path(__file__).with_name("collecting.py")
    words = [sys.executable, str(script), "--minutes", "0.3", "--seed", "1"]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "done: {'cases': " in done.stdout
