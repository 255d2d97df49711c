"""Programs of other projects that tests call: skipped by name where one is missing, but not in CI."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

from tests.services import required


def tool(name: str) -> str:
    """The path of a program; skips the running test where there is none, and fails it in CI."""
    return shutil.which(name) or _missing(name)


def beside(module: str, name: str) -> str:
    """The path of a program that comes in a wheel, beside the package of this name; not for every platform."""
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        return _missing(name)
    return str(Path(found.origin).with_name(name))


def _missing(name: str) -> NoReturn:
    reason = f"{name} is not installed"
    if required():
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
