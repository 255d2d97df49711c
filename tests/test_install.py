"""``install()`` in every order and with every kind of session, its modes, its counters and its mistakes."""

# ruff: noqa: F811, PT012

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.orm.exc import DetachedInstanceError

import sessionwatch
from sessionwatch import ConfigError, FindingError, rules
from sessionwatch.hooks import installing
from sessionwatch.model import MODES
from sessionwatch.watch import installation
from sessionwatch.watch.watch import Watch
from tests.programs.shop import (  # noqa: F401 (fixtures)
    Base,
    Item,
    Order,
    _our_errors_raise,
    async_file_engine,
    change,
    detached,
    file_engine,
    leak,
    lose,
    read,
    reuse,
    shop,
    touch,
)


class Sub(Session):
    """A subclass without an ``__init__``."""


class WithInit(Session):
    """A subclass whose ``__init__`` calls super()."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mine = True


def found(installed: Watch) -> list[str]:
    return [finding.rule for finding in installed.findings]


# -- before and after ---------------------------------------------------------------------------------


def test_after_everything_exists(shop: Engine) -> None:
    """Engine, sessionmaker, registry and an open session may exist before the installation."""
    maker = sessionmaker(shop)
    registry = scoped_session(maker)
    session = maker()
    order = session.scalars(select(Order)).one()
    with sessionwatch.watching(log=False, rules={"detached-touch": "log"}) as installed:
        order.status = "changed"
        session.close()
        registry.add(Order())
        registry.flush()
        registry.remove()
        lose(shop, maker())
        assert order.status == "changed"
    assert sum(finding.count for finding in installed.findings if finding.rule == "lost-writes") == 3
    (adopted,) = [finding for finding in installed.findings if finding.subject == "Order.status"]
    assert any(row.note == "opened before sessionwatch was installed" for row in adopted.evidence)


def test_before_anything_exists(tmp_path: Path) -> None:
    """Models, engine and sessionmaker that are made afterwards are watched as well."""
    program = tmp_path / "late.py"
    program.write_text("""
import sessionwatch
watch = sessionwatch.install(log=False)
from tests.programs.shop import *
from sqlalchemy.orm import sessionmaker
engine = file_engine(Path(__file__).parent)
for mistake in (lose, leak, read, change, reuse):
    mistake(engine)
watch.drain()
print(*(finding.rule for finding in watch.findings))
""")
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, program], cwd=root, env={"PYTHONPATH": str(root)}, capture_output=True, text=True
    )
    assert done.stderr == ""
    assert done.stdout.split() == [
        "lost-writes",
        "session-leak",
        "detached-access",
        "detached-write",
        "use-after-close",
    ]


async def test_async_session_that_exists_already(tmp_path: Path) -> None:
    """An asyncio session that is open at the installation is watched from then on."""
    engine = await async_file_engine(tmp_path)
    session = AsyncSession(engine)
    with sessionwatch.watching(log=False) as installed:
        session.add(Order())
        await session.flush()
        await session.close()
    await engine.dispose()
    assert found(installed) == ["lost-writes"]


# -- kinds of sessions --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Session, Sub, WithInit], ids=lambda cls: cls.__name__)
def test_session_classes(kind: type[Session], shop: Engine) -> None:
    """Each class of session is watched, made by hand or by a sessionmaker, and the opening names our line."""
    with sessionwatch.watching(log=False) as installed:
        lose(shop, kind(shop))
        (finding,) = installed.findings
        opened = finding.evidence[-1]
        assert opened.label == "opened"
        assert opened.site is not None
        assert opened.site.function == "test_session_classes"
        installed.clear()
        lose(shop, sessionmaker(shop, class_=kind)())
    assert found(installed) == ["lost-writes"]


def test_scoped_session(shop: Engine) -> None:
    """A registry's session that is removed with writes in it lost them."""
    registry = scoped_session(sessionmaker(shop, class_=Sub))
    with sessionwatch.watching(log=False) as installed:
        registry.add(Order())
        registry.flush()
        registry.remove()
    assert found(installed) == ["lost-writes"]


@pytest.mark.parametrize("how", ["class", "maker", "scoped"])
async def test_async_sessions(how: str, tmp_path: Path) -> None:
    """AsyncSession, async_sessionmaker and async_scoped_session are watched, and count as async."""
    engine = await async_file_engine(tmp_path)
    with sessionwatch.watching(log=False) as installed:
        maker = async_sessionmaker(engine)
        session: Any = {
            "class": lambda: AsyncSession(engine),
            "maker": maker,
            "scoped": lambda: async_scoped_session(maker, asyncio.current_task),
        }[how]()
        session.add(Order())
        await session.flush()
        await session.remove() if how == "scoped" else await session.close()
        opened = installed.status()["sessions"]["opened"]
    await engine.dispose()
    assert found(installed) == ["lost-writes"]
    assert installed.findings[0].line is not None
    assert opened["async"] == 1


async def test_async_session_with_its_own_sync_class(tmp_path: Path) -> None:
    """An AsyncSession over a subclass of Session is watched."""
    engine = await async_file_engine(tmp_path)

    class Inner(WithInit):
        pass

    with sessionwatch.watching(log=False) as installed:
        async with AsyncSession(engine, sync_session_class=Inner) as session:
            session.add(Order())
            await session.flush()
    await engine.dispose()
    assert found(installed) == ["lost-writes"]
    assert installed.findings[0].evidence[-1].site is not None


def test_sqlmodel(tmp_path: Path) -> None:
    """SQLModel's own Session is watched."""
    sqlmodel = pytest.importorskip("sqlmodel")

    class Rider(sqlmodel.SQLModel, table=True):  # type: ignore[call-arg,name-defined,misc]
        id: int | None = sqlmodel.Field(default=None, primary_key=True)
        name: str

    engine = create_engine(f"sqlite:///{tmp_path / 'heroes.db'}")
    sqlmodel.SQLModel.metadata.create_all(engine, [Rider.__table__])
    with sessionwatch.watching("strict", log=False) as installed:
        with sqlmodel.Session(engine) as session:
            session.add(Rider(name="kept"))
            session.commit()
            assert session.exec(sqlmodel.select(Rider)).one().name == "kept"
        with pytest.raises(FindingError, match="1 Rider object was written"), sqlmodel.Session(engine) as session:
            session.add(Rider(name="lost"))
            session.flush()
        with sqlmodel.Session(engine) as session:
            hero = session.exec(sqlmodel.select(Rider)).one()
        with pytest.raises(FindingError, match=r"Rider\.name was read after its session had ended"):
            hero.name  # noqa: B018
    engine.dispose()
    assert found(installed) == ["lost-writes", "detached-touch"]


def test_flask_sqlalchemy(tmp_path: Path) -> None:
    """Flask-SQLAlchemy's scoped session is watched: a view that forgets to commit is named, one that commits is not."""
    flask = pytest.importorskip("flask")
    flask_sqlalchemy = pytest.importorskip("flask_sqlalchemy")
    with sessionwatch.watching(log=False, rules={"config": "off"}) as installed:
        app = flask.Flask("shop")
        app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path / 'flask.db'}"
        db = flask_sqlalchemy.SQLAlchemy(model_class=Base)
        db.init_app(app)

        @app.post("/forgets")
        def forgets() -> str:
            db.session.add(Order())
            db.session.flush()
            return "201"

        @app.post("/commits")
        def commits() -> str:
            db.session.add(Order())
            db.session.commit()
            return str(len(db.session.scalars(select(Order)).all()))

        with app.app_context():
            db.create_all()
        client = app.test_client()
        assert client.post("/commits").text == "1"
        assert installed.findings == []
        assert client.post("/forgets").text == "201"
        assert client.post("/commits").text == "2"
        with app.app_context():
            db.engine.dispose()
    (finding,) = installed.findings
    assert (finding.rule, finding.function) == ("lost-writes", "forgets")


def test_several_binds(shop: Engine, tmp_path: Path) -> None:
    """A session over two engines: what was written on either of them is lost together."""
    other = file_engine(tmp_path, "other.db")
    with sessionwatch.watching(log=False) as installed:
        session = Session(binds={Order: shop, Item: other})
        session.add(Order())
        session.add(Item())
        session.flush()
        session.close()
        assert installed.findings[0].subject in ("Order and Item", "Item and Order")
        with Session(binds={Order: shop, Item: other}) as session, session.begin():
            session.add_all([Order(), Item()])
        assert shop.pool.checkedout() == other.pool.checkedout() == 0  # type: ignore[attr-defined]
    other.dispose()
    assert found(installed) == ["lost-writes"]


# -- once ---------------------------------------------------------------------------------------------


def test_install_twice_is_one_installation() -> None:
    """A second call with the same settings, or with none, returns the same watch."""
    with sessionwatch.install(mode="strict", rules={"lost-writes": "log"}) as first:
        assert sessionwatch.install() is first
        assert sessionwatch.install(mode="strict") is first
        assert sessionwatch.install(rules={"lost-writes": "log"}) is first
        assert installation.current() is first
    assert installation.current() is None


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"mode": "log"}, r"mode \(is 'strict', asked for 'log'\)"),
        ({"rules": {"lost-writes": "off"}}, r"lost-writes \(is 'raise', asked for 'off'\)"),
        ({"settings": {"history.loads": 3}}, r"history.loads \(is 4096, asked for 3\)"),
        ({"settings": {"history": {"loads": 3}}}, r"history.loads \(is 4096, asked for 3\)"),
        ({"output": "x.jsonl"}, r"output \(is None, asked for 'x.jsonl'\)"),
        ({"target": Sub}, r"target \(is None, asked for "),
        ({"on_finding": print}, r"on_finding \(is None, asked for "),
    ],
)
def test_install_again_with_other_settings(keywords: dict[str, Any], message: str) -> None:
    """A second call that asks for something else says what differs, and changes nothing."""
    with sessionwatch.install(mode="strict") as first:
        with pytest.raises(ConfigError, match=message):
            sessionwatch.install(**keywords)
        assert installation.current() is first
        assert first.config.mode == "strict"


def test_watching_inside_an_installation() -> None:
    """A block inside of an installation uses it, and does not end it."""
    with sessionwatch.install(mode="strict") as outer:
        with sessionwatch.watching(mode="strict") as inner:
            assert inner is outer
        assert installation.current() is outer


@pytest.mark.parametrize("gives_way", [True, False])
def test_an_installation_that_begins_within_another_one(
    gives_way: bool, shop: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever installs while an installation is put in its place, as an import's hook does, gets that one."""
    before, put_in, inner, heard = dict(vars(Session)), installing.install, [], []

    def install(*arguments: Any, **options: Any) -> Any:
        inner.append(installation.install(gives_way=gives_way, log=False))
        inner[-1].subscribe(lambda *told: heard.append(told))
        return put_in(*arguments, **options)

    monkeypatch.setattr(installing, "install", install)
    with sessionwatch.watching(log=False) as outer:
        assert inner == [outer]
        monkeypatch.undo()
        lose(shop)
    assert [finding.message.partition(" was")[0] for finding in outer.findings] == ["1 Order object"]
    assert [(finding, first) for finding, first in heard] == [(outer.findings[0], True)]
    assert (installation.current(), dict(vars(Session))) == (None, before)


def test_an_installation_that_begins_while_another_thread_imports(tmp_path: Path) -> None:
    """A thread that installs when an import has ended, and one that waits for that import in order to install."""
    root = Path(__file__).resolve().parents[1]
    program = tmp_path / "program.py"
    program.write_text("""
import sys, threading, traceback
import sessionwatch, wrapt

def install():
    watches.append(sessionwatch.install(log=False))

def waits():
    frame = sys._current_frames().get(thread.ident)
    codes = [frame.f_code for frame, _ in traceback.walk_stack(frame)] if frame is not None else []
    return ("<frozen importlib._bootstrap>", "acquire") in {(code.co_filename, code.co_name) for code in codes}

def imported(module):
    thread.start()
    while not waits():
        pass
    install()

sessionwatch.install, watches, thread = sessionwatch.install, [], threading.Thread(target=install)
wrapt.register_post_import_hook(imported, "sqlalchemy.ext.asyncio")
import sqlalchemy.ext.asyncio
thread.join()
print(len(watches), watches[0] is watches[1] is sessionwatch.watch.installation.current())
""")
    environ = {"PYTHONPATH": str(root), "SESSIONWATCH_TESTING": "1"}
    done = subprocess.run(
        [sys.executable, program], env=environ, capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.stdout, done.stderr) == ("2 True\n", "")


def test_context_managers(shop: Engine) -> None:
    """``with install()`` and ``watching()`` uninstall at their end, also after an exception."""
    for block in (sessionwatch.install, sessionwatch.watching):
        with pytest.raises(ZeroDivisionError), block(log=False) as installed:
            lose(shop)
            raise ZeroDivisionError
        assert installation.current() is None
        assert found(installed) == ["lost-writes"]
        assert installed.status()["installed"] is False


# -- mistakes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"mode": "strickt"}, "Did you mean 'strict'"),
        ({"rules": {"lost-write": "off"}}, "Did you mean 'lost-writes'"),
        ({"rules": {"lost-writes": "of"}}, "Did you mean 'off'"),
        ({"rules": "lost-writes=off"}, "rules takes a table"),
        ({"settings": {"use-after-close.afte": "any"}}, "Did you mean 'use-after-close.after'"),
        ({"output": "/no/such/folder/out.jsonl"}, "output /no/such/folder/out.jsonl can't be written"),
    ],
)
def test_mistakes_leave_nothing_installed(keywords: dict[str, Any], message: str) -> None:
    """A wrong name or value is a ConfigError with the nearest name; SQLAlchemy stays untouched."""
    before = dict(vars(Session))
    with pytest.raises(ConfigError, match=message):
        sessionwatch.install(**keywords)
    assert installation.current() is None
    assert dict(vars(Session)) == before


def test_unknown_rule_in_explain() -> None:
    """``explain`` gives a page for each rule, and the nearest name for an unknown one."""
    for rule in rules.ALL:
        assert sessionwatch.explain(rule.slug).startswith(f"# {rule.slug}\n")
    with pytest.raises(ConfigError, match="Did you mean 'session-leak'"):
        sessionwatch.explain("session-leaks")


# -- modes --------------------------------------------------------------------------------------------


def test_log_mode_changes_nothing(shop: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """In log mode each distinct finding is one record with the story, and the program runs as before."""
    with sessionwatch.watching() as installed:
        for _ in range(2):
            for mistake in (lose, leak, read, change, reuse, touch):
                mistake(shop)
    records = [record for record in caplog.records if record.name == "sessionwatch"]
    assert len(records) == len(installed.findings) == 5
    assert [record.args[0].finding for record in records] == installed.findings  # type: ignore[index,union-attr]
    assert {record.levelname for record in records} <= {"WARNING", "ERROR"}
    assert {finding.count for finding in installed.findings} == {2}
    assert records[0].getMessage().startswith("lost-writes: 1 Order object was written")


def test_strict_mode_raises_and_gives_connections_back(shop: Engine) -> None:
    """In strict mode mistakes raise at safe points; both of our errors can be caught as SQLAlchemy's."""
    with sessionwatch.watching(mode="strict", log=False) as installed:
        with pytest.raises(FindingError, match="lost-writes"):
            lose(shop)
        with pytest.raises(FindingError, match="use-after-close"):
            reuse(shop)
        with pytest.raises(DetachedInstanceError) as touched:
            touch(shop)
        assert isinstance(touched.value, FindingError)
        order = detached(shop)
        with pytest.raises(DetachedInstanceError) as refused:
            order.items  # noqa: B018
        assert isinstance(refused.value, FindingError)
        assert shop.pool.checkedout() == 0  # type: ignore[attr-defined]
        change(shop)
        installed.drain()
    assert set(found(installed)) == {
        "lost-writes",
        "use-after-close",
        "detached-touch",
        "detached-access",
        "detached-write",
    }


@pytest.mark.parametrize("mistake", [lose, leak, read, change, reuse, touch], ids=lambda function: function.__name__)
def test_telemetry_never_raises(mistake: Any, shop: Engine) -> None:
    """In telemetry mode no mistake raises, though every rule is set to raise."""
    everything: Any = {rule.slug: "raise" for rule in rules.ALL}
    with sessionwatch.watching(mode="telemetry", rules=everything, log=False) as installed:
        mistake(shop)
    assert len(installed.findings) == 1
    assert installed.findings[0].raised is False


def test_telemetry_counts(shop: Engine) -> None:
    """Sessions by outcome and kind, statements, flushes and rows: exactly what was done."""
    with sessionwatch.watching(mode="telemetry", log=False) as installed:
        for _ in range(3):
            with Session(shop) as session:  # committed: 1 flush, 1 insert
                session.add(Order())
                session.commit()
        with Session(shop) as session:  # rolled back: 1 flush, 1 insert of 2 rows
            session.add_all([Order(), Order()])
            session.flush()
            session.rollback()
        for _ in range(2):
            with Session(shop) as session:  # read only: 1 statement
                session.scalars(select(Order)).all()
        with Session(shop):
            pass
        lose(shop)
        leak(shop)
        session = Session(shop)
        assert installed.status()["sessions"]["active"] == 1
        session.close()
        status = installed.status()
    assert status["sessions"]["opened"] == {"sync": 10}
    assert status["sessions"]["closed"] == {
        "committed, sync": 3,
        "rolled_back, sync": 1,
        "read_only, sync": 4,
        "lost, sync": 1,
        "leaked, sync": 1,
    }
    assert status["sessions"]["active"] == 0
    assert status["flushes"] == 3 + 1 + 1
    assert status["rows_written"] == 3 + 2 + 1
    assert status["findings"] == {"lost-writes": 1, "session-leak": 1}
    assert status["statements"] >= 3 + 1 + 2 + 1 + 1


def test_counts_of_statements_and_rows(shop: Engine) -> None:
    """Statements are those at the cursor; rows are those that INSERT, UPDATE and DELETE touched."""
    with sessionwatch.watching(mode="telemetry", log=False) as installed:
        with Session(shop) as session:
            session.execute(insert(Item), [{"name": "x"}] * 5)
            session.execute(text("UPDATE items SET name = 'y' WHERE name = 'x'"))
            session.connection().exec_driver_sql("DELETE FROM items WHERE name = 'y'")
            session.scalars(select(Item)).all()
            session.commit()
        status = installed.status()
    assert (status["statements"], status["rows_written"], status["flushes"]) == (4, 15, 0)


async def test_counts_of_asyncio(tmp_path: Path) -> None:
    """Async sessions are counted as async, also those that several tasks use at once."""
    engine: AsyncEngine = await async_file_engine(tmp_path)

    async def job() -> None:
        async with AsyncSession(engine) as session:
            await session.scalars(select(Order))

    with sessionwatch.watching(mode="telemetry", log=False) as installed:
        await asyncio.gather(*(job() for _ in range(10)))
        status = installed.status()
    await engine.dispose()
    assert {kind: count for kind, count in status["sessions"]["opened"].items() if count} == {"async": 10}
    assert status["sessions"]["closed"] == {"read_only, async": 10}
    assert status["statements"] == 10


@pytest.mark.parametrize("mode", MODES)
def test_a_session_that_is_used_again_counts_twice(mode: Any, shop: Engine) -> None:
    """Each life of a session that is closed and used again is one session opened and one closed."""
    with sessionwatch.watching(mode=mode, log=False) as installed:
        session = Session(shop)
        for _ in range(2):
            session.scalars(select(Order)).all()
            session.close()
        status = installed.status()["sessions"]
    assert (status["opened"], status["closed"]) == ({"sync": 2}, {"read_only, sync": 2})


def test_callback_hears_each_finding_once(shop: Engine) -> None:
    """``on_finding`` gets the finding when it is first seen."""
    heard: list[sessionwatch.Finding] = []
    with sessionwatch.watching(on_finding=heard.append, log=False) as installed:
        for _ in range(3):
            lose(shop)
        assert heard == installed.findings
        assert [finding.count for finding in heard] == [3]


def lose_and_change(engine: Engine) -> None:
    """lost-writes, at two lines of one function"""
    with Session(engine) as session:
        session.add(Order())
        session.flush()
    with Session(engine) as session:
        session.get_one(Order, 1).status = "changed"


def test_each_line_is_told(shop: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """Two mistakes in one function are two findings, each of them logged and counted by itself."""
    heard: list[sessionwatch.Finding] = []
    with sessionwatch.watching(on_finding=heard.append) as watch:
        lose_and_change(shop)
        lose_and_change(shop)
        assert [(finding.rule, finding.count) for finding in watch.findings] == [("lost-writes", 2)] * 2
        assert watch.status()["findings"] == {"lost-writes": 4}
    assert len({finding.line for finding in heard}) == len(heard) == 2
    assert len({finding.fingerprint for finding in heard}) == 1
    assert [record.lineno for record in caplog.records] == [finding.line for finding in heard]


def test_code_that_is_made_at_run_time_does_not_fill_memory(shop: Engine) -> None:
    """One function at ever new lines is remembered as often as ``history.findings`` says, and then only counted."""
    heard: list[sessionwatch.Finding] = []
    settings = {"history.findings": 5}
    with sessionwatch.watching(log=False, settings=settings, on_finding=heard.append) as watch:
        for number in range(9):
            made = "session = Session(engine); session.add(Order()); session.flush(); session.close()"
            code = compile("\n" * number + made, "made.py", "exec")
            exec(code, {"Session": Session, "Order": Order, "engine": shop})
        assert len(watch.findings) == len(watch.store) == len(heard) == 5
        assert watch.status()["findings_not_kept"] == 4


def test_owner_of(shop: Engine) -> None:
    """``owner_of`` tells of a live and of a detached instance, and is None where nothing is known."""
    assert sessionwatch.owner_of(Order()) is None
    with sessionwatch.watching(log=False):
        with Session(shop) as session:
            order = session.scalars(select(Order)).one()
            live = sessionwatch.owner_of(order)
        gone = sessionwatch.owner_of(order)
        assert sessionwatch.owner_of(Order()) is None
        assert sessionwatch.owner_of("no instance") is None
    assert live is not None
    assert gone is not None
    assert (live.state, live.closed, gone.state, gone.closed_how) == ("persistent", None, "detached", "closed")
    assert live.session == gone.session
    assert gone.loaded is not None
    assert gone.loaded.function == "test_owner_of"
    assert sessionwatch.owner_of(order) is None


# -- without greenlet ---------------------------------------------------------------------------------

WITHOUT_GREENLET = """
import sys

class NoGreenlet:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "greenlet":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoGreenlet())
"""


SYNC_FAULTS = """
import contextlib, gc
import sessionwatch
from sqlalchemy.exc import SQLAlchemyError
from little_shop import *

engine = file_engine(Path(__file__).parent)
with Session(engine) as session:
    session.add_all([Order(status="new") for _ in range(6)])
    session.commit()
with sessionwatch.watching(mode=MODE, rules=dict.fromkeys(SLUGS, "log"), log=False) as watch:
    lose(memory_engine())                                       # lost-writes
    with contextlib.suppress(SQLAlchemyError), Session(engine) as session:
        order = session.scalars(select(Order)).first()
    order.status                                                # detached-touch
    order.status = "shipped"                                    # detached-write
    session.scalars(select(Order)).all()                        # use-after-close
    session.commit()
    with Session(engine) as session:
        for order in session.scalars(select(Order)).all():
            session.expire(order)
            order.status                                        # n-plus-one
        session.commit()
    with contextlib.suppress(SQLAlchemyError):
        order.status                                            # detached-access
    with sessionwatch.unit_of_work("job"):
        leaked = Session(engine)
        leaked.scalars(select(Order)).all()                     # session-leak
        with Session(engine) as session:
            session.add(Order(status="new"))
            session.commit()
        with Session(engine) as session:
            session.add(Order(status="new"))
            session.commit()                                    # split-unit-of-work
    leaked.close()
    with Session(engine) as session:
        session.add(Order(id=1, status="again"))
        with contextlib.suppress(SQLAlchemyError):
            session.flush()                                     # swallowed-error
    with Session(engine) as one, Session(engine) as other:
        order = one.get(Order, 2)
        with contextlib.suppress(SQLAlchemyError):
            other.add(order)                                    # cross-session
    del order
    gc.collect()
print(*sorted({finding.rule for finding in watch.findings}), sep="\\n")
print("greenlet" in sys.modules, "sqlalchemy.ext.asyncio.session" in sys.modules, watch.status()["internal_errors"])
"""


@pytest.mark.parametrize("mode", MODES)
def test_sync_works_without_greenlet(mode: str, tmp_path: Path) -> None:
    """Where greenlet is not installed, the rules report what sync sessions do, and nothing of asyncio is hooked."""
    root = Path(__file__).resolve().parents[1]
    model = (root / "tests" / "programs" / "shop.py").read_text().replace("from sqlalchemy.ext.asyncio import", "#")
    (tmp_path / "little_shop.py").write_text(model)
    program = tmp_path / "program.py"
    slugs = [rule.slug for rule in rules.ALL if rule.slug != "config"]
    program.write_text(f"{WITHOUT_GREENLET}\nMODE, SLUGS = {mode!r}, {slugs!r}\n{SYNC_FAULTS}")
    environ = {"PYTHONPATH": str(root), "SESSIONWATCH_TESTING": "1"}
    done = subprocess.run([sys.executable, program], env=environ, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    expected = re.findall(r"# ([a-z-]+)$", SYNC_FAULTS, re.MULTILINE)
    assert done.stdout.splitlines() == [*sorted(expected), "False False {}"]


def test_asyncio_is_refused_without_greenlet_as_before(tmp_path: Path) -> None:
    """SQLAlchemy's asyncio fails at its first import only, since 2.1; that one has to be the program's."""
    root = Path(__file__).resolve().parents[1]
    run: dict[str, Any] = {"env": {"PYTHONPATH": str(root)}, "capture_output": True, "text": True, "check": False}
    plain = tmp_path / "plain.py"
    plain.write_text(f"{WITHOUT_GREENLET}\nimport sqlalchemy.ext.asyncio")
    program = tmp_path / "program.py"
    program.write_text(f"""{WITHOUT_GREENLET}
from dataclasses import dataclass
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
import sessionwatch
class Base(DeclarativeBase): ...
class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
@dataclass
class OrderDTO:
    id: int
engine = create_engine("sqlite://")
Base.metadata.create_all(engine)
with sessionwatch.watching(target=engine), Session(engine) as session:
    session.add(Order())
    session.commit()
    print([sessionwatch.dto.extract(session.query(Order).one(), OrderDTO) for _ in range(2)])
try:
    sessionwatch.install(target="nothing")
except sessionwatch.ConfigError as error:
    print(error)
import sqlalchemy.ext.asyncio
""")
    done = subprocess.run([sys.executable, program], **run)
    assert done.stdout.splitlines() == [
        "[OrderDTO(id=1), OrderDTO(id=1)]",
        "target must be a sessionmaker, a Session class or an engine, not str",
    ]
    bare = subprocess.run([sys.executable, plain], **run)
    assert done.returncode == bare.returncode
    assert done.stderr.splitlines()[-1:] == bare.stderr.splitlines()[-1:]


def test_run_without_greenlet(tmp_path: Path) -> None:
    """A program that tries asyncio first, and lives without it, is watched by ``sessionwatch run``."""
    root = Path(__file__).resolve().parents[1]
    model = (root / "tests" / "programs" / "shop.py").read_text().replace("from sqlalchemy.ext.asyncio import", "#")
    (tmp_path / "little_shop.py").write_text(model)
    program = tmp_path / "program.py"
    attempt = "try:\n    import sqlalchemy.ext.asyncio\nexcept ImportError:\n    pass\n"
    program.write_text(WITHOUT_GREENLET + attempt + "from little_shop import *\nlose(memory_engine())\n")
    command = [sys.executable, "-m", "sessionwatch", "run", "--fail", program]
    done = subprocess.run(command, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "lost-writes" in done.stderr


def test_run_of_pytest_without_greenlet(tmp_path: Path) -> None:
    """What the installation of the pytest plugin finds is reported by ``sessionwatch run``, too."""
    root = Path(__file__).resolve().parents[1]
    model = (root / "tests" / "programs" / "shop.py").read_text().replace("from sqlalchemy.ext.asyncio import", "#")
    (tmp_path / "little_shop.py").write_text(model)
    rewrite = "import pytest\npytest.register_assert_rewrite('sessionwatch')\n"  # as for an installed plugin
    (tmp_path / "early.py").write_text(WITHOUT_GREENLET + rewrite)
    (tmp_path / "pytest.ini").write_text("[pytest]\nsessionwatch = log\n")
    (tmp_path / "test_it.py").write_text("from little_shop import *\ndef test(): lose(memory_engine())\n")
    plugins = ["-p", "early", "-p", "sessionwatch.pytest_plugin", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "sessionwatch", "run", "--fail", "-m", "pytest", *plugins]
    environ = {"PYTHONPATH": f"{root}:{tmp_path}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "\nsessionwatch: 1 fault\n" in done.stdout
    assert "sessionwatch: 1 fault\n" in done.stderr
    assert done.stderr.count("\nA  FAULT  lost-writes  Order  ") == 1
    assert done.stderr.count("1 Order object was written") == 1


@pytest.mark.parametrize("first", ["sqlalchemy.ext.asyncio", "sqlalchemy.ext.mutable", "sqlalchemy.orm", "sqlalchemy"])
def test_run_hooks_everything_whatever_is_imported_first(first: str, tmp_path: Path) -> None:
    """``sessionwatch run`` puts in every hook, whichever part of SQLAlchemy the program imports first."""
    root = Path(__file__).resolve().parents[1]
    program = tmp_path / "program.py"
    program.write_text(f"""
import {first}
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.ext.mutable import Mutable
from sqlalchemy.orm import Session
for function in (AsyncSession.__aexit__, AsyncSession.close, Mutable.changed, Session._close_impl):
    print("sessionwatch" in function.__code__.co_filename)
""")
    command = [sys.executable, "-m", "sessionwatch", "run", program]
    done = subprocess.run(command, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True"] * 4
    assert done.stderr.strip() == "sessionwatch: no findings"
