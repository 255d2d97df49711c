"""Fixtures that more than one module of end-to-end tests has a use for."""

from __future__ import annotations

from tests.e2e.observed import observed  # noqa: F401 (a fixture)
