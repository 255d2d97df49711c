"""``swallowed-error``: database errors that nobody rolled back, after which the session went on."""

from __future__ import annotations

import asyncio
import contextlib
import textwrap
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, inspect, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, PendingRollbackError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import FlushError, StaleDataError

from sessionwatch import Finding, FindingError, allow
from sessionwatch.output import messages
from sessionwatch.watch.watch import Watch
from tests.rules.models import Customer, Item, Order, Tag
from tests.rules.places import evidence_line, is_idle, labels, line, only

TAKEN = text("INSERT INTO orders (id, status) VALUES (1, 'again')")
WRONG = text("SELECT * FROM nothing_like_it")
FINE = text("SELECT count(*) FROM items")


def swallowed(watch: Watch) -> list[Finding]:
    """The findings of this rule; a lost write may be another finding of the same program."""
    return [finding for finding in watch.findings if finding.rule == "swallowed-error"]


def fail(session: Session) -> None:
    with contextlib.suppress(DBAPIError):
        session.execute(TAKEN)  # failing


async def fail_async(session: AsyncSession) -> None:
    with contextlib.suppress(DBAPIError):
        await session.execute(TAKEN)  # async-failing


def go_on(session: Session) -> None:
    with contextlib.suppress(DBAPIError):  # PostgreSQL refuses it
        session.execute(FINE)  # going-on


def commit(session: Session) -> None:
    session.commit()


def savepoint(session: Session) -> None:
    with contextlib.suppress(DBAPIError), session.begin_nested():
        pass


def removed_behind_its_back(session: Session, statement: str = "DELETE FROM orders WHERE id = 1") -> None:
    for table in ("items", "order_tags"):
        session.connection().exec_driver_sql(f"DELETE FROM {table}")
    session.connection().exec_driver_sql(statement)


# -- reported -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("use", "did"),
    [
        (go_on, "ran SELECT items"),
        (commit, "was committed"),
        (savepoint, "was committed"),
        (Session.close, "was closed"),
        (Session.reset, "was closed"),
    ],
)
def test_reports_each_way_to_go_on(shop: Engine, watch: Watch, use: Callable[[Session], object], did: str) -> None:
    """The statement that failed is the primary place, and what the session did next is told."""
    session = Session(shop)
    fail(session)
    use(session)
    session.close()
    finding = only(watch, "swallowed-error")
    assert finding.message == f"INSERT orders failed with IntegrityError, and the session {did} without a rollback"
    assert finding.line == line("failing")
    assert labels(finding)[1:] == ["failed", "opened"]


def test_reports_the_first_error_only(shop: Engine, watch: Watch) -> None:
    """What fails because of it, on PostgreSQL everything, is the same story."""
    session = Session(shop)
    fail(session)
    for _ in range(3):
        go_on(session)
        fail(session)
    session.close()
    assert only(watch, "swallowed-error").count == 1


def test_reports_a_flush(shop: Engine, watch: Watch) -> None:
    """SQLAlchemy rolls a flush back by itself; the program has not, and its data are missing."""
    with Session(shop) as session:
        session.add(Order(id=1))
        with contextlib.suppress(SQLAlchemyError):
            session.commit()  # failing-commit
    finding = only(watch, "swallowed-error")
    assert finding.message.startswith("INSERT orders failed with IntegrityError, and the session was closed")
    assert finding.line == line("failing-commit")


def test_reports_a_flush_that_fails_in_a_savepoint(shop: Engine, watch: Watch) -> None:
    """SQLAlchemy goes back to the savepoint by itself; the program, which goes on in it, knows nothing of that."""
    session = Session(shop)
    session.begin_nested()
    session.add(Order(id=1))
    with contextlib.suppress(IntegrityError):
        session.flush()  # flushing-in-a-savepoint
    with pytest.raises(PendingRollbackError) as raised:
        session.execute(FINE)
    session.close()
    finding = only(watch, "swallowed-error")
    assert finding.message.startswith("INSERT orders failed with IntegrityError, and the session was used again")
    assert finding.line == line("flushing-in-a-savepoint")
    assert raised.value.__notes__ == [messages.render(finding)]


def test_reports_a_savepoint_that_is_closed_with_its_session(shop: Engine, watch: Watch) -> None:
    """The same where the session is closed next."""
    session = Session(shop)
    session.begin_nested()
    session.add(Order(id=1))
    with contextlib.suppress(SQLAlchemyError):
        session.flush()
    session.close()
    assert "was closed without a rollback" in only(watch, "swallowed-error").message


def test_reports_a_flush_that_the_driver_did_not_refuse(shop: Engine, watch: Watch) -> None:
    """An UPDATE that matched no row is an error of SQLAlchemy's, and fails the transaction as well."""
    with Session(shop) as session:
        order = session.get_one(Order, 1)
        removed_behind_its_back(session)
        order.status = "shipped"
        with contextlib.suppress(SQLAlchemyError):
            session.flush()  # stale
    finding = only(watch, "swallowed-error")
    assert finding.message == "flush failed with StaleDataError, and the session was closed without a rollback"
    assert finding.line == line("stale")


def test_reports_a_flush_that_sqlalchemy_refused(shop: Engine, watch: Watch) -> None:
    """What SQLAlchemy refuses before it sends anything is missing just as well."""
    session = Session(shop)
    order = session.get_one(Order, 1)
    order.tags.append(Item(name="not a tag"))  # type: ignore[arg-type]
    with contextlib.suppress(FlushError):
        session.flush()
    with pytest.raises(PendingRollbackError) as raised:
        session.commit()
    session.close()
    finding = only(watch, "swallowed-error")
    assert finding.message == "flush failed with FlushError, and the session was used again without a rollback"
    assert raised.value.__notes__ == [messages.render(finding)]


def test_reports_the_story_of_a_pending_rollback(shop: Engine, watch: Watch) -> None:
    """PendingRollbackError gets the story as a note."""
    session = Session(shop)
    session.add(Order(id=1))
    with contextlib.suppress(IntegrityError):
        session.flush()
    with pytest.raises(PendingRollbackError) as raised:
        session.execute(FINE)  # pending
    session.close()
    finding = only(watch, "swallowed-error")
    assert raised.value.__notes__ == [messages.render(finding)]
    assert evidence_line(finding, "used") == line("pending")


def test_reports_a_commit_that_fails(shop: Engine, watch: Watch) -> None:
    """An error of COMMIT itself, as of a deferred constraint."""
    if shop.dialect.name == "postgresql":
        shop.connect().execution_options(isolation_level="AUTOCOMMIT").execute(
            text("ALTER TABLE orders ADD CONSTRAINT once UNIQUE (status) DEFERRABLE INITIALLY DEFERRED")
        )
        with Session(shop) as session:
            session.add(Order(status="new"))
            with contextlib.suppress(DBAPIError):
                session.commit()  # deferred
        finding = only(watch, "swallowed-error")
        assert finding.message.startswith("COMMIT failed with IntegrityError, and the session was closed")
        assert finding.line == line("deferred")


def test_reports_the_next_transaction_as_well(shop: Engine, watch: Watch) -> None:
    """An error that was told is over with its transaction."""
    with Session(shop) as session:
        fail(session)
        session.commit()
        fail(session)
        session.commit()
    assert only(watch, "swallowed-error").count == 2


def test_reports_rows_that_are_never_fetched(shop: Engine, watch: Watch) -> None:
    """An error in a statement that only reads is reported where the session goes on."""
    with Session(shop) as session:
        with contextlib.suppress(DBAPIError):
            session.execute(WRONG)
        go_on(session)
    assert only(watch, "swallowed-error").message.startswith("SELECT nothing_like_it failed with ")


def test_reports_a_service_that_returns_none(shop: Engine, watch: Watch) -> None:
    """The handler has ended, so that nothing is on its way when the next service goes on."""

    def create(session: Session) -> Order | None:
        try:
            session.execute(TAKEN)
        except Exception:
            return None
        return session.get(Order, 1)

    with Session(shop) as session:
        assert create(session) is None
        go_on(session)
    assert only(watch, "swallowed-error").function == "create"


async def test_reports_asyncio(async_shop: AsyncEngine, watch: Watch) -> None:
    """The same for AsyncSession, with its own fix."""
    async with AsyncSession(async_shop) as session:
        await fail_async(session)
        with contextlib.suppress(DBAPIError):
            await session.execute(FINE)
    finding = only(watch, "swallowed-error")
    assert finding.line == line("async-failing")
    assert "await session.rollback()" in finding.fix


async def test_reports_an_async_close(async_shop: AsyncEngine, watch: Watch) -> None:
    """AsyncSession closes in a task of its own."""
    async with AsyncSession(async_shop) as session:
        await fail_async(session)
    assert "was closed without a rollback" in only(watch, "swallowed-error").message


async def _in_a_task(session: AsyncSession) -> None:
    with contextlib.suppress(DBAPIError):
        await asyncio.create_task(session.execute(TAKEN))


async def _gathered(session: AsyncSession) -> None:
    with contextlib.suppress(DBAPIError):
        await asyncio.gather(session.execute(TAKEN))


async def _with_a_limit(session: AsyncSession) -> None:
    with contextlib.suppress(DBAPIError):
        await asyncio.wait_for(session.execute(TAKEN), 60)


async def _as_a_value(session: AsyncSession) -> None:
    (error,) = await asyncio.gather(session.execute(TAKEN), return_exceptions=True)
    assert isinstance(error, DBAPIError)


async def _awaited_later(session: AsyncSession) -> None:
    task = asyncio.create_task(session.execute(TAKEN))
    await asyncio.wait([task])
    session.info["task"] = task  # and so the error, with where it was raised again
    with contextlib.suppress(DBAPIError):
        await task


@pytest.mark.parametrize("fails", [_in_a_task, _gathered, _with_a_limit, _as_a_value, _awaited_later])
async def test_reports_an_error_that_who_waits_for_its_task_caught(
    async_shop: AsyncEngine, watch: Watch, fails: Callable[[AsyncSession], Awaitable[None]]
) -> None:
    """An error leaves its task for the one that awaits it, and is caught there."""
    async with AsyncSession(async_shop) as session:
        await fails(session)
    assert "was closed without a rollback" in only(watch, "swallowed-error").message


# -- ignored ------------------------------------------------------------------------------------------------


def test_ignores_rollback_in_the_handler(shop: Engine, watch: Watch) -> None:
    """The documented way, after a statement, a flush and a commit."""
    with Session(shop) as session:
        for step in (lambda: session.execute(TAKEN), session.flush, session.commit):
            session.add(Order(id=1))
            try:
                step()
            except IntegrityError:
                session.rollback()
        session.execute(FINE)
        session.commit()
    assert watch.findings == []


def test_ignores_a_savepoint(shop: Engine, watch: Watch) -> None:
    """A statement that may fail, in a savepoint; by hand, in a block, and one of the connection's."""
    with Session(shop) as session:
        for _ in range(2):
            with contextlib.suppress(IntegrityError), session.begin_nested():
                session.execute(TAKEN)
        with contextlib.suppress(IntegrityError), session.begin_nested():
            session.add(Order(id=1))
        nested, ok = session.begin_nested(), True
        try:
            session.execute(TAKEN)
        except IntegrityError:
            ok = False
        if not ok:
            nested.rollback()
        with contextlib.suppress(IntegrityError), session.connection().begin_nested():
            session.execute(TAKEN)
        session.execute(FINE)
        session.commit()
    assert watch.findings == []


def test_ignores_a_savepoint_rolled_back_after_its_flush(shop: Engine, watch: Watch) -> None:
    """By hand, and by an error that leaves the block, whatever failed the flush."""
    with Session(shop) as session:
        order = session.get_one(Order, 1)
        nested = session.begin_nested()
        session.add(Customer(id=1, name="again"))
        try:
            session.flush()
        except IntegrityError:
            nested.rollback()
        with contextlib.suppress(FlushError), session.begin_nested():
            order.tags.append(Item(name="not a tag"))  # type: ignore[arg-type]
            session.flush()
        for _ in range(2):
            with session.begin_nested():
                session.add(Customer(id=1, name="again"))
                with contextlib.suppress(IntegrityError):
                    session.flush()  # the block's end leaves everything as it was before the block
        order.status = "shipped"
        session.commit()
    assert watch.findings == []


def test_ignores_a_stale_update_that_was_rolled_back(shop: Engine, watch: Watch) -> None:
    """An optimistic lock that is tried again, and one whose error leaves the block."""
    for handled in (True, False):
        with contextlib.suppress(StaleDataError), Session(shop) as session:
            tag = session.merge(Tag(id=2, name="old"))
            session.commit()
            session.refresh(tag)
            tag.name = "older"
            removed_behind_its_back(session, "DELETE FROM tags WHERE id = 2")
            try:
                session.flush()
            except StaleDataError:
                if not handled:
                    raise
                session.rollback()
            session.execute(FINE)
            session.commit()
    assert watch.findings == []


def test_ignores_a_flush_that_a_listener_refused(shop: Engine, watch: Watch) -> None:
    """The program's own error is its own affair, also in a flush."""

    def refuse(*_: object) -> None:
        raise LookupError("mine")

    session = Session(shop)
    event.listen(session, "after_flush", refuse)
    session.add(Order(id=7))
    with contextlib.suppress(LookupError):
        session.flush()
    session.close()
    assert swallowed(watch) == []


def test_ignores_a_savepoint_given_as_text(shop: Engine, watch: Watch) -> None:
    """ROLLBACK TO SAVEPOINT as text is a rollback as well."""
    if shop.dialect.name == "postgresql":
        with Session(shop) as session:
            session.execute(text("SAVEPOINT before"))
            fail(session)
            session.execute(text("ROLLBACK TO SAVEPOINT before"))
            session.execute(FINE)
            session.commit()
    assert watch.findings == []


def test_ignores_an_error_on_its_way(shop: Engine, watch: Watch) -> None:
    """Through the block, through finally, through a retry loop, and as another exception."""
    for _ in range(2):
        with contextlib.suppress(IntegrityError), Session(shop) as session:
            session.execute(TAKEN)
    session = Session(shop)
    with contextlib.suppress(IntegrityError):
        try:
            session.execute(TAKEN)
        finally:
            session.close()
    with contextlib.suppress(LookupError), Session(shop) as session:
        try:
            session.execute(TAKEN)
        except IntegrityError as error:
            raise LookupError("no such order") from error
    with contextlib.suppress(KeyError), Session(shop) as session:
        fail(session)
        raise KeyError("something else")
    assert watch.findings == []


def test_ignores_work_in_the_handler(shop: Engine, watch: Watch) -> None:
    """While the error is being handled, it may still be raised again."""
    with contextlib.suppress(IntegrityError), Session(shop) as session:
        try:
            session.execute(TAKEN)
        except IntegrityError:
            with contextlib.suppress(DBAPIError):
                session.execute(FINE)
            raise
    assert watch.findings == []


def test_ignores_a_close_in_the_handler(shop: Engine, watch: Watch) -> None:
    """Whoever closes the session in the handler does not go on as though nothing had happened."""
    session = Session(shop)
    try:
        session.execute(TAKEN)
    except IntegrityError:
        session.close()
    assert watch.findings == []


def test_ignores_a_read_that_failed_before_a_close(shop: Engine, watch: Watch) -> None:
    """A probe of the database whose session ends with it has nothing to roll back."""

    def exists() -> bool:
        with Session(shop) as session:
            try:
                session.execute(WRONG)
            except DBAPIError:
                return False
        return True

    assert not exists()
    assert watch.findings == []


def test_ignores_errors_that_are_not_the_databases(shop: Engine, watch: Watch) -> None:
    """An error of the program's own, also one of a listener, fails no transaction."""

    def refuse(*_: object) -> None:
        raise LookupError("mine")

    with Session(shop) as session:
        session.connection()
        event.listen(shop, "before_cursor_execute", refuse)
        with contextlib.suppress(LookupError):
            session.execute(FINE)
        event.remove(shop, "before_cursor_execute", refuse)
        session.execute(FINE)
    assert watch.findings == []


def test_ignores_what_sqlalchemy_asks(mariadb_shop: Engine, watch: Watch) -> None:
    """SQLAlchemy finds out whether MariaDB has a table by an error, which it expects."""
    with Session(mariadb_shop) as session:
        assert not inspect(session.connection()).has_table("nothing_like_it")
        session.execute(FINE)
        session.commit()
    assert watch.findings == []


def test_ignores_autocommit(shop: Engine, watch: Watch) -> None:
    """Where each statement is a transaction of its own there is nothing to roll back."""
    with Session(shop.execution_options(isolation_level="AUTOCOMMIT")) as session:
        fail(session)
        session.execute(FINE)
    assert watch.findings == []


def test_ignores_a_rollback_of_the_connection(shop: Engine, watch: Watch) -> None:
    """A rollback behind the session's back is one."""
    with Session(shop) as session:
        fail(session)
        session.connection().get_transaction().rollback()  # type: ignore[union-attr]
        with contextlib.suppress(Exception):
            session.execute(FINE)
    assert watch.findings == []


def test_ignores_a_dependency_that_rolls_back(shop: Engine, watch: Watch) -> None:
    """A generator that rolls back when its request fails."""

    @contextlib.contextmanager
    def get_session() -> Iterator[Session]:
        session = Session(shop)
        try:
            yield session
            session.commit()
        except Exception:
            session.rollback()
            raise
        finally:
            session.close()

    with contextlib.suppress(IntegrityError), get_session() as session:
        session.execute(TAKEN)
    assert watch.findings == []


async def _expected(session: AsyncSession) -> None:
    with pytest.raises(DBAPIError):
        await asyncio.create_task(session.execute(TAKEN))


async def _named(session: AsyncSession) -> None:
    with contextlib.suppress(IntegrityError):
        await asyncio.create_task(session.execute(TAKEN))


@pytest.mark.parametrize("fails", [_expected, _named])
async def test_ignores_an_error_that_who_waits_for_its_task_expected(
    async_shop: AsyncEngine, watch: Watch, fails: Callable[[AsyncSession], Awaitable[None]]
) -> None:
    """A test expects it of the task, or a handler names the very error that may come."""
    async with AsyncSession(async_shop) as session:
        await fails(session)
    assert swallowed(watch) == []


async def test_ignores_asyncio_done_right(async_shop: AsyncEngine, watch: Watch) -> None:
    """Rollback, savepoint, an error on its way, and work in the handler of a coroutine."""
    async with AsyncSession(async_shop) as session:
        try:
            await session.execute(TAKEN)
        except IntegrityError:
            await session.rollback()
        with contextlib.suppress(IntegrityError):
            async with session.begin_nested():
                await session.execute(TAKEN)
        await session.execute(FINE)
        await session.commit()
    with contextlib.suppress(IntegrityError):
        async with AsyncSession(async_shop) as session:
            try:
                await session.execute(TAKEN)
            except IntegrityError:
                with contextlib.suppress(DBAPIError):
                    await session.scalars(select(Item))
                raise
    assert watch.findings == []


# -- message and strict mode ----------------------------------------------------------------------------------


def test_message_word_for_word(shop: Engine, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole story."""
    monkeypatch.chdir(Path(__file__).parent)
    with Session(shop) as session:  # story-open
        fail(session)  # story-fail
        go_on(session)
    finding = only(watch, "swallowed-error")
    label, here = finding.evidence[-1].session, "test_swallowed_error.py"
    assert messages.render(finding) == textwrap.dedent(f"""\
        swallowed-error: INSERT orders failed with IntegrityError, and the session ran SELECT items without a rollback
          ran          {here}:{line("going-on")} in go_on                           session {label}
          failed       {here}:{line("failing")} in fail                            IntegrityError
          opened       {here}:{line("story-open")} in test_message_word_for_word     session {label}
          called from  {here}:{line("story-fail")} in test_message_word_for_word
          fix: roll back in the handler: session.rollback();
               where only this may fail, put it in a savepoint inside of the try: with session.begin_nested(): ...
          more: sessionwatch explain swallowed-error""")


@pytest.mark.parametrize("use", [go_on, commit, Session.close])
def test_strict_raises_before_the_session_goes_on(
    shop: Engine, strict: Watch, use: Callable[[Session], object]
) -> None:
    """Before a statement or a commit is tried, after a close has returned; the pool ends idle."""
    session = Session(shop)
    fail(session)
    with pytest.raises(FindingError, match="without a rollback"):
        use(session)
    session.close()
    only(strict, "swallowed-error")
    assert is_idle(shop)


async def test_strict_raises_under_asyncio(async_shop: AsyncEngine, strict: Watch) -> None:
    """The error comes out of the coroutine's call, and the pool ends idle."""
    async with AsyncSession(async_shop) as session:
        await fail_async(session)
        with pytest.raises(FindingError, match="was committed without a rollback"):
            await session.commit()
    only(strict, "swallowed-error")
    assert is_idle(async_shop)


def test_strict_leaves_the_error_on_its_way(shop: Engine, strict: Watch) -> None:
    """PendingRollbackError stays what it is, and nothing is raised over it at the close."""
    with Session(shop) as session:
        session.add(Order(id=1))
        with contextlib.suppress(IntegrityError):
            session.flush()
        with pytest.raises(PendingRollbackError):
            session.commit()
    assert len(swallowed(strict)) == 1
    assert is_idle(shop)


def test_allowed(shop: Engine, strict: Watch) -> None:
    """An allowance covers it."""
    with allow("swallowed-error", reason="the table may be missing"), Session(shop) as session:
        fail(session)
        go_on(session)
    assert strict.findings == []
    assert len(strict.allowed) == 1


def test_reports_an_error_within_a_savepoint_that_close_ends(watch: Watch, shop: Engine) -> None:
    """The savepoint is still open when the session is closed: nobody went back to it but the close."""
    with Session(shop) as session:
        session.begin_nested()
        with contextlib.suppress(Exception):
            session.execute(text("INSERT INTO customers (id, name) VALUES (1, 'again')"))
        session.add(Customer(name="Bob"))
    assert len(swallowed(watch)) == 1
    assert [finding.rule for finding in watch.findings] == ["swallowed-error"]
