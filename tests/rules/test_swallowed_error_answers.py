"""``swallowed-error``: errors that a framework, a test or a handler answers, and those that only look like it."""

# The handlers and blocks are what is tested, in the way that programs write them.
# ruff: noqa: SIM105, SIM117, PT027, B017, RUF061

from __future__ import annotations

import contextlib
import unittest
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from flask import Flask, abort
from sqlalchemy import Engine, exc, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sessionwatch.watch.watch import Watch
from tests.rules.models import Item, Order
from tests.rules.places import is_idle, line, only

EXPECTED = (IntegrityError, OperationalError)


class ServiceError(Exception):
    pass


def insert(session: Session) -> None:
    session.add(Order(id=1))
    session.flush()  # inserting


async def insert_async(session: AsyncSession) -> None:
    session.add(Order(id=1))
    await session.flush()


# -- handlers ---------------------------------------------------------------------------------------------


def names_the_error(session: Session) -> object:
    try:
        insert(session)
    except IntegrityError:
        return None
    return session


def names_it_by_its_module(session: Session) -> object:
    try:
        insert(session)
    except exc.IntegrityError as error:
        return str(error)
    return session


def names_several(session: Session) -> object:
    try:
        insert(session)
    except (ValueError, IntegrityError):
        return None
    return session


def names_them_in_a_constant(session: Session) -> object:
    try:
        insert(session)
    except EXPECTED:
        return None
    return session


def suppresses_it(session: Session) -> object:
    with contextlib.suppress(IntegrityError):
        insert(session)
        return session
    return None


def makes_another_of_it(session: Session) -> object:
    try:
        insert(session)
    except SQLAlchemyError as error:
        raise ServiceError from error
    return session


def makes_another_without_from(session: Session) -> object:
    try:
        insert(session)
    except Exception:
        raise ServiceError  # noqa: B904
    return session


def passes_it_on(session: Session) -> object:
    try:
        insert(session)
    except Exception:
        print("not stored")
        raise
    return session


def passes_it_on_by_name(session: Session) -> object:
    try:
        insert(session)
    except Exception as error:
        raise error
    return session


def outer(inner: Callable[[Session], object], session: Session, *answers: type[Exception]) -> None:
    with contextlib.suppress(*answers):
        inner(session)


@pytest.mark.parametrize(
    "work",
    [names_the_error, names_it_by_its_module, names_several, names_them_in_a_constant, suppresses_it],
)
def test_ignores_a_handler_that_names_the_error(shop: Engine, watch: Watch, work: Callable[[Session], object]) -> None:
    """A narrow class says what may go wrong; the session is only closed afterwards."""
    with Session(shop) as session:
        work(session)
    assert watch.findings == []


@pytest.mark.parametrize("work", [makes_another_of_it, makes_another_without_from])
def test_ignores_an_error_that_became_another(shop: Engine, watch: Watch, work: Callable[[Session], object]) -> None:
    """The caller is told, by an exception of the program's own."""
    session = Session(shop)
    with contextlib.suppress(ServiceError):
        work(session)
    session.close()
    assert watch.findings == []


@pytest.mark.parametrize("work", [passes_it_on, passes_it_on_by_name])
def test_ignores_an_error_that_is_passed_on_to_a_narrow_handler(
    shop: Engine, watch: Watch, work: Callable[[Session], object]
) -> None:
    """What counts is the handler that ends it."""
    session = Session(shop)
    try:
        work(session)
    except IntegrityError:
        pass
    session.close()
    assert watch.findings == []


def says_nothing(session: Session) -> None:
    try:
        insert(session)
    except Exception:
        pass


def says_nothing_of_the_database(session: Session) -> None:
    try:
        insert(session)
    except SQLAlchemyError as error:
        print(type(error).__name__)


def says_nothing_by_a_block(session: Session) -> None:
    with contextlib.suppress(DBAPIError):
        insert(session)


@contextlib.contextmanager
def forgiving(session: Session) -> Iterator[Session]:
    try:
        yield session
    except Exception:
        print("not stored")


def says_nothing_by_its_own_block(session: Session) -> None:
    with forgiving(session):
        insert(session)


def names_another(session: Session) -> None:
    try:
        try:
            insert(session)
        except OperationalError:
            pass
    except Exception:
        pass


def raises_only_sometimes(session: Session, again: bool = False) -> None:
    try:
        insert(session)
    except Exception:
        if again:
            raise
        print("not stored")


@pytest.mark.parametrize(
    "work",
    [
        says_nothing,
        says_nothing_of_the_database,
        says_nothing_by_a_block,
        says_nothing_by_its_own_block,
        names_another,
        raises_only_sometimes,
    ],
)
def test_reports_a_handler_that_catches_everything(
    shop: Engine, watch: Watch, work: Callable[[Session], object]
) -> None:
    """Nobody can tell what went wrong, and that the row is missing."""
    with Session(shop) as session:
        work(session)
    finding = only(watch, "swallowed-error")
    assert finding.message == "INSERT orders failed with IntegrityError, and the session was closed without a rollback"
    assert finding.line == line("inserting")


def test_reports_a_narrow_handler_that_goes_on(shop: Engine, watch: Watch) -> None:
    """A named error is as much without a rollback, if the session then works on."""
    session = Session(shop)
    with contextlib.suppress(IntegrityError):
        session.execute(text("INSERT INTO orders (id, status) VALUES (1, 'again')"))
    with contextlib.suppress(DBAPIError):
        session.scalars(select(Item)).all()
    session.close()
    assert only(watch, "swallowed-error").message.endswith("and the session ran SELECT items without a rollback")


def test_reports_a_handler_without_a_source(shop: Engine, watch: Watch, tmp_path: Path) -> None:
    """Where the source is missing, nothing is assumed of the handler."""
    program = (
        "def work(session, insert):\n    try:\n        insert(session)\n    except IntegrityError:\n        pass\n"
    )
    names: dict[str, Any] = {"IntegrityError": IntegrityError, "__name__": "program"}
    exec(compile(program, str(tmp_path / "gone.py"), "exec"), names)
    with Session(shop) as session:
        names["work"](session, insert)
    only(watch, "swallowed-error")


def test_reports_one_fault_once(shop: Engine, watch: Watch) -> None:
    """What was written before and went with it is the same story, not a lost write as well."""
    with Session(shop) as session:
        session.add(Order(status="before"))
        session.flush()
        with contextlib.suppress(Exception):
            session.execute(text("INSERT INTO orders (id, status) VALUES (1, 'again')"))
    only(watch, "swallowed-error")


# -- tests ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flush", [True, False])
def test_ignores_what_a_test_expects(shop: Engine, watch: Watch, flush: bool) -> None:
    """``pytest.raises``, and whatever the test does next."""
    with Session(shop) as session:
        session.add(Order(id=1))
        with pytest.raises(IntegrityError):
            session.flush() if flush else session.commit()
    assert watch.findings == []


def test_ignores_what_a_test_expects_of_a_call(shop: Engine, watch: Watch) -> None:
    """``pytest.raises(error, function)``, of any class that the error is of."""
    with Session(shop) as session:
        pytest.raises(Exception, insert, session)
    assert watch.findings == []


def test_ignores_a_test_that_goes_on(shop: Engine, watch: Watch) -> None:
    """What the test asks afterwards is a part of it."""
    session = Session(shop)
    with pytest.raises(DBAPIError):
        session.execute(text("INSERT INTO orders (id, status) VALUES (1, 'again')"))
    with contextlib.suppress(DBAPIError):
        session.scalars(select(Item)).all()
    session.close()
    assert watch.findings == []


def test_ignores_what_a_test_case_expects(shop: Engine, watch: Watch) -> None:
    """``assertRaises`` is the same."""
    with Session(shop) as session:
        with unittest.TestCase().assertRaises(IntegrityError):
            insert(session)
    with Session(shop) as session:
        unittest.TestCase().assertRaises(IntegrityError, insert, session)
    assert watch.findings == []


async def test_ignores_what_an_async_test_expects(async_shop: AsyncEngine, watch: Watch) -> None:
    """The same under asyncio."""
    async with AsyncSession(async_shop) as session:
        with pytest.raises(IntegrityError):
            await insert_async(session)
    assert watch.findings == []


async def test_ignores_an_async_handler_that_names_the_error(async_shop: AsyncEngine, watch: Watch) -> None:
    """The handler is found outside of SQLAlchemy's greenlet."""
    async with AsyncSession(async_shop) as session:
        try:
            await insert_async(session)
        except IntegrityError:
            pass
    assert watch.findings == []


async def test_reports_an_async_handler_that_catches_everything(async_shop: AsyncEngine, watch: Watch) -> None:
    """The other side of it."""
    async with AsyncSession(async_shop) as session:
        try:
            await insert_async(session)
        except Exception:
            pass
    only(watch, "swallowed-error")


# -- frameworks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("handled", [None, IntegrityError, Exception, "abort"])
def test_ignores_an_error_that_flask_answers(shop: Engine, watch: Watch, handled: Any) -> None:
    """It left the view; the session is removed when the application context ends."""
    registry = scoped_session(sessionmaker(shop))
    app = Flask("shop")
    app.config["PROPAGATE_EXCEPTIONS"] = False
    app.logger.disabled = True
    app.teardown_appcontext(lambda error: registry.remove())

    def answer(error: Any) -> tuple[str, int]:
        return "exists", 409

    if isinstance(handled, type):
        app.register_error_handler(handled, answer)

    @app.post("/orders")
    def create() -> str:
        registry.add(Order(status="first"))
        registry.flush()
        try:
            insert(registry())
        except IntegrityError:
            if handled == "abort":
                abort(409)
            raise
        return ""

    status = app.test_client().post("/orders").status_code
    assert status == (500 if handled is None else 409)
    assert watch.findings == []


def test_ignores_writes_of_a_view_that_flask_answers_for(shop: Engine, watch: Watch) -> None:
    """An exception of the program's own is answered, and what was written goes with it."""
    registry = scoped_session(sessionmaker(shop))
    app = Flask("shop")
    app.teardown_appcontext(lambda error: registry.remove())

    @app.post("/orders")
    def create() -> str:
        registry.add(Order(status="first"))
        registry.flush()
        abort(422)

    assert app.test_client().post("/orders").status_code == 422
    assert watch.findings == []


def test_reports_writes_of_a_view_that_returns(shop: Engine, watch: Watch) -> None:
    """The other side of it: nothing was raised."""
    registry = scoped_session(sessionmaker(shop))
    app = Flask("shop")
    app.teardown_appcontext(lambda error: registry.remove())

    @app.post("/orders")
    def create() -> str:
        registry.add(Order(status="first"))
        registry.flush()
        return "stored"

    app.test_client().post("/orders")
    only(watch, "lost-writes")


@pytest.mark.parametrize("handled", [True, False])
@pytest.mark.parametrize("turned", [True, False])
async def test_ignores_an_error_that_fastapi_answers(
    async_shop: AsyncEngine, watch: Watch, handled: bool, turned: bool
) -> None:
    """A handler of the application's, or its 500, or an HTTPException that the route made of it."""
    app = FastAPI()

    @app.middleware("http")
    async def keep(request: Any, call_next: Any) -> Any:
        async with AsyncSession(async_shop) as session:
            request.state.session = session
            return await call_next(request)

    async def given(request: Request) -> AsyncSession:
        session: AsyncSession = request.state.session
        return session

    given.__annotations__["request"] = Request  # FastAPI asks for it, and not by its name

    @app.post("/orders")
    async def create(session: Any = Depends(given)) -> None:  # noqa: B008
        session.add(Order(status="first"))
        await session.flush()
        try:
            await insert_async(session)
        except IntegrityError as error:
            if turned:
                raise HTTPException(409) from error
            raise

    if handled:

        @app.exception_handler(IntegrityError)
        async def conflict(request: Any, error: Any) -> JSONResponse:
            return JSONResponse({}, 409)

    await async_shop.dispose()  # the client has an event loop of its own
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.post("/orders").status_code == (409 if handled or turned else 500)
    assert watch.findings == []


async def test_ignores_a_dependency_whose_route_fails(async_shop: AsyncEngine, watch: Watch) -> None:
    """The error goes through the dependency that closes the session."""
    app = FastAPI()

    async def get_session() -> AsyncIterator[AsyncSession]:
        session = AsyncSession(async_shop)
        try:
            yield session
        finally:
            await session.close()

    @app.post("/orders")
    async def create(session: Any = Depends(get_session)) -> None:  # noqa: B008
        await insert_async(session)

    await async_shop.dispose()  # the client has an event loop of its own
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.post("/orders").status_code == 500
    assert watch.findings == []


def test_leaves_the_pool_idle_in_strict_mode(shop: Engine, strict: Watch) -> None:
    """What is answered raises nothing, and the connection goes back."""
    with Session(shop) as session:
        names_the_error(session)
    assert is_idle(shop)
    assert strict.findings == []
