"""``discarded-writes``: a rollback in a helper's handler that takes its caller's work along."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps

import pytest
from sqlalchemy import Engine, insert, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from sessionwatch import FindingError, allow, uninstall, watching
from sessionwatch.watch.watch import Watch
from tests.rules.models import Item, Order, Tag
from tests.rules.places import alone, evidence_line, is_idle, labels, line, only

RULE = "discarded-writes"
Work = Callable[[Session], object]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Only this rule is on; our own errors raise."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    uninstall()
    with watching("log", log=False, rules=alone(RULE)) as installed:
        yield installed


def tag(session: Session) -> Tag | None:
    """Store a tag that is there already, and roll back everything."""
    try:
        session.add(Tag(id=1, name="known"))
        session.flush()  # failed
    except IntegrityError:
        session.rollback()  # rollback
    return session.get(Tag, 1)


def order(session: Session) -> None:
    session.add(Order(status="new"))  # written


def test_reports_pending_objects(watch: Watch, shop: Engine) -> None:
    """What the caller had added and not flushed goes with the helper's flush."""
    with Session(shop) as session:
        session.add(Order(status="new"))  # added
        tag(session)
        session.commit()  # commit
    found = only(watch, RULE)
    assert found.line == line("rollback")
    assert labels(found) == ["committed", "rolled back", "failed", "written", "opened"]
    assert evidence_line(found, "written") == line("added")
    assert evidence_line(found, "committed") == line("commit")
    assert evidence_line(found, "failed") == line("failed")


def flushed(session: Session) -> None:
    order(session)
    session.flush()
    tag(session)


def statement(session: Session) -> None:
    session.execute(insert(Order).values(status="new"))
    tag(session)


def through_a_function_of_its_own(session: Session) -> None:
    def store() -> None:
        session.add(Tag(id=1, name="known"))
        session.flush()

    def ensure() -> None:
        try:
            store()
        except SQLAlchemyError:
            session.rollback()

    session.add(Order(status="new"))
    ensure()


class Unit:
    """A unit of work of the program's, whose rollback is a method."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def rollback(self) -> None:
        self.session.rollback()


def through_a_wrapper(session: Session) -> None:
    def ensure(unit: Unit) -> None:
        try:
            session.execute(insert(Tag).values(id=1, name="known"))
        except IntegrityError:
            unit.rollback()

    session.add(Order(status="new"))
    session.flush()
    ensure(Unit(session))


def swallowing_decorator(session: Session) -> None:
    def safe(function: Callable[[], None]) -> Callable[[], None]:
        @wraps(function)
        def call() -> None:
            try:
                function()
            except IntegrityError:
                session.rollback()

        return call

    @safe
    def store() -> None:
        session.add(Tag(id=1, name="known"))
        session.flush()

    session.add(Order(status="new"))
    session.flush()
    store()


def written_by_a_helper(session: Session) -> None:
    order(session)
    tag(session)


REPORTED: list[Work] = [
    flushed,
    statement,
    through_a_function_of_its_own,
    through_a_wrapper,
    swallowing_decorator,
    written_by_a_helper,
]


@pytest.mark.parametrize("work", REPORTED, ids=lambda work: work.__name__)
def test_reports(work: Work, watch: Watch, shop: Engine) -> None:
    """Flushed rows and pending objects; helpers, wrappers and decorators that return as though nothing were."""
    with Session(shop) as session:
        work(session)
        session.commit()
    found = only(watch, RULE)
    assert found.subject in ("Order", "orders")
    with Session(shop) as session:
        assert len(session.scalars(select(Order)).all()) == 1  # the seed's


async def test_reports_under_asyncio(watch: Watch, async_shop: AsyncEngine) -> None:
    """The handler is a coroutine's, and the rollback runs in a greenlet."""

    async def ensure(session: AsyncSession) -> None:
        try:
            session.add(Tag(id=1, name="known"))
            await session.flush()
        except IntegrityError:
            await session.rollback()  # async rollback

    async with AsyncSession(async_shop) as session:
        session.add(Order(status="new"))
        await ensure(session)
        await session.commit()
    found = only(watch, RULE)
    assert found.line == line("async rollback")
    assert "async with session.begin_nested():" in (found.fix or "")


def test_exact_message(watch: Watch, shop: Engine) -> None:
    """The headline and the fix, word for word."""
    with Session(shop) as session:
        session.add_all([Order(status="new"), Order(status="new")])
        tag(session)
        session.commit()
    found = only(watch, RULE)
    assert found.message == (
        "2 Order objects were discarded by a rollback in tag, and the session then committed without them"
    )
    assert found.fix == (
        "undo only what failed: put it in a savepoint inside the try, `with session.begin_nested():`,\n"
        "and take out session.rollback()"
    )
    assert found.severity == "advice"


def test_strict_raises_after_the_close(monkeypatch: pytest.MonkeyPatch, shop: Engine) -> None:
    """Advice that is set to raise comes when the connection is back in its pool."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    uninstall()
    with watching("strict", log=False, rules=alone(RULE, "raise")):
        session = Session(shop)
        written_by_a_helper(session)
        session.commit()
        with pytest.raises(FindingError, match=RULE):
            session.close()
        assert is_idle(shop)


# -- near misses ---------------------------------------------------------------------------------------


def with_a_savepoint(session: Session) -> None:
    def ensure() -> None:
        try:
            with session.begin_nested():
                session.add(Tag(id=1, name="known"))
                session.flush()
        except IntegrityError:
            pass

    session.add(Order(status="new"))
    ensure()


def by_the_writer_itself(session: Session) -> None:
    session.add(Order(status="new"))
    session.flush()
    try:
        session.add(Tag(id=1, name="known"))
        session.flush()
    except IntegrityError:
        session.rollback()


def by_the_writer_through_a_wrapper(session: Session) -> None:
    unit = Unit(session)
    session.add(Order(status="new"))
    try:
        session.add(Tag(id=1, name="known"))
        session.flush()
    except IntegrityError:
        unit.rollback()


def raising_again(session: Session) -> None:
    def ensure() -> None:
        try:
            session.add(Tag(id=1, name="known"))
            session.flush()
        except IntegrityError:
            session.rollback()
            raise

    session.add(Order(status="new"))
    with suppress(IntegrityError):
        ensure()


def raising_another(session: Session) -> None:
    def ensure() -> None:
        try:
            session.add(Tag(id=1, name="known"))
            session.flush()
        except IntegrityError as error:
            session.rollback()
            raise ValueError("known") from error

    session.add(Order(status="new"))
    with suppress(ValueError):
        ensure()


def around_the_writers_block(session: Session) -> None:
    @contextmanager
    def scope() -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            session.rollback()

    with scope():
        session.add(Order(status="new"))
        session.add(Tag(id=1, name="known"))
        session.flush()


def around_the_writers_function(session: Session) -> None:
    def safe(function: Callable[[], None]) -> Callable[[], None]:
        def call() -> None:
            try:
                function()
            except IntegrityError:
                session.rollback()

        return call

    @safe
    def store() -> None:
        session.add(Order(status="new"))
        session.flush()
        session.add(Tag(id=1, name="known"))
        session.flush()

    store()


def retried(session: Session) -> None:
    for _ in range(2):
        session.add(Order(status="new"))
        session.flush()
        if tag_once(session):
            break


def tag_once(session: Session, tries: list[int] | None = None) -> bool:
    attempts = _ATTEMPTS.setdefault(id(session), [])
    attempts.append(1)
    if len(attempts) > 1:
        return True
    try:
        session.add(Tag(id=1, name="known"))
        session.flush()
    except IntegrityError:
        session.rollback()
    return False


_ATTEMPTS: dict[int, list[int]] = {}


def nothing_before(session: Session) -> None:
    session.scalars(select(Order)).all()
    tag(session)


def committed_before(session: Session) -> None:
    session.add(Order(status="new"))
    session.commit()
    tag(session)


def no_error(session: Session) -> None:
    def dry_run() -> None:
        session.rollback()

    session.add(Order(status="new"))
    dry_run()


SILENT: list[Work] = [
    with_a_savepoint,
    by_the_writer_itself,
    by_the_writer_through_a_wrapper,
    raising_again,
    raising_another,
    around_the_writers_block,
    around_the_writers_function,
    retried,
    nothing_before,
    committed_before,
    no_error,
]


@pytest.mark.parametrize("work", SILENT, ids=lambda work: work.__name__)
def test_ignores(work: Work, watch: Watch, shop: Engine) -> None:
    """The printed fix; rollbacks by the writer; functions that raise; retries; nothing to lose."""
    _ATTEMPTS.clear()
    with Session(shop) as session:
        work(session)
        session.commit()
    assert watch.findings == []


def test_ignores_a_session_that_never_commits(watch: Watch, shop: Engine) -> None:
    """Without a commit nobody believes that it is stored."""
    with Session(shop) as session:
        session.add(Order(status="new"))
        tag(session)
    assert watch.findings == []


def test_ignores_a_joined_session(watch: Watch, shop: Engine) -> None:
    """A session that joined an outer transaction rolls back what is its own."""
    with shop.connect() as connection, connection.begin() as transaction:
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            session.add(Item(name="x"))
            session.commit()
            tag(session)
            session.commit()
        transaction.rollback()
    assert watch.findings == []


async def test_ignores_a_savepoint_under_asyncio(watch: Watch, async_shop: AsyncEngine) -> None:
    """The printed fix under asyncio."""

    async def ensure(session: AsyncSession) -> None:
        try:
            async with session.begin_nested():
                session.add(Tag(id=1, name="known"))
        except IntegrityError:
            pass

    async with AsyncSession(async_shop) as session:
        session.add(Order(status="new"))
        await ensure(session)
        await session.commit()
    assert watch.findings == []


def test_ignores_what_is_allowed(watch: Watch, shop: Engine) -> None:
    """A session that was opened in a block that says why."""
    with allow(RULE, reason="only the tag matters"), Session(shop) as session:
        written_by_a_helper(session)
        session.commit()
    assert watch.findings == []
    assert [finding.allowed for finding in watch.allowed] == ["only the tag matters"]
