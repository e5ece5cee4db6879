#!/usr/bin/env python3
"""Trains a model and logs it with its settings and its accuracy: `train.py [DATA] --rate 0.5 --rounds 100 --features …`.

DATA is the directory with the prepared rows, for example in a mount: then `artifactfs run` sees what is read, and `init()` joins that
Run. Without DATA they are downloaded, which the call records.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from classifier import accuracy, fit, read_rows
from prepare import FEATURES

import artifactfs

VALIDATE_EVERY = 5  # of the training rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--rate", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--features", nargs="+", choices=FEATURES, default=list(FEATURES))
    options = parser.parse_args()
    settings = {"rate": options.rate, "rounds": options.rounds, "features": options.features}
    with artifactfs.init(job_type="train", config=settings) as run:
        data = options.data or Path(run.use_artifact("penguins-split:latest").download())
        rows = read_rows(data / "train.csv", options.features)
        known = [row for number, row in enumerate(rows) if number % VALIDATE_EVERY]
        unseen = [row for number, row in enumerate(rows) if not number % VALIDATE_EVERY]
        model = fit(known, rate=options.rate, rounds=options.rounds)
        found = {"accuracy": round(accuracy(model, unseen), 4), "settings": settings}
        artifact = artifactfs.Artifact("penguins-model", type="model", metadata=found)
        with artifact.new_file("model.json") as file:
            json.dump({"features": options.features, "weights": model}, file, indent=1)
        run.log_artifact(artifact)
        print(f"{artifact.name}: {found['accuracy']:.4f} of unseen rows are right")


if __name__ == "__main__":
    main()
