from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_a_collection_killed_at_any_step_loses_nothing_and_the_next_one_ends_what_it_began(tmp_path):
    script = Path(__file__).with_name("kill_collect.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], check=False, capture_output=True, text=True, timeout=580
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout)
    # The hooks saw what a collection does: a pack written, rows changed, objects and rows deleted.
    assert {"fsync", "unlink", "sqlite UPDATE", "sqlite DELETE"} <= set(result["steps"])
    assert len(result["steps"]) > 40
    assert len(set(result["sizes"])) > 3
