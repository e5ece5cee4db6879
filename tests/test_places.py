"""What `scripts/docs --check` calls a place on one machine: it must not depend on where the checkout happens to lie."""

from __future__ import annotations

import re
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def docs(monkeypatch) -> ModuleType:
    """The script, as a module."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    loader = SourceFileLoader("docs", str(SCRIPTS / "docs"))
    spec = spec_from_loader("docs", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def checkout(docs, monkeypatch, tmp_path) -> Path:
    """A checkout somewhere else, with a document in it."""
    root = tmp_path / "project"
    (root / "tests").mkdir(parents=True)
    monkeypatch.setattr(docs, "ROOT", root)
    return root


@pytest.mark.parametrize("text", ["see {root}/README.md", "{root}", "next to it, {root.parent}/other", "/home/alice/x"])
def test_a_place_of_the_writer_is_found(docs, checkout, text):
    page = checkout / "page.md"
    page.write_text(f"first\n{text.format(root=checkout)}\n", "utf-8")
    (found,) = docs.machine_paths(page)
    assert found.startswith("page.md:2: names /")
    assert found.endswith(", a place on one machine")


@pytest.mark.parametrize("text", ["/home/you/data", "GET /check", "/mnt/artifacts/bikes/latest", "https://host{root}"])
def test_a_place_that_anybody_has_is_not(docs, checkout, text):
    page = checkout / "page.md"
    page.write_text(text.format(root=checkout) + "\n", "utf-8")
    assert not list(docs.machine_paths(page))


def test_the_paths_that_a_test_makes_up_are_its_own(docs, checkout):
    test = checkout / "tests" / "test_x.py"
    test.write_text(f"/home/alice {checkout.parent}/other\n{checkout}\n", "utf-8")
    (found,) = docs.machine_paths(test)
    assert found.startswith("tests/test_x.py:2: ")


def test_a_checkout_where_every_system_has_a_directory_forbids_nothing(docs, checkout, monkeypatch):
    monkeypatch.setattr(docs, "EVERYWHERE", re.compile(".*"))
    test = checkout / "tests" / "test_x.py"
    test.write_text(f"{checkout}\n", "utf-8")
    assert not list(docs.machine_paths(test))


def test_a_directory_at_the_root_counts_with_what_is_in_it_only(docs):
    """A checkout below /check must not forbid the server's route of that name."""
    usr = re.compile(docs.pattern_of(Path("/usr")) + r"\b")
    assert usr.search("in /usr/bin/env")
    assert not usr.search("GET /usr")
    assert not usr.search("/usr/no-such-entry")
    assert not re.search(docs.pattern_of(Path("/proc/self/fdinfo")), "/proc/self/fd")


def test_an_empty_or_closed_directory_at_the_root_forbids_nothing(docs, monkeypatch):
    for entries in (iter, _refuse):
        monkeypatch.setattr(Path, "iterdir", lambda _place, entries=entries: entries(()))
        assert not re.search(docs.pattern_of(Path("/check")), "GET /check/x")


def _refuse(_entries: tuple[()]) -> None:
    raise PermissionError
