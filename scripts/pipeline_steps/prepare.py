#!/usr/bin/env python3
"""Splits the penguins into rows to train on and rows to test with: `prepare.py SOURCE TARGET`, two directories.

This program knows nothing of ArtifactFS. It reads files and writes files.
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
from pathlib import Path

FEATURES = ("bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g")
TEST_EVERY = 4  # rows: 333 complete ones become 249 and 84


def prepare(source: Path, target: Path) -> None:
    with (source / "penguins.csv").open(newline="") as file:
        rows = [
            row for row in csv.DictReader(file) if all(row[feature] not in {"", "NA"} for feature in (*FEATURES, "sex"))
        ]
    parts = {
        "train": [row for number, row in enumerate(rows) if number % TEST_EVERY],
        "test": [row for number, row in enumerate(rows) if not number % TEST_EVERY],
    }
    # Scaled by what the training rows tell, so that nothing of the test gets into the training.
    scales = {}
    for feature in FEATURES:
        values = [float(row[feature]) for row in parts["train"]]
        scales[feature] = {"mean": statistics.fmean(values), "deviation": statistics.stdev(values)}
    for name, part in parts.items():
        with (target / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow((*FEATURES, "species"))
            for row in part:
                scaled = ((float(row[key]) - scales[key]["mean"]) / scales[key]["deviation"] for key in FEATURES)
                writer.writerow((*(f"{value:.6f}" for value in scaled), row["species"]))
    (target / "scales.json").write_text(json.dumps(scales, indent=1) + "\n")


if __name__ == "__main__":
    prepare(Path(sys.argv[1]), Path(sys.argv[2]))
