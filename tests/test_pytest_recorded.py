"""pytest's reports that show what sessions did: one file for the run, also under xdist."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.test_pytest_plugin import SHOP, Project

pytest_plugins = ["pytester"]


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A folder with a module ``shop`` and tests that lose an order, touch a detached one, and work."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    (pytester.path / "shop.py").write_text(SHOP)
    made = Project(pytester)
    made.write(
        """
        def test_lost():
            lose()

        def test_fine():
            detached()

        def test_touched():
            detached().status
        """
    )
    return made


def page_data(path: Path) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_html_of_a_test_run(project: Project, workers: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every session of the tests is in the picture, those with a finding with their pin, whichever worker had it."""
    (project.path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(project.path / "temporary"))
    result = project.run("--sessionwatch-report", "html:report.html", *workers)
    result.assert_outcomes(passed=1, failed=2)
    data = page_data(project.path / "report.html")
    assert sorted(one["rule"] for one in data["findings"]) == ["detached-touch", "lost-writes"]
    ends = sorted((one["end"], len(one["f"])) for one in data["picture"]["sessions"])
    assert ends == [("lost", 1), ("read_only", 0), ("read_only", 1)]
    assert data["run"]["about"][0] == ["pytest", True]
    assert not [name for name in os.listdir(project.path / "temporary") if name.startswith("sessionwatch-")]


def test_nothing_is_recorded_for_others(project: Project) -> None:
    """A report that does not show sessions makes no recording."""
    project.write(
        """
        from sessionwatch.watch.installation import current

        def test_it():
            assert current().audience.recording is None
        """
    )
    project.run("--sessionwatch-report", "text:report.txt").assert_outcomes(passed=1)
