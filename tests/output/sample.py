"""Findings and a recording as they are written to files: a small shop, made up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

BEGAN = 1_795_867_200.0  # 2026-11-28 12:00 UTC
PID = 4711

Line = dict[str, Any]


def place(path: str, line: int, function: str) -> Line:
    return {"path": path, "line": line, "function": function}


def evidence(label: str, path: str, line: int, session: str | None = None, **fields: Any) -> Line:
    who = {"thread": "MainThread", "task": None, "session": session, "note": None}
    return {"label": label, **place(path, line, "view"), **who, **fields}


def finding(number: int = 1, **fields: Any) -> Line:
    """One finding as a line of JSON; ``number`` makes it one of its own."""
    path, session = f"shop/views{number}.py", f"S{number}"
    story = [evidence("closed", path, 41, session), evidence("opened", "shop/db.py", 12, session)]
    made: Line = {
        "rule": "lost-writes",
        "severity": "fault",
        "subject": "Order",
        "message": f"{number} Order objects were written, but the session was closed without a commit",
        **place(path, 41, "ship"),
        "evidence": story,
        "session": {"id": session, "opened": None, "closed": None, "duration_s": 0.01, "statements": 2},
        "fix": "commit when the block ends: `with Session.begin() as session:`",
        "fingerprint": f"{number:016x}",
        "count": 1,
        "mode": "log",
        "level": "log",
        "unit": f"GET /orders/{number}",
        "chain": [place(path, 41, "ship"), place("shop/routes.py", number, "post")],
        "cause": f"cause {number}",
        "known": False,
        "allowed": None,
        "units": [f"GET /orders/{number}"],
        "units_total": 1,
        "tests": [],
        "tests_total": 0,
        "pid": PID,
        "time": "2026-11-28T12:00:00.000000Z",
        "schema": 2,
    }
    return made | fields


def session(number: int, opened: float, closed: float | None, **fields: Any) -> Line:
    """One session of a recording; times in seconds since the run began."""
    until = None if closed is None else BEGAN + closed
    made: Line = {
        "kind": "session",
        "pid": PID,
        "id": f"S{number}",
        "seen": number,
        "unit": number,
        "unit_name": "GET /orders/{id}",
        "thread": "MainThread",
        "task": None,
        "open": BEGAN + opened,
        "close": until,
        "end": "read_only",
        "opened": place("shop/db.py", 12, "get_session"),
        "closed": place("shop/db.py", 14, "get_session") if closed is not None else None,
        "marks": [["load", BEGAN + opened + 0.002, BEGAN + opened + 0.002, 1, "shop/views.py", 20]],
        "left_out": 0,
        "tx": [[BEGAN + opened + 0.001, until]],
        "connection": [[BEGAN + opened + 0.0015, until]],
    }
    return made | fields


def occurrence(number: int, when: float, label: str | None = None, **fields: Any) -> Line:
    """A finding met at a moment of a recording."""
    made: Line = {
        "kind": "finding",
        "pid": PID,
        "fingerprint": f"{number:016x}",
        "line": 41,
        "session": label or f"S{number}",
        "t": BEGAN + when,
        "late": False,
        "covered": False,
        "unit": number,
        "unit_name": "GET /orders/{id}",
        "thread": "MainThread",
        "task": None,
    }
    return made | fields


def shop() -> tuple[list[Line], list[Line]]:
    """Six findings of five causes (one is advice, one known, one allowed), and what was recorded of them."""
    lost = finding(1, subject="Order", count=3)
    again = finding(2, subject="Payment", cause="cause 1")
    story = [
        evidence("touched", "shop/mail.py", 22, task="Task-7"),
        evidence("closed", "shop/db.py", 14, "S3"),
        evidence("loaded", "shop/views.py", 20, "S3"),
        evidence("opened", "shop/db.py", 12, "S3"),
    ]
    late = finding(3, rule="detached-access", subject="Order.items", evidence=story, path="shop/mail.py", known=True)
    late |= {"message": "Order.items was read after its session had ended", "unit": "send_mail", "units": ["send_mail"]}
    many = finding(4, rule="n-plus-one", severity="advice", subject="Order.lines", message="loaded one at a time")
    story = [
        evidence("second", "shop/tasks.py", 9, "S5", task="Task-9"),
        evidence("first", "shop/views5.py", 41, "S5", task="Task-8"),
        evidence("opened", "shop/db.py", 12, "S5"),
    ]
    race = finding(5, rule="cross-task", subject="session", message="Two tasks were in one session", evidence=story)
    fine = finding(6, allowed="dry run", cause="cause 6")
    loads = [["load", BEGAN + 0.31, BEGAN + 0.37, 24, "shop/views4.py", 41]]
    writes = [
        ["load", BEGAN + 0.002, BEGAN + 0.002, 1, None, None],
        ["flush", BEGAN + 0.02, BEGAN + 0.02, 1, None, None],
    ]
    recorded = [
        session(1, 0.0, 0.05, end="lost", marks=writes),
        occurrence(1, 0.0501),
        session(2, 0.06, 0.1, end="lost", unit=None, unit_name=None, thread="stock-sync"),
        occurrence(2, 0.1001, unit=None, unit_name=None, thread="stock-sync"),
        session(3, 0.12, 0.16),
        occurrence(3, 0.22, late=True, covered=True, unit=30, unit_name="send_mail"),
        session(4, 0.3, 0.4, marks=loads),
        occurrence(4, 0.33),
        session(5, 0.42, 0.5, end="committed"),
        occurrence(5, 0.45, unit=31, unit_name="mark_sent"),
        session(7, 9.0, 9.05),
        session(8, 9.1, None, end="leaked", unit=None, unit_name=None, task="Task-12"),
        {"kind": "unit", "pid": PID, "unit": 1, "name": "GET /orders/{id}", "end": BEGAN + 0.06},
        {"kind": "totals", "pid": PID, "seen": 40, "unnoted": 0},
    ]
    return [lost, again, late, many, race, fine], recorded


HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>\x00\x1b[31m\u202e'\"`${1}"


def hostile() -> tuple[list[Line], list[Line]]:
    """Findings whose every string tries to be code."""
    findings, recorded = shop()
    return [_hostile(one) for one in findings], [_hostile(one) | {"kind": one["kind"]} for one in recorded]


def _hostile(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: item if key in ("kind", "fingerprint", "session") else _hostile(item) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_hostile(item) for item in value]
    return value + HOSTILE if isinstance(value, str) else value


def crowd(number: int) -> Iterator[Line]:
    """Many findings, two thirds as many causes."""
    for place_of in range(1, number + 1):
        yield finding(place_of, cause=f"cause {place_of * 2 // 3}", known=place_of % 2 == 0)
