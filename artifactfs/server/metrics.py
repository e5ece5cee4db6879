"""What the server counts, for Prometheus.

Used by the application's edge and the route /metrics. Counters may be raised from any thread; :meth:`Metrics.text` asks the
registry and runs on a thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from threading import Lock
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from artifactfs import __version__
from artifactfs.errors import ArtifactFSError

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
SIZE_SECONDS: Final = 60.0
"""How long the size of the repository is remembered: to know it, the row of each pack is looked at."""

# A node along a path takes a millisecond, a range of some megabytes ten, a pack's upload a second, a long poll 50.
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counters of one application. ``packs`` tells how many there are and their bytes, ``following`` how many long polls are open."""

    def __init__(self, packs: Callable[[], tuple[int, int]], following: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        labels = ("method", "route")
        self._requests = Counter(
            "artifactfs_requests", "Requests that were answered.", (*labels, "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "artifactfs_request_seconds",
            "Seconds from a request's headers to the end of its answer.",
            labels,
            registry=self._registry,
            buckets=_BUCKETS,
        )
        self._received = Counter("artifactfs_received_bytes", "Bytes of requests' bodies.", registry=self._registry)
        self._sent = Counter("artifactfs_sent_bytes", "Bytes of answers' bodies.", registry=self._registry)
        polls = Gauge("artifactfs_open_polls", "Followers that wait for a change.", registry=self._registry)
        polls.set_function(following)
        self._scrubbed = Counter(
            "artifactfs_scrub_chunks", "Chunks that scrubs read and checked.", registry=self._registry
        )
        self._damaged = Counter("artifactfs_scrub_damaged", "Damages that scrubs found.", registry=self._registry)
        self._finished = Gauge(
            "artifactfs_scrub_finished_timestamp_seconds",
            "When every project was last scrubbed as a whole; 0 before that.",
            registry=self._registry,
        )
        about = Gauge("artifactfs_info", "The server's release.", ("version",), registry=self._registry)
        about.labels(__version__).set(1)
        self._registry.register(_Packs(packs))

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def moved(self, *, received: int = 0, sent: int = 0) -> None:
        """Bytes of bodies came or went. Counted while they go: a download of an hour shows from its first second on."""
        if received:
            self._received.inc(received)
        if sent:
            self._sent.inc(sent)

    def scrubbed(self, chunks: int, damaged: int) -> None:
        """A scrub checked so many chunks and found so many damages."""
        self._scrubbed.inc(chunks)
        self._damaged.inc(damaged)

    def scrub_finished(self, at: float) -> None:
        """The least recent whole scrub of a project ended then, in seconds since the epoch."""
        self._finished.set(at)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)


class _Packs(Collector):
    """Size of the repository, looked up when it is asked for."""

    def __init__(self, packs: Callable[[], tuple[int, int]]) -> None:
        self._packs = packs
        self._lock = Lock()
        self._looked = float("-inf")
        self._found = (0, 0)

    def describe(self) -> Iterator[Metric]:
        yield from ()  # so that registering asks nobody

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            if time.monotonic() - self._looked >= SIZE_SECONDS:
                try:
                    self._found = self._packs()
                except ArtifactFSError:
                    return  # what is not known is not told
                self._looked = time.monotonic()
            count, size = self._found
        yield GaugeMetricFamily("artifactfs_packs", "Packs that the projects hold.", value=count)
        yield GaugeMetricFamily("artifactfs_packs_bytes", "Bytes of packs that the projects hold.", value=size)
