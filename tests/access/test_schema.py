"""schemathesis against a server process: what it takes, refuses and answers is as its OpenAPI document says.

Each operation is asked in JSON and msgpack, with good and bad data, without its token and by other methods; then sequences of
operations whose answers feed the next. What is tried is the same in each run.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.access.conftest import Guarded

# Every check is on, but for one of a few operations below. Where more statuses than by default are right:
# - 426 refuses a header ArtifactFS-Protocol that is no number, or below the oldest.
# - 400 refuses names, states and lifetimes whose rules no schema tells (model/names.py); 409, 416 and 422 what is in no such state,
#   not in the object, or not what its digest says.
# And a header that no operation declares is not refused: HTTP has them ignored.
CONFIGURATION = """
workers = 1
request-timeout = 30
continue-on-failure = true
headers = { Authorization = "Bearer ${ARTIFACTFS_TOKEN}" }
warnings = false

[generation]
mode = "all"
deterministic = true
database = "none"
max-examples = 16
allow-extra-parameters = false

[phases.stateful]
max-steps = 5
generation = { max-examples = 12 }

[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 415, 422, 426]

[checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 404, 409, 416, 422]

[[operations]]
include-operation-id = "get_revision"
parameters = { "query.seconds" = 0 }  # or it waits for news, of which there may be none

# Their paths are also those of an alias that is called remove, of a token that is called own, of an object that is called sign, with
# other methods; the header Allow is looked at in tests/server/test_document.py.
[[operations]]
include-path-regex = "/aliases/remove$|/tokens/own$|/objects/sign$"
checks = { allow_header_conformance = { enabled = false } }
"""


def test_the_server_keeps_its_document(guarded: Guarded, tmp_path: Path):
    token = guarded.token("admin", "")
    guarded.start("--no-access-log", tls=False)
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(CONFIGURATION)
    ran = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "--config-file", configuration, "run", "--no-color",
            f"{guarded.url}/openapi.json",
        ],
        cwd=tmp_path, env=guarded.cli.env | {"ARTIFACTFS_TOKEN": token, "SCHEMATHESIS_HOOKS": "tests.access.hooks"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"Selected: (\d+)/\1\s+Tested: \1\s", ran.stdout) is not None
    # It is alive, had no fault of its own, and let nobody in.
    assert guarded.ask("GET", "/readyz").status == 200
    guarded.stop()
    assert '"level":"error"' not in guarded.log
    assert token[13:] not in guarded.log
