"""No value leaves the program: canaries are planted wherever a program keeps data, and looked for in every export.

Each rule has a mistake that makes its finding, with canaries in the values, parameters, literals and exceptions that
it comes by; `test_every_rule_has_a_mistake` keeps it so for rules to come.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, CheckConstraint, Engine, ForeignKey, String, create_engine, event, insert, select, text
from sqlalchemy.exc import DatabaseError, InvalidRequestError, MissingGreenlet, StatementError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship
from sqlalchemy.orm.exc import DetachedInstanceError
from sqlalchemy.pool import NullPool, StaticPool

import sessionwatch
from sessionwatch import FindingError, rules
from sessionwatch.record import sql
from sessionwatch.units.asgi import UnitOfWorkMiddleware
from sessionwatch.watch.watch import Watch
from tests.models import Base, create
from tests.rules.clock import Clock
from tests.rules.test_cross_task import held
from tests.services import POSTGRESQL
from tests.tracing.conftest import Installer
from tests.tracing.otel import Otel

CORE = "kanarie" + secrets.token_hex(4)  # made at run time, so that no source line holds it
SHAPES = (
    "{}",
    "it's {}",
    '"{}"',
    "%s {} %(x)s",
    "a\\' FROM {}",
    "`{}`",
    "-- {}\n",
    "/* {} */",
    "$t$ {} $t$",
    "\u2603 {}",
)


def canary(shape: int = 0) -> str:
    """A value that nobody else has."""
    return SHAPES[shape % len(SHAPES)].format(CORE)


class Owner(Base):
    """A row with a key that is a value; its defaults, comments and constraints hold canaries."""

    __tablename__ = "owners"

    email: Mapped[str] = mapped_column(String(200), primary_key=True)
    name: Mapped[str] = mapped_column(String(200), default=canary(), server_default=canary(), comment=canary())
    options: Mapped[Any] = mapped_column(JSON(), default=dict)
    pets: Mapped[list[Pet]] = relationship(back_populates="owner")

    __table_args__ = (CheckConstraint("length(name) < 150"), {"comment": canary(), "info": {"note": canary()}})

    def __repr__(self) -> str:
        return f"Owner({self.__dict__.get('email')!r}) {CORE}"


class Pet(Base):
    """A row that belongs to another."""

    __tablename__ = "pets"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(String(200))
    owner_email: Mapped[str | None] = mapped_column(ForeignKey("owners.email"))
    owner: Mapped[Owner | None] = relationship(back_populates="pets")


@pytest.fixture
def zoo(tmp_path: Path) -> Iterator[Engine]:
    """A database whose rows are canaries."""
    engine = create_engine(f"sqlite:///{tmp_path}/zoo.db", connect_args={"check_same_thread": False})
    create(engine, Owner, Pet)
    with Session(engine) as session:
        for number in range(len(SHAPES)):
            email = f"{canary(number)} {number}"
            session.add(Owner(email=email, name=canary(number), pets=[Pet(name=canary(number))]))
        session.commit()
    yield engine
    engine.dispose()


def first(session: Session) -> Owner:
    return session.scalars(select(Owner).where(Owner.name.contains(CORE)).order_by(Owner.email)).first()  # type: ignore[return-value]


def gone(engine: Engine) -> Owner:
    with Session(engine, info={"user": canary()}) as session:
        return first(session)


# -- a mistake for every rule -------------------------------------------------------------------------


def detached_access(engine: Engine, shape: int) -> None:
    with contextlib.suppress(DetachedInstanceError):
        gone(engine).pets  # noqa: B018


def detached_touch(engine: Engine, shape: int) -> None:
    gone(engine).name  # noqa: B018


def detached_write(engine: Engine, shape: int) -> None:
    gone(engine).name = canary(shape)


def lost_writes(engine: Engine, shape: int) -> None:
    session = Session(engine)
    session.add(Pet(name=canary(shape)))
    session.flush()
    session.execute(insert(Pet).values(name=canary(shape)), execution_options={"token": canary()})
    quoted = canary(shape).replace("'", "''").replace(":", "\\:")
    session.execute(text(f"UPDATE pets SET name = '{quoted}' WHERE id = 1 /* {CORE} */ -- {CORE}"))
    session.connection().exec_driver_sql("UPDATE pets SET name = ?", (canary(shape),))
    session.add(Owner(email=canary(shape) + "new"))
    session.close()


def session_leak(engine: Engine, shape: int) -> None:
    def leave() -> None:
        session = Session(engine, info={canary(): canary()})
        session.execute(text(f"SELECT '{CORE} FROM x' AS \"{CORE}\" WHERE :p = :p"), {"p": canary(shape)})

    leave()
    gc.collect()


def use_after_close(engine: Engine, shape: int) -> None:
    with Session(engine) as session:
        first(session)
    first(session)
    session.close()


def cross_task(engine: Engine, shape: int) -> None:
    session = Session(engine)
    session.connection()
    with held(engine, lambda: session.execute(text("SELECT :p"), {"p": canary(shape)}).all()):
        session.execute(text("SELECT :p"), {"p": canary(shape)})
    session.close()


def cross_session(engine: Engine, shape: int) -> None:
    with Session(engine) as one, Session(engine) as two, contextlib.suppress(InvalidRequestError):
        two.add(first(one))


def reattach(engine: Engine, shape: int) -> None:
    stale = gone(engine)
    with Session(engine) as session:
        first(session).name = canary(shape + 1) + "newer"
        session.commit()
        session.merge(stale)
        session.commit()


def implicit_io(engine: Engine, shape: int) -> None:
    async def read() -> None:
        database = create_async_engine(f"sqlite+aiosqlite:///{engine.url.database}", poolclass=NullPool)
        async with AsyncSession(database) as session:
            owner = (await session.scalars(select(Owner).where(Owner.name.contains(CORE)))).first()
            with contextlib.suppress(MissingGreenlet, StatementError):  # which it is depends on the release
                owner.pets  # type: ignore[union-attr]  # noqa: B018
        await database.dispose()

    asyncio.run(read())


def n_plus_one(engine: Engine, shape: int) -> None:
    with Session(engine) as session:
        for owner in session.scalars(select(Owner)).all():
            assert owner.pets is not None
    with Session(engine) as session:
        for key in [f"{canary(number)} {number}" for number in range(6)]:
            session.get(Owner, key)


def blocking_io(engine: Engine, shape: int) -> None:
    async def block() -> None:
        gone(engine)

    asyncio.run(block())


def split_unit_of_work(engine: Engine, shape: int) -> None:
    with sessionwatch.unit_of_work("both"):
        with Session(engine) as session:
            session.add(Pet(name=canary(shape)))
            session.commit()
        with Session(engine) as session:
            session.add(Pet(name=canary(shape)))
            session.commit()


def long_session(engine: Engine, shape: int) -> None:
    watch = sessionwatch.watch.installation.current()
    assert watch is not None
    with Session(engine) as session:
        first(session)
        Clock(watch).sleep(3600)
        session.rollback()


def swallowed_error(engine: Engine, shape: int) -> None:
    with Session(engine) as session:
        session.add(Pet(name=canary()))
        session.flush()
        with contextlib.suppress(DatabaseError):
            session.execute(insert(Owner).values(email=f"{canary(shape)} {shape}", name=canary(shape)))
        session.execute(select(Pet)).all()
        with contextlib.suppress(DatabaseError):
            session.execute(text(f'SELECT * FROM pets WHERE nothing = "{CORE}" AND no.thing = 1'))
        session.commit()


def cross_process(engine: Engine, shape: int) -> None:
    """This process is taken for a child that was forked after its connection was made."""
    watch = sessionwatch.watch.installation.current()
    assert watch is not None
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    watch.tracker.forked, watch.tracker.parent = time.time() + 1, os.getpid() + 1
    try:
        gone(engine)
    finally:
        watch.tracker.forked = 0.0


def foreign_loop(engine: Engine, shape: int) -> None:
    database = create_async_engine(POSTGRESQL.url().set(drivername="postgresql+asyncpg"))

    async def ask() -> None:
        async with AsyncSession(database) as session:
            await session.execute(text("SELECT CAST(:p AS TEXT)"), {"p": canary(shape).replace("\0", "")})

    for _ in range(2):
        with contextlib.suppress(RuntimeError, DatabaseError):
            asyncio.run(ask())


def shared_connection(engine: Engine, shape: int) -> None:
    static = create_engine("sqlite://", poolclass=StaticPool)
    create(static, Owner, Pet)
    session = Session(static)
    session.add(Pet(name=canary(shape)))
    session.flush()
    with Session(static) as other:
        other.scalars(select(Pet)).all()
    session.close()


def late_commit(engine: Engine, shape: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        with Session(engine) as session:
            session.add(Owner(email=f"{canary(shape)} {shape}", name=canary(shape)))
            await send({"type": "http.response.start", "status": 201, "headers": []})
            await send({"type": "http.response.body", "body": CORE.encode()})
            session.commit()

    async def send(message: Any) -> None: ...

    scope = {"type": "http", "method": "POST", "path": f"/owners/{CORE}", "raw_path": b"", "headers": []}
    with contextlib.suppress(DatabaseError):
        asyncio.run(UnitOfWorkMiddleware(app)(scope, None, send))  # type: ignore[arg-type]


def discarded_writes(engine: Engine, shape: int) -> None:
    def ensure(session: Session) -> None:
        try:
            session.add(Owner(email=f"{canary(shape)} {shape}", name=canary(shape)))
            session.flush()
        except DatabaseError:
            session.rollback()

    with Session(engine) as session:
        session.add(Pet(name=canary(shape)))
        ensure(session)
        session.commit()


def untracked_mutation(engine: Engine, shape: int) -> None:
    with Session(engine) as session:
        owner = first(session)
        owner.options[canary(shape)] = {canary(): canary()}
        session.commit()


def boundary(engine: Engine, shape: int) -> None:
    @sessionwatch.boundary
    def send(message: object) -> None: ...

    send({canary(shape): [{canary(): gone(engine)}]})


def config(engine: Engine, shape: int) -> None:
    lost_writes(create_engine(f"sqlite:///file:{engine.url.database}?uri=true&note={CORE}"), shape)


def failing(engine: Engine, shape: int) -> None:
    """No rule's: an exception with a canary on its way through a session, and one in a listener of the program's."""
    with contextlib.suppress(ValueError), Session(engine) as session:
        session.add(Pet(name=canary(shape)))
        session.flush()
        raise ValueError(canary(shape))


def request(engine: Engine, shape: int) -> None:
    """No rule's: a request for a path that no route has."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        session = Session(engine)
        session.add(Pet(name=canary(shape)))
        session.flush()
        session.close()

    path = f"/owners/{CORE}"
    scope = {"type": "http", "method": CORE, "path": path, "raw_path": path.encode(), "headers": []}
    asyncio.run(UnitOfWorkMiddleware(app)(scope, None, None))  # type: ignore[arg-type]


MISTAKES: dict[str, Callable[[Engine, int], None]] = {
    "detached-access": detached_access,
    "detached-touch": detached_touch,
    "detached-write": detached_write,
    "lost-writes": lost_writes,
    "session-leak": session_leak,
    "use-after-close": use_after_close,
    "cross-task": cross_task,
    "cross-session": cross_session,
    "reattach": reattach,
    "implicit-io": implicit_io,
    "n-plus-one": n_plus_one,
    "blocking-io": blocking_io,
    "split-unit-of-work": split_unit_of_work,
    "long-session": long_session,
    "swallowed-error": swallowed_error,
    "cross-process": cross_process,
    "foreign-loop": foreign_loop,
    "shared-connection": shared_connection,
    "late-commit": late_commit,
    "discarded-writes": discarded_writes,
    "untracked-mutation": untracked_mutation,
    "boundary": boundary,
    "config": config,
    "": failing,
    " ": request,
}


def test_every_rule_has_a_mistake() -> None:
    """A new rule needs a mistake here."""
    assert set(MISTAKES) - {"", " "} == {rule.slug for rule in rules.ALL}


# -- what is exported ---------------------------------------------------------------------------------


def exported(otel: Otel, watch: Watch, caplog: pytest.LogCaptureFixture, output: Path) -> str:
    """Everything that left the program, as text."""
    parts = [span.to_json() for span in otel.spans]
    parts += [repr((record.body, dict(record.attributes), record.severity_text)) for record in otel.logs]
    metrics = otel.reader.get_metrics_data()
    parts.append(metrics.to_json() if metrics is not None else "")
    parts.append(output.read_text())
    parts += [repr(vars(record)) + record.getMessage() + str(record.exc_text) for record in caplog.records]
    parts.append(caplog.text)
    parts.append(json.dumps([finding.as_json() for finding in (*watch.findings, *watch.allowed)]))
    parts.append(json.dumps(watch.status(), default=str))
    return "\n".join(parts)


@pytest.mark.parametrize("mode", ["telemetry", "log", "strict"])
@pytest.mark.parametrize("slug", sorted(MISTAKES))
def test_no_value_is_exported(
    slug: str,
    mode: str,
    zoo: Engine,
    otel: Otel,
    install: Installer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Spans, events, links, log records, metrics, `logging`, JSON Lines and the status are free of values."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    caplog.set_level(logging.DEBUG, "sessionwatch")
    output = tmp_path / "findings.jsonl"
    levels = {rule.slug: "log" for rule in rules.ALL}
    settings = {"blocking-io.milliseconds": 0}
    told = ""
    with install(otel.providers, mode=mode, rules=levels, settings=settings, output=str(output)) as watch:
        for shape in random.Random(slug).sample(range(len(SHAPES)), 3):
            with otel.tracer.start_as_current_span("request"):
                MISTAKES[slug](zoo, shape)
            told = exported(otel, watch, caplog, output)
        watch.uninstall()
        told += exported(otel, watch, caplog, output)
    assert not slug.strip() or slug in {finding.rule for finding in watch.findings}
    assert "request" in told
    places = [line for line in told.splitlines() if CORE in line]
    assert places == []


def test_errors_and_their_notes_are_free_of_values(zoo: Engine, install: Installer) -> None:
    """What is raised, and what is added to SQLAlchemy's errors, quotes no value either."""
    with install(mode="strict", log=False):
        with pytest.raises(FindingError) as raised:
            lost_writes(zoo, 1)
        with pytest.raises(DetachedInstanceError) as refused:
            gone(zoo).pets  # noqa: B018
    assert CORE not in str(raised.value)
    assert refused.value.__notes__ or isinstance(refused.value, FindingError)
    assert CORE not in "".join(getattr(refused.value, "__notes__", []))


def test_internal_errors_quote_nothing(
    zoo: Engine, otel: Otel, install: Installer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of ours in production is logged without the message, which may quote a value."""
    monkeypatch.delenv("SESSIONWATCH_TESTING", raising=False)

    def callback(finding: object) -> None:
        raise ValueError(canary())

    with install(otel.providers, on_finding=callback) as watch:
        lost_writes(zoo, 0)
        assert watch.status()["internal_errors"] == {"sink Audience._call_back": 1}
    assert "ValueError" in caplog.text
    assert CORE not in caplog.text


# -- the text of statements ---------------------------------------------------------------------------

LITERALS = (
    "'{}'",
    "'it''s {}'",
    "'a\\' {}'",
    "E'\\' {}'",
    "N'{}'",
    "x'{}'",
    "U&'{}'",
    "$$ {} $$",
    "$q$ ' {} $q$",
    "q'[it's {}]'",
    "Q'!it's {}!'",
    "'{}",
    "$$ {}",
    "-- {}\n",
    "/* {} */",
    "/* {}",
    "'a' 'b {}'",
    "'{}'::text",
    "TRIM(LEADING '{}' FROM 'y')",
)
STRINGS_IN_MYSQL = ('"{}"', '"it""s {}"', '"a\\" {}"')
WORDS = ("FROM", "INTO", "UPDATE", "JOIN", "TABLE", "DELETE FROM", "INSERT INTO", "TEMPORARY TABLE", "SET", "")
STATEMENTS = (
    "SELECT {} AS x",
    "SELECT * FROM pets WHERE name = {}",
    "UPDATE pets SET name = {} WHERE id = 1",
    "CALL pay({})",
    "INSERT INTO pets (name) VALUES ({})",
    "DELETE FROM pets WHERE name = {}",
    "WITH a AS (SELECT {}) SELECT 1",
    "SET x = {}",
    "WITH a AS (SELECT 1) INSERT INTO pets SELECT {}",
    "MERGE INTO pets USING x ON {} = 1",
    "EXEC pay {}",
    "DO {}",
    "SELECT {} FOR UPDATE",
    "COPY pets FROM {}",
    "PREPARE TRANSACTION {}",
    "CREATE TEMP TABLE t AS SELECT {}",
    "{} SELECT 1",
)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_said_of_a_statement(seed: int) -> None:
    """Whatever literal a statement has, with whatever keyword in it, its summary and its table do not quote it."""
    dice = random.Random(seed)
    for _ in range(300):
        literal = dice.choice((*LITERALS, *STRINGS_IN_MYSQL)).format(f"{dice.choice(WORDS)} {CORE}")
        statement = dice.choice(STATEMENTS).format(literal)
        said = sql.summary(statement), sql.text_write(statement), sql.temporary_table(statement)
        assert CORE not in str(said), statement


def test_the_canaries_are_seen(zoo: Engine) -> None:
    """The canaries do reach the database: a test that looks for what was never there proves nothing."""
    seen: list[str] = []
    event.listen(zoo, "before_cursor_execute", lambda *args: seen.append(repr(args[2:4])))
    for mistake in (lost_writes, swallowed_error):
        mistake(zoo, 1)
    assert len([statement for statement in seen if CORE in statement]) >= 6
