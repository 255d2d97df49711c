"""The audit's tests: an error of ours fails them, instead of being told in the report."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def raises_our_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
