"""Fixes that are pasted as they are printed: the finding is gone, and no other has come in its place.

Each program has a line that ends in ``# faulty``. ``pasted`` makes the repaired program of that and the printed fix.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import create_engine, inspect
from sqlalchemy.ext.asyncio import create_async_engine

import sessionwatch
from sessionwatch import Finding
from sessionwatch.model import Level, Mode
from tests.rules.clock import Clock
from tests.rules.examples import of_children
from tests.rules.models import seed

HEAD = """
import asyncio, contextlib, gc, os
from contextlib import asynccontextmanager, contextmanager
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, joinedload, scoped_session, selectinload, sessionmaker, undefer
from tests.rules.models import Customer, Item, Order, Profile, Tag
"""


class Case(NamedTuple):
    """A faulty program, the words of its fix that are pasted, and how."""

    name: str
    rule: str
    program: str
    pasted: str  # must be a part of what is printed
    repair: Callable[[str], str]
    modes: tuple[Mode, ...] = ("log", "strict")
    levels: Mapping[str, Level] | None = None  # where the program is not about the defaults


def before(line: str) -> Callable[[str], str]:
    """Put a line before the faulty one."""

    def repair(program: str) -> str:
        faulty = next(one for one in program.splitlines() if one.endswith("# faulty"))
        indent = faulty[: len(faulty) - len(faulty.lstrip())]
        return program.replace(faulty, f"{indent}{line}\n{faulty}")

    return repair


def instead(old: str, new: str) -> Callable[[str], str]:
    """Put something in the place of something."""

    def repair(program: str) -> str:
        assert old in program
        return program.replace(old, new)

    return repair


def each(*repairs: Callable[[str], str]) -> Callable[[str], str]:
    def repair(program: str) -> str:
        for one in repairs:
            program = one(program)
        return program

    return repair


CASES = [
    Case(
        "lost-writes",
        "lost-writes",
        """
        s = Session(engine)
        s.add(Tag(name="late"))
        s.flush()
        s.close()  # faulty
        """,
        "s.commit()",
        before("s.commit()"),
    ),
    Case(
        "lost-writes on purpose",
        "lost-writes",
        """
        s = Session(engine)
        s.add(Tag(name="late"))
        s.flush()
        s.close()  # faulty
        """,
        "s.rollback()",
        before("s.rollback()"),
    ),
    Case(
        "lost-writes by a block",
        "lost-writes",
        """
        with Session(engine) as session:  # faulty
            session.add(Tag(name="late"))
            session.flush()
        """,
        "with Session(engine) as session, session.begin():",
        instead("with Session(engine) as session:", "with Session(engine) as session, session.begin():"),
    ),
    Case(
        "lost-writes of a sessionmaker",
        "lost-writes",
        """
        maker = sessionmaker(engine)
        with maker() as session:  # faulty
            session.add(Tag(name="late"))
            session.flush()
        """,
        "with maker() as session, session.begin():",
        instead("with maker() as session:", "with maker() as session, session.begin():"),
    ),
    Case(
        "lost-writes of a sessionmaker, async",
        "lost-writes",
        """
        maker = async_sessionmaker(async_engine)
        async def main():
            async with maker() as session:  # faulty
                session.add(Tag(name="late"))
                await session.flush()
        asyncio.run(main())
        """,
        "async with maker() as session, session.begin():",
        instead("async with maker() as session:", "async with maker() as session, session.begin():"),
    ),
    Case(
        "lost-writes of a registry",
        "lost-writes",
        """
        Db = scoped_session(sessionmaker(engine))
        Db.add(Tag(name="late"))
        Db.flush()
        Db.remove()  # faulty
        """,
        "Db.commit()",
        before("Db.commit()"),
    ),
    Case(
        "lost-writes, async",
        "lost-writes",
        """
        async def main():
            async with AsyncSession(async_engine) as session:
                session.add(Tag(name="late"))
                await session.flush()
                pass  # faulty
        asyncio.run(main())
        """,
        "await session.commit()",
        before("await session.commit()"),
    ),
    Case(
        "lost-writes of an async registry",
        "lost-writes",
        """
        Db = async_scoped_session(async_sessionmaker(async_engine), scopefunc=asyncio.current_task)
        async def main():
            await Db.execute(update(Order).values(status="paid"))
            await Db.remove()  # faulty
        asyncio.run(main())
        """,
        "await Db.commit()",
        before("await Db.commit()"),
    ),
    Case(
        "lost-writes of zope",
        "lost-writes",
        """
        import transaction
        from zope.sqlalchemy import mark_changed, register
        DBSession = scoped_session(sessionmaker(engine))
        register(DBSession)
        transaction.begin()
        session = DBSession()
        session.execute(text("UPDATE orders SET status = 'paid'"))
        transaction.commit()  # faulty
        """,
        "mark_changed(session)",
        before("mark_changed(session)"),
    ),
    Case(
        "session-leak",
        "session-leak",
        """
        def read():
            session = Session(engine)  # faulty
            return len(session.scalars(select(Order)).all())
        read()
        """,
        "with Session(engine) as session:",
        instead(
            "    session = Session(engine)  # faulty\n    return",
            "    with Session(engine) as session:\n        return",
        ),
    ),
    Case(
        "session-leak of a sessionmaker",
        "session-leak",
        """
        maker = sessionmaker(engine)
        def read():
            session = maker()  # faulty
            return len(session.scalars(select(Order)).all())
        read()
        """,
        "with maker() as session:",
        instead(
            "    session = maker()  # faulty\n    return",
            "    with maker() as session:\n        return",
        ),
    ),
    Case(
        "session-leak of a provider that returns",
        "session-leak",
        """
        def get_session():
            return Session(engine)
        def read():
            session = get_session()  # faulty
            return len(session.scalars(select(Order)).all())
        read()
        """,
        "with get_session() as session:",
        instead(
            "    session = get_session()  # faulty\n    return",
            "    with get_session() as session:\n        return",
        ),
    ),
    Case(
        "session-leak of a provider that yields",
        "session-leak",
        """
        kept = []
        def get_session():
            with Session(engine) as session:
                yield session
        def read():
            kept.append(get_session())
            session = next(kept[0])  # faulty
            return len(session.scalars(select(Order)).all())
        with sessionwatch.unit_of_work("job"):
            read()
        """,
        "with get_session() as session:",
        each(
            instead("def get_session", "@contextmanager\ndef get_session"),
            instead(
                "    kept.append(get_session())\n    session = next(kept[0])  # faulty\n    return",
                "    with get_session() as session:\n        return",
            ),
        ),
    ),
    Case(
        "session-leak of an async registry",
        "session-leak",
        """
        Db = async_scoped_session(async_sessionmaker(async_engine), scopefunc=lambda: 1)
        async def main():
            async with sessionwatch.unit_of_work("job"):
                await Db.execute(select(Order))
                pass  # faulty
        asyncio.run(main())
        """,
        "await Db.remove()",
        before("await Db.remove()"),
    ),
    Case(
        "session-leak, async",
        "session-leak",
        """
        async def main():
            async with sessionwatch.unit_of_work("job"):
                session = AsyncSession(async_engine)  # faulty
                await session.execute(select(Order))
        asyncio.run(main())
        """,
        "async with AsyncSession(engine) as session:",
        instead(
            "session = AsyncSession(async_engine)  # faulty\n        await",
            "async with AsyncSession(async_engine) as session:\n            await",
        ),
    ),
    Case(
        "use-after-close of a provider that returns",
        "use-after-close",
        """
        def get_session():
            with Session(engine) as session:
                return session
        def read():
            session = get_session()  # faulty
            return len(session.scalars(select(Order)).all())
        with contextlib.suppress(sessionwatch.FindingError):
            read()
        """,
        "with get_session() as session:",
        each(
            instead("def get_session", "@contextmanager\ndef get_session"),
            instead("return session", "yield session"),
            instead(
                "    session = get_session()  # faulty\n    return",
                "    with get_session() as session:\n        return",
            ),
        ),
    ),
    Case(
        "swallowed-error",
        "swallowed-error",
        """
        with Session(engine) as s:
            s.add(Order(id=1))
            try:
                s.commit()
            except Exception:
                pass  # faulty
        """,
        "s.rollback()",
        before("s.rollback()"),
    ),
    Case(
        "swallowed-error of a registry",
        "swallowed-error",
        """
        Db = scoped_session(sessionmaker(engine))
        Db.add(Order(id=1))
        try:
            Db.commit()
        except Exception:
            pass  # faulty
        Db.remove()
        """,
        "Db.rollback()",
        before("Db.rollback()"),
    ),
    Case(
        "swallowed-error, async",
        "swallowed-error",
        """
        async def main():
            async with AsyncSession(async_engine) as session:
                session.add(Order(id=1))
                try:
                    await session.commit()
                except Exception:
                    pass  # faulty
        asyncio.run(main())
        """,
        "await session.rollback()",
        before("await session.rollback()"),
    ),
    Case(
        "detached-access of a query",
        "detached-access",
        """
        with Session(engine) as session:
            order = session.scalars(select(Order)).first()
        with contextlib.suppress(Exception):
            order.items
        """,
        ".options(selectinload(Order.items))",
        instead("select(Order)", "select(Order).options(selectinload(Order.items))"),
        ("log",),
    ),
    Case(
        "detached-access where loaded values count",
        "detached-access",
        """
        with Session(engine) as session:
            order = session.scalars(select(Order)).first()
        with contextlib.suppress(Exception):
            order.items
        """,
        "read it while the session is open",
        instead(
            "with contextlib.suppress(Exception):\n    order.items",
            "    items = len(order.items)",
        ),
        ("strict",),
    ),
    Case(
        "detached-access of what the session made",
        "detached-access",
        """
        with Session(engine) as session:
            order = Order()
            session.add(order)
            session.commit()
            pass  # faulty
        with contextlib.suppress(Exception):
            order.items
        """,
        'session.refresh(order, ["items"])',
        before('session.refresh(order, ["items"])'),
        ("log",),
    ),
    Case(
        "n-plus-one of keys",
        "n-plus-one",
        """
        async def main():
            keys = [1, 2]
            async with AsyncSession(async_engine) as session:
                for key in (1, 2, 3, 4, 5, 6):
                    await session.get(Order, key)  # faulty
        asyncio.run(main())
        """,
        "await session.scalars(select(Order).where(Order.id.in_(keys)))",
        instead(
            "for key in (1, 2, 3, 4, 5, 6):\n            await session.get(Order, key)  # faulty",
            "(await session.scalars(select(Order).where(Order.id.in_(keys)))).all()",
        ),
    ),
    Case(
        "n-plus-one of what the session made",
        "n-plus-one",
        """
        with Session(engine) as session:
            orders = [Order(items=[Item(name="bolt")]) for _ in range(6)]
            session.add_all(orders)
            session.commit()
            pass  # faulty
            print(sum(len(order.items) for order in orders))
        """,
        "session.scalars(select(Order).options(selectinload(Order.items)),"
        ' execution_options={"populate_existing": True})',
        before(
            "session.scalars(select(Order).options(selectinload(Order.items)),"
            ' execution_options={"populate_existing": True}).all()'
        ),
        ("log",),
    ),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where programs and databases are; nothing is installed."""
    sessionwatch.uninstall()
    return tmp_path


def run(
    folder: Path, program: str, mode: Mode, number: int, levels: Mapping[str, Level] | None = None
) -> list[Finding]:
    """The findings of a program, and of processes that it forked, on a database of its own."""
    path = folder / f"program{number}.py"
    path.write_text(HEAD + program)
    engine = create_engine(f"sqlite:///{folder / f'shop{number}.db'}")
    seed(engine)
    async_engine = create_async_engine(f"sqlite+aiosqlite:///{folder / f'shop{number}.db'}")
    names: dict[str, Any] = {
        "engine": engine, "async_engine": async_engine, "sessionwatch": sessionwatch, "__name__": "program",
        "url": f"sqlite:///{folder / f'shop{number}.db'}", "seed": seed,
    }  # fmt: skip
    output, process = folder / f"{number}.jsonl", os.getpid()
    off: dict[str, Level] = {"config": "off", "blocking-io": "off"}
    with sessionwatch.watching(mode, log=False, output=output, rules={**off, **(levels or {})}) as watch:
        names["sleep"] = Clock(watch).sleep
        try:
            with contextlib.suppress(sessionwatch.FindingError):
                exec(compile(path.read_text(), str(path), "exec"), names)
        finally:
            if os.getpid() != process:
                os._exit(0)
        names.clear()
        gc.collect()
        watch.drain()
        findings = list(watch.findings) + of_children(output)
    assert inspect(engine).get_table_names()
    engine.dispose()
    asyncio.run(async_engine.dispose())
    return findings


def check(folder: Path, case: Case, mode: Mode) -> None:
    """Put what is printed into the faulty program."""
    program = textwrap.dedent(case.program)
    found = [finding for finding in run(folder, program, mode, 1, case.levels) if finding.rule == case.rule]
    assert found, "the program is not faulty"
    assert case.pasted in found[0].fix.replace("\n", " ") or case.pasted in found[0].fix
    again = run(folder, case.repair(program), mode, 2, case.levels)
    assert [(finding.rule, finding.message) for finding in again] == []


@pytest.mark.parametrize("mode", ["log", "strict"])
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_fix_works_when_it_is_pasted(folder: Path, case: Case, mode: Mode) -> None:
    """What is printed is put into the faulty program."""
    if mode not in case.modes:
        pytest.skip("another fix is printed")
    check(folder, case, mode)
