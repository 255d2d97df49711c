"""A folder with a small shop in it, for programs that run with and without sessionwatch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.programs import ROOT, SHOP, Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A folder with the module ``shop``, whose ``lose()`` loses an order each time it is called."""
    unwanted = ("SESSIONWATCH", "PYTHON", "NO_COLOR", "FORCE_COLOR", "PYTEST", "COVERAGE")
    env = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    here = Place(tmp_path, {**env, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0", "TERM": "xterm"})
    here.write("shop.py", SHOP)
    return here
