"""The places of findings, as a metric."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import sessionwatch
from sessionwatch import places
from sessionwatch.model import Finding, Site
from sessionwatch.record.found import PLACES as MOST
from sessionwatch.watch.watch import Watch
from tests.rules.models import Customer
from tests.telemetry.readings import Readings

FINDINGS, PLACES = "sessionwatch.findings", "sessionwatch.findings.places"
LOSE = f"{__name__}.lose"


def lose(engine: Engine) -> None:
    with Session(engine) as session:
        session.add(Customer(name="Ada"))
        session.flush()


def test_no_series_in_a_healthy_service(watch: Watch, readings: Readings) -> None:
    """It has nothing to say, and no alert fires on it."""
    assert PLACES not in readings.metrics()


def test_rule_file_function_and_unit(shop: Engine, watch: Watch, readings: Readings) -> None:
    """The function with its module, the route's template; each occurrence counts, and none that is allowed."""
    with sessionwatch.unit_of_work("POST /orders"):
        lose(shop)
        lose(shop)
    lose(shop)
    with sessionwatch.allow("lost-writes", reason="a dry run"):
        lose(shop)
    points = readings.metrics()[PLACES].data.data_points
    assert [set(point.attributes) for point in points] == 2 * [
        {"sessionwatch.rule", "code.file.path", "code.function.name", "sessionwatch.unit"}
    ]
    assert readings.values(PLACES) == {
        (__file__, LOSE, "lost-writes", "POST /orders"): 2,
        (__file__, LOSE, "lost-writes", "(none)"): 1,
    }
    assert readings.values(FINDINGS) == {("telemetry", "lost-writes"): 3}


def test_more_places_than_the_most_are_other(watch: Watch, readings: Readings) -> None:
    """No occurrence is lost: the sum over the places of a rule is what the rule has."""
    for number in range(MOST + 50):
        site = Site("/srv/app.py", 1, f"view_{number}")
        watch.tracker.found.add(Finding("lost-writes", "fault", "Order", "m", site, (), "fix", mode="telemetry"))
    watch.tracker.found.add(Finding("session-leak", "fault", "S1", "m", None, (), "fix", mode="telemetry"))
    values = readings.values(PLACES)
    assert len(values) == MOST + 2
    assert values["other", "other", "lost-writes", "other"] == 50
    assert values["other", "other", "session-leak", "other"] == 1
    assert sum(values.values()) == sum(readings.values(FINDINGS).values()) == MOST + 51


def test_place_that_is_not_known(watch: Watch, readings: Readings) -> None:
    """It is said to be unknown."""
    watch.tracker.found.add(Finding("session-leak", "fault", "S1", "m", None, (), "fix", mode="telemetry"))
    assert readings.values(PLACES) == {("(unknown)", "(unknown)", "session-leak", "(none)"): 1}


def test_count_goes_on_over_installations(shop: Engine, installed: Callable[..., Watch], readings: Readings) -> None:
    """As every counter does."""
    watch = installed()
    lose(shop)
    watch.uninstall()
    installed()
    lose(shop)
    assert readings.values(PLACES) == {(__file__, LOSE, "lost-writes", "(none)"): 2}


# -- the name of a function ---------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["shop/work.py"], ["-m", "shop.work"], ["-c", "import shop.work"]])
def test_module_of_the_function(command: list[str], tmp_path: Path) -> None:
    """By the name that it was imported by; the program's own file by that of ``-m``, else ``__main__``."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "work.py").write_text(
        "class Cart:\n"
        "    def pay(self):\n"
        "        def inner(): return inner.__code__\n"
        "        return inner()\n"
        "from sessionwatch.places import RawSite\n"
        "print(RawSite(Cart().pay(), 0).resolve().full_function)\n"
    )
    root = Path(sessionwatch.__file__).parents[1]
    told = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{root}:{tmp_path}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == ("__main__.inner" if command[0].endswith(".py") else "shop.work.inner")


def test_file_that_no_module_is_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """The function alone; what stands in for a module in ``sys.modules`` is passed by."""

    class Lazy:
        def __getattribute__(self, name: str) -> object:
            raise RuntimeError("imported")

    monkeypatch.setitem(sys.modules, "lazy", Lazy())  # type: ignore[arg-type]
    monkeypatch.setattr(places, "_modules", {})
    assert Site("/nowhere/app.py", 1, "view").full_function == "view"
    assert Site("<string>", 1, "view").full_function == "view"
    assert Site(__file__, 1, "view").full_function == f"{__name__}.view"
