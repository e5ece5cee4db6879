"""A repository of format 1 is brought to the present layout whatever kills it on the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def test_a_repository_of_format_1_killed_at_any_step_loses_no_pack(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_bytes(os.urandom(3000))
    script = Path(__file__).with_name("kill_layout.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], check=False, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-4000:]
    steps = json.loads(done.stdout)
    assert {"link", "unlink", "mkdir", "fsync", "rmdir"} <= set(steps)
    assert len(steps) > 20
