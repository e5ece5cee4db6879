from __future__ import annotations

import pytest

# The suite is no test module of its own; its assertions shall explain themselves nevertheless.
pytest.register_assert_rewrite("tests.conformance.registry")
