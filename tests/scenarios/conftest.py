"""The databases of the scenarios."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import URL


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, by its sync driver."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'scenario.db'}"
    made: URL = request.getfixturevalue("postgres_url")
    return made.render_as_string(hide_password=False)
