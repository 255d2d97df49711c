"""Scenario 3: the inventory that a migration needs, equal to a list by hand, and what is left of it afterwards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sessionwatch.command.cli import main

SCENARIO = Path(__file__).parents[1] / "scenarios" / "s3_migration"

# By hand, from reading the faulty program: anti-pattern, rule, function, and what stands on the line.
BY_HAND = [
    ("sync-in-async", "blocking-io", "open_tickets", "tickets = db.query(Ticket)"),
    ("expired-read", "implicit-io", "close_ticket", 'return {"title": ticket.title}'),
    ("gathered-session", "cross-task", "numbers", "await asyncio.gather(count(db, Ticket), count(db, Agent)"),
    ("shared-session", "cross-task", "report", "asyncio.create_task(asyncio.to_thread(summarise, db))"),
    ("sync-in-async", "blocking-io", "report", "agent = db.scalar(select(Agent.name))"),
    ("sync-in-async", "blocking-io", "heartbeat", "agent = db.query(Agent).first()"),
    ("expiring-async", "config", "main", "app.state.sessions = async_sessionmaker(async_engine)"),
]
OPERATIONS_BY_HAND = {
    "sync": {"connection": 1, "execute": 1, "query": 2, "scalar": 1},
    "async": {"commit": 1, "connection": 1, "get_one": 1, "scalar": 1},
}
OPENINGS_BY_HAND = {"sync": 4, "async": 2}
SOURCES_BY_HAND = [
    ("sessionmaker", "app.state.sync_sessions", False),
    ("sessionmaker", "app.state.sessions", True),
]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The faulty program as ``desk.py`` in a folder of its own, beside the files that it imports."""
    folder = tmp_path / "tests" / "scenarios" / "s3_migration"
    folder.mkdir(parents=True)
    for name in ("client.py", "models.py"):
        shutil.copy(SCENARIO / name, folder)
    shutil.copy(SCENARIO / "faulty.py", folder / "desk.py")
    monkeypatch.chdir(tmp_path)
    return folder


def asked(*arguments: str, capsys: pytest.CaptureFixture[str]) -> dict:
    assert main(["audit", "tests", "--format", "json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_inventory_is_the_list_by_hand(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Anti-patterns, rules, functions and lines; openings and operations, sync and asyncio; the makers."""
    told = asked(capsys=capsys)
    lines = (project / "desk.py").read_text(encoding="utf-8").splitlines()
    entries = told["anti_patterns"]
    assert [(each["pattern"], each["rule"], each["function"]) for each in entries] == [each[:3] for each in BY_HAND]
    for entry, (*_, text) in zip(entries, BY_HAND, strict=True):
        assert text in lines[entry["line"] - 1]
        assert entry["confidence"] == "certain"
    desk = next(each for each in told["files"] if each["path"].endswith("desk.py"))
    wanted = {
        kind: {name: count for name, count in counts.items() if count} for kind, counts in OPERATIONS_BY_HAND.items()
    }
    assert desk["operations"] == wanted
    assert desk["openings"] == OPENINGS_BY_HAND
    assert (desk["sync_in_async"], desk["legacy_queries"], desk["work"]) == (4, 2, 7)
    assert told["files"][0]["path"] == desk["path"]
    assert [(each["kind"], each["name"], each["asynchronous"]) for each in told["sources"]] == SOURCES_BY_HAND


def test_a_function_has_its_own_counts(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each function says what it opens and does, and whether it is a coroutine."""
    desk = next(each for each in asked(capsys=capsys)["files"] if each["path"].endswith("desk.py"))
    functions = {each["function"]: each for each in desk["functions"]}
    report = functions["report"]
    assert (report["is_async"], report["openings"], report["sync_in_async"]) == (True, 1, 2)
    assert report["operations"] == {"connection": 1, "scalar": 1}
    assert functions["summarise"]["is_async"] is False


def test_after_the_repair_all_of_it_is_gone(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--since`` names each anti-pattern as gone, none as new, and the operations that went."""
    before = project / "before.json"
    assert main(["audit", "tests", "--format", "json", "--output", str(before)]) == 0
    shutil.copy(SCENARIO / "repaired.py", project / "desk.py")
    told = asked("--since", str(before), capsys=capsys)
    assert told["anti_patterns"] == []
    since = told["since"]
    assert [each["function"] for each in since["gone"]] == [function for *_, function, _ in BY_HAND]
    assert (since["new"], since["stayed"], since["sync_in_async"]) == ([], 0, -4)


def test_the_text_says_what_is_gone(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same for people."""
    before = project / "before.json"
    assert main(["audit", "tests", "--format", "json", "--output", str(before)]) == 0
    shutil.copy(SCENARIO / "repaired.py", project / "desk.py")
    assert main(["audit", "tests", "--since", str(before), "--fail"]) == 0
    told = capsys.readouterr().out
    assert f"since {before}: 7 gone, 0 new, 0 left" in told
    assert told.count("  gone  ") == 7
