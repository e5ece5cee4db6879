"""fsspec's own suite, for what a read-only file system offers: reading, finding, globbing and `get`, in all of its scenarios.

Left out is what cannot be asked of one: ``put``, ``copy``, ``pipe`` and ``open(…, "xb")`` write, and
``test_get_directory_recursive`` makes its directory by the file system; it stands below with one that was logged.
"""

from __future__ import annotations

import posixpath

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.tests.abstract import AbstractFixtures, AbstractGetTests

LOGGED = LocalFileSystem(auto_mkdir=True)


class TestGet(AbstractFixtures, AbstractGetTests):
    test_get_directory_recursive = None

    @pytest.fixture
    def fs(self, logged):
        return logged.fs()

    @pytest.fixture
    def fs_join(self):
        return posixpath.join

    @pytest.fixture
    def fs_path(self):
        return "data:latest"

    # The suite builds what it reads on the local disk; from there it is logged.

    @pytest.fixture
    def log_source(self, logged, tmp_path):
        def log(build) -> str:
            build(LOGGED, posixpath.join, str(tmp_path / "built"))
            logged(tmp_path / "built")
            return "data:latest/source"

        return log

    @pytest.fixture
    def fs_bulk_operations_scenario_0(self, log_source):
        return log_source(self._bulk_operations_scenario_0)

    @pytest.fixture
    def fs_glob_edge_cases_files(self, log_source):
        return log_source(self._glob_edge_cases_files)

    @pytest.fixture
    def fs_dir_and_file_with_same_name_prefix(self, log_source):
        return log_source(self._dir_and_file_with_same_name_prefix)

    @pytest.fixture
    def fs_10_files_with_hashed_names(self, log_source):
        return log_source(self._10_files_with_hashed_names)

    def test_get_a_directory_twice(self, fs, logged, tmp_path):
        (tmp_path / "built/src").mkdir(parents=True)
        (tmp_path / "built/src/file").touch()
        logged(tmp_path / "built")
        target = tmp_path / "target"
        fs.get("data:latest/src", str(target), recursive=True)
        assert sorted(path.name for path in target.rglob("*")) == ["file"]
        fs.get("data:latest/src", str(target), recursive=True)
        assert sorted(str(path.relative_to(target)) for path in target.rglob("*")) == ["file", "src", "src/file"]
        fs.get("data:latest/src/", str(tmp_path / "other"), recursive=True)
        fs.get("data:latest/src/", str(tmp_path / "other"), recursive=True)
        assert sorted(path.name for path in (tmp_path / "other").rglob("*")) == ["file"]
