from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def test_a_put_killed_at_any_step_leaves_the_old_state_or_the_new_one(tmp_path):
    old = tmp_path / "old"
    (old / "sub").mkdir(parents=True)
    (old / "same.txt").write_text("same")
    (old / "sub/a.bin").write_bytes(os.urandom(50_000))
    new = tmp_path / "new"
    (new / "sub").mkdir(parents=True)
    (new / "same.txt").write_text("same")
    (new / "sub/a.bin").write_bytes(os.urandom(60_000))
    (new / "large.bin").write_bytes(os.urandom(6 << 20))
    script = Path(__file__).with_name("kill_put.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], check=False, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout)
    steps, states = result["steps"], result["states"]
    # The hooks saw what makes a commit: packs written and made durable, rows, the transaction.
    assert {"fsync", "sqlite INSERT"} <= set(steps)
    assert any("COMMIT" in step for step in steps)
    assert len(steps) > 20
    # Old first, and once it is the new state it stays: the commit point is one step.
    assert states == sorted(states)
    assert states[0] == 0
