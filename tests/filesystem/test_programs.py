"""Programs that read by fsspec, and know nothing else of ArtifactFS: pandas, Arrow, DuckDB."""

from __future__ import annotations

import duckdb
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

ROWS = 20_000


@pytest.fixture
def bikes(tmp_path):
    """Rentals by day and hour: as one Parquet file with several row groups, as CSV, and as one file a season."""
    root = tmp_path / "bikes"
    frame = pd.DataFrame(
        {
            "day": [number // 24 for number in range(ROWS)],
            "season": [("spring", "summer", "autumn", "winter")[number // 24 % 4] for number in range(ROWS)],
            "rentals": [number * 7919 % 1000 for number in range(ROWS)],
        }
    )
    root.mkdir()
    frame.to_parquet(root / "day.parquet", row_group_size=1000)
    frame.to_csv(root / "day.csv", index=False)
    for season, part in frame.groupby("season"):
        (root / f"parts/season={season}").mkdir(parents=True)
        part.drop(columns="season").to_parquet(root / f"parts/season={season}/part.parquet", index=False)
    return root, frame


def test_pandas(either, bikes):
    root, frame = bikes
    either(root, "bike-dataset")
    options = either.options
    read = pd.read_parquet("artifactfs://bike-dataset:latest/day.parquet", storage_options=options)
    pd.testing.assert_frame_equal(read, frame)
    some = pd.read_parquet("artifactfs://bike-dataset/day.parquet", columns=["rentals"], storage_options=options)
    assert some["rentals"].sum() == frame["rentals"].sum()
    pd.testing.assert_frame_equal(pd.read_csv("artifactfs://bike-dataset:v0/day.csv", storage_options=options), frame)
    whole = pd.read_parquet("artifactfs://bike-dataset:v0/parts", storage_options=options)
    assert whole.groupby("season", observed=True)["rentals"].sum().to_dict() == sums(frame)
    with pytest.raises(OSError, match="artifactfs:// is read-only"):
        frame.to_parquet("artifactfs://bike-dataset:latest/other.parquet", storage_options=options)


def test_arrow(either, bikes):
    root, frame = bikes
    either(root, "bike-dataset")
    fs = either.fs()
    table = pq.read_table("bike-dataset:latest/day.parquet", filesystem=fs, filters=[("day", "<", 10)])
    assert table.num_rows == 240
    dataset = ds.dataset("bike-dataset:latest/parts", filesystem=fs, format="parquet", partitioning="hive")
    assert dataset.count_rows() == ROWS
    autumn = dataset.to_table(filter=ds.field("season") == "autumn", columns=["rentals"])
    assert sum(autumn["rentals"].to_pylist()) == sums(frame)["autumn"]


def test_duckdb(either, bikes):
    root, frame = bikes
    either(root, "bike-dataset")
    with duckdb.connect() as connection:
        connection.register_filesystem(either.fs())
        query = "SELECT season, sum(rentals) FROM '{}' GROUP BY season"
        for source in ("day.parquet", "day.csv", "parts/*/*.parquet"):
            rows = connection.sql(query.format(f"artifactfs://bike-dataset:latest/{source}")).fetchall()
            assert dict(rows) == sums(frame), source


def sums(frame):
    return frame.groupby("season")["rentals"].sum().to_dict()
