"""The pages for tasks, followed from top to bottom: their programs are written down, their commands run as printed."""

from __future__ import annotations

import inspect
import re
from contextlib import closing
from pathlib import Path

import pytest

import artifactfs
from tests.ports import HeldPort
from tests.references.store import storing
from tests.semantics.printed import SHOWN_PORT, check, console_blocks

DOCS = Path(__file__).parents[2] / "artifactfs" / "docs"


def programs(path: Path) -> dict[str, str]:
    """The programs of a page by the file name that their first line gives."""
    return dict(re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", path.read_text("utf-8"), re.MULTILINE | re.DOTALL))


def follow(page: str, home: Path, variables: dict[str, str] | None = None, *, port: int | None = None) -> None:
    """Write every program of a page, then run its commands in one shell; a server that they start is at another ``port``."""
    path = DOCS / page
    for name, text in programs(path).items():
        (home / name).write_text(text, "utf-8")
    blocks = console_blocks(path)
    assert blocks
    text = "".join(blocks)
    if port is not None:
        text = text.replace("artifactfs serve ", f"artifactfs serve --port {port} ").replace(SHOWN_PORT, str(port))
    check(text, home, variables)


@pytest.mark.parametrize(
    "page",
    [
        "data-sets.md",
        "models.md",
        "lineage.md",
        "retention.md",
        "from-wandb.md",
        "fsspec.md",
        "python.md",
        "encryption.md",
        "repair.md",
    ],
)
def test_a_page_can_be_followed(page: str, home: Path):
    follow(page, home)


def test_the_page_on_references_can_be_followed(home: Path):
    with storing() as store:
        store.bucket("bikes")
        store.put("bikes", "raw/day.csv", b"day,rented\n1,985\n")
        store.put("bikes", "raw/hour.csv", b"hour,rented\n0,16\n")
        bucket = {
            "AWS_ENDPOINT_URL": store.endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }
        follow("references.md", home, bucket)


def test_the_page_on_access_can_be_followed(home: Path):
    with closing(HeldPort()) as port:
        follow("access.md", home, port=port.number)


def test_the_page_on_python_has_everything_that_is_exported():
    page = (DOCS / "python.md").read_text("utf-8")
    sections = {part.partition("\n")[0]: part for part in re.split(r"^## ", page, flags=re.MULTILINE)[1:]}
    missing = []
    for name in artifactfs.__all__:
        exported = getattr(artifactfs, name)
        if inspect.isclass(exported) and not issubclass(exported, Exception):
            text = "".join(sections.get(each.__name__, "") for each in exported.__mro__)
            members = [each for each in dir(exported) if not each.startswith("_")]
            missing += [
                f"{name}.{each}" for each in members if not re.search(rf"^(- `)?{each}[(:]", text, re.MULTILINE)
            ]
        elif inspect.isclass(exported):
            missing += [] if f"`{name}` (" in sections["Errors"] else [name]
        elif name != "__version__" and name not in sections:
            missing.append(name)
    assert missing == []
