from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path


def test_a_commit_killed_at_any_step_leaves_the_old_state_or_the_new_one_and_staging(tmp_path):
    old = tmp_path / "old"
    (old / "sub").mkdir(parents=True)
    (old / "moved").mkdir()
    (old / "same.txt").write_text("same")
    (old / "gone").write_text("gone")
    (old / "moved/a").write_bytes(os.urandom(50_000))
    (old / "large.bin").write_bytes(os.urandom(9 << 19))
    new = shutil.copytree(old, tmp_path / "new")
    with (new / "large.bin").open("r+b") as file:
        file.seek(3_000_000)
        file.write(b"changed")
    (new / "moved").rename(new / "sub/here")
    (new / "gone").unlink()
    (new / "made").mkdir()
    (new / "made/file").write_text("made")
    (new / "same.txt").write_text("not the same")
    (new / "later").touch()
    script = Path(__file__).with_name("kill_commit.py")
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        check=False, capture_output=True, text=True, timeout=280, env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout)
    steps, states = result["steps"], result["states"]
    # The hooks saw what a commit does: packs, rows, the transaction, and the tables of staging.
    assert {"fsync", "sqlite INSERT", "sqlite UPDATE", "sqlite COMMIT"} <= set(steps)
    assert len(steps) > 50
    # Old first, and once it is the new state it stays: the commit point is one step.
    assert states == sorted(states)
    assert (states[0], states[-1]) == (0, 1)
