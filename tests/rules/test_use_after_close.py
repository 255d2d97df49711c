"""``use-after-close``: sessions that work again after the scope that owned them ended."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sessionwatch import FindingError, uninstall, unit_of_work, watching
from sessionwatch.output import messages
from sessionwatch.watch.watch import Watch
from tests.rules.models import Order, Tag
from tests.rules.places import evidence_line, is_idle, labels, line, only


def get_session(engine: Engine) -> Iterator[Session]:
    with Session(engine) as session:  # provider-with
        yield session


def get_session_finally(engine: Engine) -> Iterator[Session]:
    session = Session(engine)
    try:
        yield session
    finally:
        session.close()


async def get_async_session(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(engine) as session:
        yield session


async def get_async_session_finally(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    session = AsyncSession(engine)
    try:
        yield session
    finally:
        await session.close()


# -- reported -----------------------------------------------------------------------------------------------


def query(session: Session) -> object:
    return session.scalars(select(Order)).all()


def lookup(session: Session) -> object:
    return session.get(Order, 1)


def flush(session: Session) -> object:
    session.add(Order())
    session.flush()
    session.rollback()
    return None


def begin(session: Session) -> object:
    return session.begin()


def begin_nested(session: Session) -> object:
    return session.begin_nested()


def connection(session: Session) -> object:
    return session.connection()


@pytest.mark.parametrize("use", [query, lookup, flush, begin, begin_nested, connection])
def test_reports_each_use_after_its_with_block(shop: Engine, watch: Watch, use: Callable[[Session], object]) -> None:
    """The primary place is the first use, the with line closed it."""
    with Session(shop) as session:  # uac-with
        query(session)
    use(session)
    finding = only(watch, "use-after-close")
    assert finding.message == "the session was used after its with block had ended"
    assert finding.function == use.__name__
    assert labels(finding) == ["used", "closed", "opened"]
    assert evidence_line(finding, "closed") == line("uac-with")
    session.close()


def test_reports_a_block_that_did_nothing(shop: Engine, watch: Watch) -> None:
    """A session that was never used inside its block is as closed as others."""
    with Session(shop) as session:
        pass
    query(session)
    assert only(watch, "use-after-close").function == "query"
    session.close()


def test_reports_only_the_first_use(shop: Engine, watch: Watch) -> None:
    """What follows is the same story, and the new life's end is not a finding."""
    with Session(shop) as session:
        query(session)
    query(session)
    session.commit()
    lookup(session)
    session.commit()
    session.close()
    assert only(watch, "use-after-close").count == 1


def test_reports_contextlib_closing(shop: Engine, watch: Watch) -> None:
    """closing() is a with block too."""
    with contextlib.closing(Session(shop)) as session:
        query(session)
    query(session)
    assert only(watch, "use-after-close").message.endswith("its with block had ended")
    session.close()


def test_reports_a_block_of_a_session_closed_by_hand_inside(shop: Engine, watch: Watch) -> None:
    """A close() by hand inside of the block doesn't make the block's end a hand's."""
    with Session(shop) as session:
        query(session)
        session.close()
    query(session)
    assert only(watch, "use-after-close").message == "the session was used after its with block had ended"
    session.close()


def test_reports_sessionmaker_begin(shop: Engine, watch: Watch) -> None:
    """After `with maker.begin()` the session is closed."""
    with sessionmaker(shop).begin() as session:
        session.add(Order())
    query(session)
    assert only(watch, "use-after-close").message == "the session was used after its with block had ended"
    session.close()


@pytest.mark.parametrize("provider", [get_session, get_session_finally])
def test_reports_a_generator_that_was_returned_from(
    shop: Engine, watch: Watch, provider: Callable[[Engine], Iterator[Session]]
) -> None:
    """`for session in get_session(): return session` ends the generator, and the line that broke it is named."""

    def broken() -> Session:
        for session in provider(shop):  # uac-broken
            return session
        raise AssertionError

    session = broken()
    gc.collect()
    query(session)  # uac-generator-use
    finding = only(watch, "use-after-close")
    assert finding.function == "query"
    assert finding.message == (
        f"the session was used after the generator {provider.__name__}() that yielded it had ended"
    )
    assert evidence_line(finding, "obtained") == line("uac-broken")
    session.close()


def test_tells_who_entered_the_helper(shop: Engine, watch: Watch) -> None:
    """The helper made the session and closed it; the line of the block is the user's to change."""

    @contextlib.contextmanager
    def scope() -> Iterator[Session]:
        with Session(shop) as session:
            yield session

    with scope() as session:  # uac-entered
        query(session)
    query(session)
    session.close()
    finding = only(watch, "use-after-close")
    assert labels(finding) == ["used", "closed", "entered", "opened"]
    assert evidence_line(finding, "entered") == line("uac-entered")
    assert finding.fix.endswith("scope(), or enter it again")


async def test_tells_who_entered_an_async_helper(async_shop: AsyncEngine, watch: Watch) -> None:
    """The same under asyncio."""

    @contextlib.asynccontextmanager
    async def scope() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(async_shop) as session:
            yield session

    async with scope() as session:  # uac-async-entered
        await session.execute(select(Order))
    await session.execute(select(Order))
    await session.close()
    assert evidence_line(only(watch, "use-after-close"), "entered") == line("uac-async-entered")


def test_reports_a_context_manager_of_a_generator(shop: Engine, watch: Watch) -> None:
    """The same for a provider made with contextlib.contextmanager."""
    for provider in (get_session, get_session_finally):
        with contextlib.contextmanager(provider)(shop) as session:
            query(session)
        query(session)
        session.close()
    assert [finding.message for finding in watch.findings] == [
        f"the session was used after the generator {name}() that yielded it had ended"
        for name in ("get_session", "get_session_finally")
    ]


def test_reports_a_generator_that_ran_to_its_end(shop: Engine, watch: Watch) -> None:
    """A provider that was exhausted has closed its session as well."""
    (session,) = get_session_finally(shop)
    query(session)
    assert "get_session_finally()" in only(watch, "use-after-close").message
    session.close()


def test_reports_a_registry_that_removed_it(shop: Engine, watch: Watch) -> None:
    """The session that was taken out of a registry before remove() is a stale one."""
    registry = scoped_session(sessionmaker(shop))
    session = registry()
    query(session)
    registry.remove()  # uac-remove
    query(session)
    finding = only(watch, "use-after-close")
    assert finding.message == "the session was used after its registry had removed it"
    assert evidence_line(finding, "closed") == line("uac-remove")
    session.close()


def test_reports_a_session_used_after_its_unit(shop: Engine, watch: Watch) -> None:
    """Closed by hand inside the unit, used after the unit: its time was over."""
    with unit_of_work("request"):
        session = Session(shop)
        query(session)
        session.close()
    query(session)
    finding = only(watch, "use-after-close")
    assert finding.message == "the session was used after its unit of work had ended"
    session.close()


def test_reports_a_session_committed_in_its_unit_and_used_after_it(shop: Engine, watch: Watch) -> None:
    """A session that nobody closed, in a new transaction after its unit."""
    with unit_of_work("request"):
        session = Session(shop)
        query(session)
        session.commit()
    query(session)
    query(session)
    session.commit()
    query(session)
    assert only(watch, "use-after-close").count == 1
    session.close()


def test_reports_on_mariadb(mariadb_shop: Engine, watch: Watch) -> None:
    """MariaDB's sessions end as others do."""
    with Session(mariadb_shop) as session:
        query(session)
    query(session)
    assert only(watch, "use-after-close").message == "the session was used after its with block had ended"
    session.close()


async def test_reports_an_async_with_block(async_shop: AsyncEngine, watch: Watch) -> None:
    """After `async with`, also where close() ran in a task of its own."""
    async with AsyncSession(async_shop) as session:  # uac-async-with
        await session.scalars(select(Order))
    await session.scalars(select(Order))  # uac-async-use
    finding = only(watch, "use-after-close")
    assert finding.message == "the session was used after its with block had ended"
    assert finding.line == line("uac-async-use")
    assert evidence_line(finding, "closed") == line("uac-async-with")
    await session.close()


async def test_reports_async_sessionmaker_begin(async_shop: AsyncEngine, watch: Watch) -> None:
    """After `async with maker.begin()` as well."""
    async with async_sessionmaker(async_shop).begin() as session:
        session.add(Order())
    await session.scalars(select(Order))
    assert only(watch, "use-after-close").message.endswith("its with block had ended")
    await session.close()


@pytest.mark.parametrize("provider", [get_async_session, get_async_session_finally])
async def test_reports_an_async_generator_that_was_returned_from(
    async_shop: AsyncEngine, watch: Watch, provider: Callable[[AsyncEngine], AsyncIterator[AsyncSession]]
) -> None:
    """`async for session in get_session(): return session`; the loop finalizes the generator later."""

    async def broken() -> AsyncSession:
        async for session in provider(async_shop):  # uac-async-broken
            return session
        raise AssertionError

    session = await broken()
    gc.collect()
    await until_closed(session)
    await session.scalars(select(Order))  # uac-async-generator-use
    finding = only(watch, "use-after-close")
    assert finding.line == line("uac-async-generator-use")
    assert f"the generator {provider.__name__}() that yielded it had ended" in finding.message
    assert evidence_line(finding, "obtained") == line("uac-async-broken")
    await session.close()


async def until_closed(session: AsyncSession) -> None:
    """Wait for the loop to finalize the generator that was dropped."""
    record = session.sync_session.__dict__["_sessionwatch"]
    async with asyncio.timeout(10):
        while record.closed_how is None:  # noqa: ASYNC110 (nobody sets an event)
            await asyncio.sleep(0)


async def test_reports_an_async_context_manager_of_a_generator(async_shop: AsyncEngine, watch: Watch) -> None:
    """contextlib.asynccontextmanager's block ended."""
    async with contextlib.asynccontextmanager(get_async_session_finally)(async_shop) as session:
        await session.scalars(select(Order))
    await session.scalars(select(Order))
    assert "get_async_session_finally()" in only(watch, "use-after-close").message
    await session.close()


async def test_reports_an_async_registry_that_removed_it(async_shop: AsyncEngine, watch: Watch) -> None:
    """async_scoped_session.remove() ends its session."""
    registry = async_scoped_session(async_sessionmaker(async_shop), scopefunc=asyncio.current_task)
    session = registry()
    await session.scalars(select(Order))
    await registry.remove()
    await session.scalars(select(Order))
    assert only(watch, "use-after-close").message == "the session was used after its registry had removed it"
    await session.close()


async def test_reports_an_async_session_used_after_its_unit(async_shop: AsyncEngine, watch: Watch) -> None:
    """An async unit bounds its sessions."""
    async with unit_of_work("request"):
        session = AsyncSession(async_shop)
        await session.scalars(select(Order))
        await session.close()
    await session.scalars(select(Order))
    assert only(watch, "use-after-close").message == "the session was used after its unit of work had ended"
    await session.close()


def test_reports_any_close_when_told_to(shop: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the setting `any`, a close() by hand counts."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    uninstall()
    with watching("log", log=False, settings={"use-after-close.after": "any"}) as watch:
        session = Session(shop)
        query(session)
        session.close()  # uac-hand
        query(session)
        session.close()
        finding = only(watch, "use-after-close")
    assert finding.message == "the session was used after it had been closed"
    assert evidence_line(finding, "closed") == line("uac-hand")


def test_reports_a_generator_that_works_on_after_its_own_block(shop: Engine, watch: Watch) -> None:
    """Inside the generator it is the with block that ended."""

    def jobs() -> Iterator[object]:
        with Session(shop) as session:
            yield query(session)
        yield query(session)
        session.close()

    assert len(list(jobs())) == 2
    assert only(watch, "use-after-close").message.endswith("its with block had ended")


# -- sessions that refuse by themselves -----------------------------------------------------------------------


def test_a_session_that_refuses_gets_the_story_as_a_note(shop: Engine, watch: Watch) -> None:
    """close_resets_only=False: SQLAlchemy's own error carries the finding."""
    session = Session(shop, close_resets_only=False)
    query(session)
    session.close()  # refused-close
    with pytest.raises(InvalidRequestError, match="permanently") as raised:
        query(session)
    finding = only(watch, "use-after-close")
    assert raised.value.__notes__ == [messages.render(finding)]
    assert finding.function == "query"
    assert evidence_line(finding, "closed") == line("refused-close")


def test_strict_leaves_the_error_of_a_session_that_refuses(shop: Engine, strict: Watch) -> None:
    """In strict mode too the exception is SQLAlchemy's, with the note."""
    with Session(shop, close_resets_only=False) as session:
        query(session)
    with pytest.raises(InvalidRequestError, match="permanently") as raised:
        query(session)
    assert type(raised.value) is InvalidRequestError
    assert raised.value.__notes__ == [messages.render(only(strict, "use-after-close"))]
    assert is_idle(shop)


async def test_an_async_session_that_refuses_gets_the_story_as_a_note(async_shop: AsyncEngine, watch: Watch) -> None:
    """The same for AsyncSession."""
    async with AsyncSession(async_shop, close_resets_only=False) as session:
        await session.scalars(select(Order))
    with pytest.raises(InvalidRequestError, match="permanently") as raised:
        await session.scalars(select(Order))
    assert raised.value.__notes__ == [messages.render(only(watch, "use-after-close"))]


# -- silent -------------------------------------------------------------------------------------------------


def test_ignores_a_close_by_hand(shop: Engine, watch: Watch) -> None:
    """close() and reset() by hand and going on is documented as allowed."""
    session = Session(shop)
    for end in (session.close, session.reset, session.close):
        query(session)
        end()
    assert watch.findings == []


async def test_ignores_an_async_close_by_hand(async_shop: AsyncEngine, watch: Watch) -> None:
    """The same for AsyncSession."""
    session = AsyncSession(async_shop)
    for end in (session.close, session.reset, session.aclose):
        await session.scalars(select(Order))
        await end()
    assert watch.findings == []


def test_ignores_a_close_by_hand_inside_the_block(shop: Engine, watch: Watch) -> None:
    """Inside its own with block the session may be closed and used on."""
    with Session(shop) as session:
        query(session)
        session.close()
        query(session)
    assert watch.findings == []


def test_ignores_a_block_that_is_entered_again(shop: Engine, watch: Watch) -> None:
    """Each with block is a scope of its own."""
    session = Session(shop)
    for _ in range(3):
        with session:
            query(session)
    assert watch.findings == []


async def test_ignores_an_async_block_that_is_entered_again(async_shop: AsyncEngine, watch: Watch) -> None:
    """The same for AsyncSession."""
    session = AsyncSession(async_shop)
    for _ in range(3):
        async with session:
            await session.scalars(select(Order))
    assert watch.findings == []


def test_ignores_a_generator_that_closes_by_hand_and_goes_on(shop: Engine, watch: Watch) -> None:
    """A worker's generator may close its session between two jobs."""

    def jobs() -> Iterator[int]:
        session = Session(shop)
        for number in range(3):
            query(session)
            session.close()
            yield number
        query(session)
        session.close()

    assert list(jobs()) == [0, 1, 2]
    assert watch.findings == []


async def test_ignores_an_async_generator_that_closes_by_hand_and_goes_on(
    async_shop: AsyncEngine, watch: Watch
) -> None:
    """The same for an async generator."""

    async def jobs() -> AsyncIterator[int]:
        session = AsyncSession(async_shop)
        for number in range(3):
            await session.scalars(select(Order))
            await session.close()
            yield number

    assert [number async for number in jobs()] == [0, 1, 2]
    assert watch.findings == []


def test_ignores_a_generator_whose_consumer_closes_by_hand(shop: Engine, watch: Watch) -> None:
    """While the provider waits at its yield, its scope has not ended."""
    for session in get_session(shop):
        query(session)
        session.close()
        query(session)
        session.commit()
    assert watch.findings == []


def test_ignores_sessions_handed_to_an_executor_in_sequence(shop: Engine, watch: Watch) -> None:
    """One thread after the other may use a session, and close it."""
    if shop.dialect.name == "sqlite" and shop.url.database:
        pytest.skip("SQLite's driver binds a connection to its thread")
    session = Session(shop)
    with ThreadPoolExecutor(2) as executor:
        for _ in range(4):
            executor.submit(query, session).result()
        executor.submit(session.close).result()
        executor.submit(query, session).result()
        executor.submit(session.close).result()
    assert watch.findings == []


def test_ignores_a_registry_that_makes_a_new_session(shop: Engine, watch: Watch) -> None:
    """After remove() the registry itself is as good as new, in each thread."""
    registry = scoped_session(sessionmaker(shop))

    def work() -> None:
        for _ in range(2):
            registry.scalars(select(Order)).all()
            registry.remove()

    thread = threading.Thread(target=work)
    work()
    thread.start()
    thread.join()
    assert watch.findings == []


def test_ignores_a_closed_session_that_is_only_asked(shop: Engine, watch: Watch) -> None:
    """Looking at a closed session, closing it again or expunging from it is no work."""
    with Session(shop) as session:
        query(session)
    assert not session.in_transaction()
    assert (list(session), list(session.dirty)) == ([], [])
    session.expunge_all()
    session.close()
    session.rollback()
    assert watch.findings == []


def test_ignores_sessions_within_their_unit(shop: Engine, watch: Watch) -> None:
    """Closing by hand and going on is allowed inside of a unit as well, and in a unit of its own."""
    with unit_of_work("request"):
        session = Session(shop)
        for _ in range(2):
            query(session)
            session.close()
    assert watch.findings == []


def test_ignores_a_session_older_than_the_unit(shop: Engine, watch: Watch) -> None:
    """A session that was made before the unit doesn't end with it."""
    session = Session(shop)
    for _ in range(2):
        with unit_of_work("job"):
            query(session)
            session.commit()
    query(session)
    session.close()
    assert watch.findings == []


# -- message and strict mode ----------------------------------------------------------------------------------


def broken_session(engine: Engine) -> Session:
    for session in provide(engine):  # story-consumer
        return session
    raise AssertionError


def provide(engine: Engine) -> Iterator[Session]:
    session = Session(engine)  # story-open
    try:
        yield session
    finally:
        session.close()  # story-close


def test_message_word_for_word(shop: Engine, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole story of a broken generator."""
    monkeypatch.chdir(Path(__file__).parent)
    session = broken_session(shop)
    session.execute(text("SELECT 1"))  # story-use
    finding = only(watch, "use-after-close")
    label = finding.evidence[-1].session
    here = "test_message_word_for_word"
    assert messages.render(finding) == textwrap.dedent(f"""\
        use-after-close: the session was used after the generator provide() that yielded it had ended
          used      test_use_after_close.py:{line("story-use")} in {here}     session {label}
          closed    test_use_after_close.py:{line("story-close")} in provide                        the generator ended
          obtained  test_use_after_close.py:{line("story-consumer")} in broken_session                 ran the generator
          opened    test_use_after_close.py:{line("story-open")} in provide                        session {label}
          fix: let the generator live as long as the session is used: yield from it, or use it as a context manager
          more: sessionwatch explain use-after-close""")
    session.close()


@pytest.mark.parametrize("use", [query, lookup, flush, begin, begin_nested, connection])
def test_strict_raises_before_anything_is_begun(shop: Engine, strict: Watch, use: Callable[[Session], object]) -> None:
    """The error comes before a connection is taken, and the session stays as it was."""
    with Session(shop) as session:
        query(session)
    with pytest.raises(FindingError, match="its with block had ended") as raised:
        use(session)
    assert raised.value.finding is only(strict, "use-after-close")
    assert is_idle(shop)
    assert not session.in_transaction()


async def test_strict_raises_under_asyncio(async_shop: AsyncEngine, strict: Watch) -> None:
    """The error crosses the greenlet, and the pool is idle."""
    async with AsyncSession(async_shop) as session:
        await session.scalars(select(Order))
    with pytest.raises(FindingError, match="its with block had ended"):
        await session.scalars(select(Order))
    only(strict, "use-after-close")
    assert is_idle(async_shop)


def test_strict_keeps_the_exception_that_is_being_handled(shop: Engine, strict: Watch) -> None:
    """Used in an except block, the finding's error keeps what was handled there as its context."""
    with pytest.raises(FindingError) as raised:
        use_in_handler(shop)
    assert isinstance(raised.value.__context__, KeyError)
    assert is_idle(shop)


def use_in_handler(engine: Engine) -> None:
    try:
        with Session(engine) as session:
            raise KeyError("mine")
    except KeyError:
        session.add(Tag(name="audit"))
        session.flush()
