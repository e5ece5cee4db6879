from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted.living import BINDINGS, Mounted, living, watched

WATCHED_SECONDS = 200.0


@pytest.fixture(autouse=True)
def _bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with watched(tmp_path_factory.getbasetemp(), WATCHED_SECONDS):
        yield


@pytest.fixture(params=BINDINGS)
def binding(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def unmounted(tmp_path: Path, binding: str) -> Iterator[Mounted]:
    """For tests that choose the options, or put something first."""
    with living(tmp_path / "m", binding) as made:
        yield made


@pytest.fixture
def mounted(unmounted: Mounted) -> Mounted:
    """A mount of a new repository."""
    unmounted.mount()
    return unmounted
