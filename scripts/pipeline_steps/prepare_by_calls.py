#!/usr/bin/env python3
"""The same preparation for those who have no mount: what `artifactfs run` sees by itself is said by calls."""

from __future__ import annotations

import tempfile
from pathlib import Path

from prepare import prepare

import artifactfs

with artifactfs.init(job_type="prepare") as run, tempfile.TemporaryDirectory() as target:
    source = run.use_artifact("penguins:latest").download(root=Path(target) / "source")
    (Path(target) / "split").mkdir()
    prepare(Path(source), Path(target) / "split")
    split = artifactfs.Artifact("penguins-split", type="dataset")
    split.add_dir(Path(target) / "split")
    run.log_artifact(split)
