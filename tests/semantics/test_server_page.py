"""server.md: what it tells to watch is there to be watched."""

from __future__ import annotations

import re
from pathlib import Path

from artifactfs.server.metrics import Metrics

PAGE = Path(__file__).parents[2] / "artifactfs" / "docs" / "server.md"


def test_every_metric_of_the_page_is_one_of_the_server():
    metrics = Metrics(lambda: (0, 0), lambda: 0)
    metrics.count("GET", "/healthz", 200, 0.001)
    exposed = set(re.findall(r"^(\w+)[ {]", metrics.text().decode(), re.MULTILINE))
    bases = {re.sub(r"_(bucket|count|sum)$", "", name) for name in exposed}
    told = set(re.findall(r"\bartifactfs_[a-z_]+", PAGE.read_text("utf-8")))
    assert told <= exposed | bases
    assert {name for name in bases if not name.endswith("_created")} <= told
