"""A rule that is the only one on finds what it is for: what has to be hooked follows from its events alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest
from sqlalchemy import Engine, create_engine

import sessionwatch
from sessionwatch import FindingError, rules
from sessionwatch.model import Level, Mode, Rule
from tests.backends import enforce_foreign_keys
from tests.rules import models
from tests.rules.examples import example, of_children, run

PACKAGE = Path(sessionwatch.__file__).parent

NAMES = "from contextlib import suppress\nfrom sessionwatch import FindingError\n"

# What the bad example of a rule's page does not do: by the slug and the event, of which there may be several kinds.
PROGRAMS: dict[str, dict[str, list[str]]] = {
    "detached-write": {
        "DetachedWrite": [
            """
            with Session(engine) as session:
                order = session.scalars(select(Order).options(selectinload(Order.items))).first()
            order.items.append(Item(name="washer"))
            """,
            """
            with Session(engine) as session:
                order = session.scalars(select(Order)).first()
            order.extra["gift"] = False
            """,
            """
            with Session(engine) as session:
                order = session.scalars(select(Order)).first()
            del order.status
            """,
        ]
    },
    "lost-writes": {
        "ConnectionEnded": [
            """
            from sqlalchemy import text
            with engine.connect() as connection:
                connection.execute(text("UPDATE orders SET status = 'paid'"))
            """,
        ],
        "SessionEnded": [
            """
            session = Session(engine)
            session.add(Order(status="new"))
            session.close()
            """,
            """
            from sqlalchemy import text
            session = Session(engine)
            session.execute(text("UPDATE orders SET status = 'paid'"))
            del session
            """,
            """
            from sqlalchemy import delete
            with Session(engine) as session:
                session.execute(delete(Item))
            """,
        ],
    },
    "session-leak": {
        "SessionEnded": [
            """
            session = Session(engine)
            session.scalars(select(Order)).all()
            del session
            """
        ],
    },
    "use-after-close": {
        "SessionReused": [
            """
            def provide():
                with Session(engine) as session:
                    yield session
            for session in provide():
                pass
            session.get(Order, 1)
            session.close()
            """
        ]
    },
    "cross-task": {
        "Overlap": [
            """
            import threading
            from sqlalchemy import event, text
            session = Session(engine)
            session.connection()
            entered, leave = threading.Event(), threading.Event()
            def hold(*_):
                if not entered.is_set():
                    entered.set()
                    leave.wait(30)
            event.listen(engine, "before_cursor_execute", hold)
            thread = threading.Thread(target=lambda: session.execute(text("SELECT 1")))
            thread.start()
            entered.wait(30)
            with suppress(Exception):
                session.execute(text("SELECT 2"))
            leave.set()
            thread.join()
            session.close()
            """
        ]
    },
    "cross-session": {
        "GivenAway": [
            """
            with Session(engine) as session, Session(engine) as other:
                order = session.scalars(select(Order)).first()
                with suppress(Exception):
                    other.add(order)
            """,
            """
            with Session(engine) as session, Session(engine) as other:
                order = session.scalars(select(Order)).first()
                other.merge(order)
                order.status = "paid"
            """,
        ],
        "ChangedTwice": [
            """
            with Session(engine) as session, Session(engine) as other:
                order = session.scalars(select(Order)).first()
                same = other.scalars(select(Order)).first()
                order.status = "paid"
                session.commit()
                same.status = "sent"
                other.commit()
            """
        ],
    },
    "reattach": {
        "Reattached": [
            """
            with Session(engine) as session:
                order = session.scalars(select(Order)).first()
            with Session(engine) as session:
                same = session.scalars(select(Order)).first()
                with suppress(Exception):
                    session.add(order)
            """,
            """
            from sqlalchemy import text
            with Session(engine) as session:
                item = session.get(Item, 1)
            with Session(engine) as session:
                session.execute(text("UPDATE items SET id = 77 WHERE id = 1"))
                session.commit()
            with Session(engine) as session:
                session.add(item)
                item.name = "late"
                with suppress(Exception):
                    session.commit()
                session.rollback()
            """,
        ]
    },
    "n-plus-one": {
        "RepeatedGet": [
            """
            with Session(engine) as session:
                for number in range(1, 9):
                    session.get(Order, number)
            """
        ],
        "RepeatedLoad": [
            """
            with Session(engine) as session:
                session.add_all([Order(status="new", notes="") for _ in range(8)])
                session.commit()
                for order in session.scalars(select(Order)).all():
                    order.notes
            """
        ],
    },
    "swallowed-error": {
        "ErrorSwallowed": [
            """
            from sqlalchemy import text
            with Session(engine) as session:
                with suppress(Exception):
                    session.execute(text("INSERT INTO orders (id, status) VALUES (1, 'twice')"))
                with suppress(FindingError):
                    session.commit()
            """,
            """
            with Session(engine) as session:
                session.add(Order(id=1, status="twice"))
                with suppress(Exception):
                    session.flush()
                with suppress(Exception):
                    session.get(Order, 1)
                session.rollback()
            """,
        ]
    },
}


def programs() -> Iterator[tuple[Rule, tuple[type, ...], str]]:
    """Each rule with some of its events, and a program that must be reported for them."""
    for rule in rules.ALL:
        yield rule, rule.events, example(rule.slug, "Bad")
        further = PROGRAMS.get(rule.slug, {})
        for kind in rule.events:
            for source in further.get(kind.__name__, ()):
                yield rule, (kind,), source


CASES = [(*case, mode) for case in programs() for mode in sorted(case[0].on_in)]
NAMES_OF_CASES = ["-".join([rule.slug, *(kind.__name__ for kind in kinds), mode]) for rule, kinds, _, mode in CASES]


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """A SQLite file with the models' rows, for any thread; our own errors raise."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    engine = create_engine(f"sqlite:///{tmp_path / 'shop.db'}", connect_args={"check_same_thread": False})
    enforce_foreign_keys(engine)
    models.seed(engine)
    return engine


@pytest.mark.parametrize(("rule", "kinds", "source", "mode"), CASES, ids=NAMES_OF_CASES)
def test_a_rule_alone_reports(
    rule: Rule,
    kinds: tuple[type, ...],
    source: str,
    mode: Mode,
    database: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With every other rule off, and even with one of its events only, a rule reports in each mode that has it."""
    alone = replace(rule, events=kinds)
    monkeypatch.setattr(rules, "ALL", tuple(alone if other is rule else other for other in rules.ALL))
    levels: dict[str, Level] = {other.slug: "off" for other in rules.ALL}
    levels[rule.slug] = rule.level_in(mode)
    settings = {f"{rule.slug}.{name}": option.default for name, option in rule.settings.items()}  # 0 ms in all modes
    output = tmp_path / "found.jsonl"
    installed = sessionwatch.watching(mode, rules=levels, settings=settings, log=False, output=output)
    unit = sessionwatch.unit_of_work("program") if mode == "telemetry" else nullcontext()  # which guesses at no units
    with installed as watch, suppress(FindingError), unit:
        run(NAMES + dedent(source), tmp_path / "program.py", database, watch)
    assert {finding.rule for finding in watch.findings + of_children(output)} == {rule.slug}


def test_each_event_has_its_program() -> None:
    """A rule of several events has a program for each of them alone."""
    named = {(rule.slug, kind.__name__) for rule in rules.ALL for kind in rule.events}
    known = {(slug, kind) for slug, kinds in PROGRAMS.items() for kind in kinds}
    assert known <= named
    assert named - known <= {(rule.slug, rule.events[0].__name__) for rule in rules.ALL if len(rule.events) == 1}


# -- one name in one place ------------------------------------------------------------------------------

# Where the same word names something else: what users import, and a subcommand.
OTHER_THINGS = {("__init__.py", "boundary"), ("command/settings.py", "config")}
PROSE = ("command/", "demo/__init__.py")  # examples in texts that are shown: those of a rule may name it


def strings(path: Path) -> Iterator[str]:
    """The string constants of a module that are no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    skipped = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and _documents(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.value


def _documents(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return bool(node.body) and isinstance(node.body[0], ast.Expr)


@pytest.mark.parametrize("rule", rules.ALL, ids=lambda rule: rule.slug)
def test_a_slug_stands_in_its_own_file_alone(rule: Rule) -> None:
    """No other module of the package names a rule, or one of its settings; other rules may in what they show."""
    own = PACKAGE / "rules" / f"{rule.slug.replace('-', '_')}.py"
    assert rule.slug in set(strings(own))
    for path in sorted(set(PACKAGE.rglob("*.py")) - {own}):
        name = path.relative_to(PACKAGE).as_posix()
        for text in strings(path):
            if (name, rule.slug) not in OTHER_THINGS:
                assert text != rule.slug, f"{name} names the rule {rule.slug}"
            example = name.startswith(PROSE) and "=" in text
            assert example or not text.startswith(f"{rule.slug}."), f"{name} names a setting of {rule.slug}"
            shown = name.startswith(("rules/", *PROSE))
            assert shown or "-" not in rule.slug or rule.slug not in text, f"{name} names {rule.slug}: {text!r}"
