"""Logistic regression over several classes in a few lines, without a library and without chance: the same rows give the same model."""

from __future__ import annotations

import csv
import math
from pathlib import Path

Rows = list[tuple[list[float], str]]
Model = dict[str, list[float]]


def read_rows(path: Path, features: list[str]) -> Rows:
    with path.open(newline="") as file:
        return [([1.0, *(float(row[feature]) for feature in features)], row["species"]) for row in csv.DictReader(file)]


def likelihoods(model: Model, values: list[float]) -> dict[str, float]:
    scores = {name: sum(w * v for w, v in zip(weights, values, strict=True)) for name, weights in model.items()}
    highest = max(scores.values())
    powers = {name: math.exp(score - highest) for name, score in scores.items()}
    whole = sum(powers.values())
    return {name: power / whole for name, power in powers.items()}


def fit(rows: Rows, *, rate: float, rounds: int) -> Model:
    """Gradient descent over all rows at once."""
    width = len(rows[0][0])
    model: Model = {name: [0.0] * width for name in sorted({species for _, species in rows})}
    for _ in range(rounds):
        slopes: Model = {name: [0.0] * width for name in model}
        for values, species in rows:
            for name, likelihood in likelihoods(model, values).items():
                error = likelihood - (name == species)
                for place, value in enumerate(values):
                    slopes[name][place] += error * value
        for name, weights in model.items():
            for place in range(width):
                weights[place] -= rate * slopes[name][place] / len(rows)
    return model


def guess(model: Model, values: list[float]) -> str:
    found = likelihoods(model, values)
    return max(found, key=lambda name: found[name])


def accuracy(model: Model, rows: Rows) -> float:
    return sum(guess(model, values) == species for values, species in rows) / len(rows)
