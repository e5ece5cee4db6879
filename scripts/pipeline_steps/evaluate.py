#!/usr/bin/env python3
"""Tests the best model, found by its metadata, with rows that no training has seen; logs a report and marks the model `best`."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

from classifier import accuracy, guess, read_rows

import artifactfs


def main() -> None:
    with artifactfs.init(job_type="evaluate") as run, artifactfs.Api() as api:
        found = api.artifacts("model", where="metadata.accuracy > 0", order="-metadata.accuracy", limit=1)
        best = run.use_artifact(found[0].name, type="model")
        model = json.loads(best.file().read_text())
        split = Path(run.use_artifact("penguins-split:latest").download(path_prefix="test"))
        rows = read_rows(split / "test.csv", model["features"])
        right = round(accuracy(model["weights"], rows), 4)
        report = artifactfs.Artifact("penguins-report", type="result", metadata={"accuracy": right, "model": best.name})
        with report.new_file("confusion.csv") as file:
            writer = csv.writer(file)
            writer.writerow(("species", "taken for", "penguins"))
            pairs = Counter((species, guess(model["weights"], values)) for values, species in rows)
            writer.writerows((*pair, count) for pair, count in sorted(pairs.items()))
        run.log_artifact(report)
        best.aliases = [*best.aliases, "best"]
        best.save()
        print(f"{best.name} is the best: {right:.4f} of the test rows are right")


if __name__ == "__main__":
    main()
