"""The pages for tasks, followed from top to bottom: their programs are written down, their commands run as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.semantics.printed import check, console_blocks

DOCS = Path(__file__).parents[2] / "artifactfs" / "docs"


def programs(path: Path) -> dict[str, str]:
    """The programs of a page by the file name that their first line gives."""
    return dict(re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", path.read_text("utf-8"), re.MULTILINE | re.DOTALL))


def follow(page: str, home: Path, variables: dict[str, str] | None = None) -> None:
    """Write every program of a page, then run its commands in one shell."""
    path = DOCS / page
    for name, text in programs(path).items():
        (home / name).write_text(text, "utf-8")
    blocks = console_blocks(path)
    assert blocks
    check("".join(blocks), home, variables)


@pytest.mark.parametrize("page", ["data-sets.md", "models.md", "lineage.md", "from-wandb.md", "fsspec.md"])
def test_a_page_can_be_followed(page: str, home: Path):
    follow(page, home)
