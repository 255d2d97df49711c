"""``late-commit``: commits that fail after the client has been answered."""
# ruff: noqa: B008 (as FastAPI asks for dependencies)

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Response
from flask import Flask, stream_with_context
from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session
from starlette.responses import StreamingResponse

from sessionwatch import allow, uninstall, watching
from sessionwatch.model import Mode
from sessionwatch.watch.watch import Watch
from tests.rules.models import Order, Tag
from tests.rules.places import alone, evidence_line, is_idle, labels, line, only

RULE = "late-commit"


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """This rule and lost-writes, whose headline it adds to, are on; our own errors raise."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    uninstall()
    with watching("log", log=False, rules=alone(RULE)) as installed:
        yield installed


def application(engine: AsyncEngine, scope: Any = "request") -> FastAPI:
    """Its dependency commits after the response; with scope="function" before it."""
    app = FastAPI()

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(engine, expire_on_commit=False) as session:
            yield session
            await session.commit()  # late

    db = Depends(get_session, scope=scope)

    @app.post("/tags/{number}", status_code=201)
    async def create(number: int, session: AsyncSession = db) -> None:
        session.add(Tag(id=number, name="x"))  # added

    @app.post("/refused/{number}")
    async def refuse(number: int, response: Response, session: AsyncSession = db) -> None:
        session.add(Tag(id=number, name="x"))
        response.status_code = 422

    @app.post("/handled/{number}", status_code=201)
    async def handle(number: int, session: AsyncSession = db) -> None:
        session.add(Tag(id=number, name="x"))
        await session.commit()

    @app.get("/read")
    async def read(session: AsyncSession = db) -> int:
        return len((await session.scalars(select(Tag))).all())

    return app


async def call(app: Any, *paths: str, method: str = "POST") -> list[int]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        return [(await client.request(method, path)).status_code for path in paths]


async def test_reports_a_dependency_that_commits(watch: Watch, async_shop: AsyncEngine) -> None:
    """The exit code of a dependency runs after the response, and its commit fails."""
    assert await call(application(async_shop), "/tags/1") == [201]
    found = only(watch, RULE)
    assert found.line == line("late")
    assert found.unit == "POST /tags/{number}"
    assert labels(found)[0] == "committed"
    assert evidence_line(found, "committed") == line("late")
    assert is_idle(async_shop)


async def test_reports_what_is_pending_and_what_was_flushed(watch: Watch, async_shop: AsyncEngine) -> None:
    """A deferred constraint would fail in COMMIT itself; what counts is that the commit fails."""
    app = FastAPI()

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(async_shop) as session:
            yield session
            await session.commit()

    @app.post("/both", status_code=201)
    async def create(session: AsyncSession = Depends(get_session)) -> None:
        session.add(Order(status="new"))
        await session.flush()
        session.add(Tag(id=1, name="x"))

    assert await call(app, "/both") == [201]
    message = only(watch, RULE).message
    assert "1 Tag object" in message
    assert "1 Order object" in message


def sync_application(engine: Engine) -> FastAPI:
    app = FastAPI()

    def get_session() -> Iterator[Session]:
        with Session(engine) as session:
            yield session
            session.commit()

    @app.post("/tags/{number}", status_code=201)
    def create(number: int, session: Session = Depends(get_session)) -> None:
        session.add(Tag(id=number, name="x"))

    return app


async def test_reports_a_sync_dependency(watch: Watch, shop: Engine) -> None:
    """The same with a sync session, which runs in a thread pool."""
    if shop.url.database is None:
        pytest.skip("a database in memory has one connection per thread")
    assert await call(sync_application(shop), "/tags/1") == [201]
    assert 'Depends(get_session, scope="function")' in (only(watch, RULE).fix or "")


def flask(engine: Engine, commit: Callable[[Session], None]) -> Flask:
    """A view whose response commits when it is closed."""
    app = Flask(__name__)
    app.config["PROPAGATE_EXCEPTIONS"] = True

    @app.post("/tags/<int:number>")
    def create(number: int) -> Any:
        session = Session(engine)
        session.add(Tag(id=number, name="x"))
        response = app.make_response(("stored", 201))

        @response.call_on_close
        def store() -> None:
            with session:
                commit(session)

        return response

    return app


def test_reports_a_wsgi_response_that_commits_when_it_is_closed(watch: Watch, shop: Engine) -> None:
    """WSGI: the server has taken the body, and closes the response."""
    app = flask(shop, lambda session: session.commit())
    response = app.test_client().post("/tags/1")
    with pytest.raises(IntegrityError):
        response.close()
    assert only(watch, RULE).unit == "POST /tags/<int:number>"


def test_reports_a_wsgi_response_that_was_exhausted_first(watch: Watch, shop: Engine) -> None:
    """As a server does: it takes all of the body, and closes it then."""
    app = flask(shop, lambda session: session.commit())
    with pytest.raises(IntegrityError):
        app.test_client().post("/tags/1", buffered=True)
    assert only(watch, RULE).message.startswith("POST /tags/<int:number> answered 201")
    assert [found.rule for found in watch.findings] == [RULE]


def test_reports_a_wsgi_stream(watch: Watch, shop: Engine) -> None:
    """WSGI: the first part was taken, and the generator commits after the last one."""
    app = Flask(__name__)

    @app.post("/tags")
    def create() -> Any:
        def parts() -> Iterator[str]:
            with Session(shop) as session:
                session.add(Tag(id=1, name="x"))
                yield "stored"
                session.commit()

        return app.response_class(stream_with_context(parts()))

    response = app.test_client().post("/tags")
    with pytest.raises(IntegrityError):
        response.get_data()
    response.close()
    assert only(watch, RULE).message.startswith("POST /tags answered 200")


@pytest.mark.parametrize("mode", ["strict", "telemetry"])
async def test_reports_in_strict_and_telemetry(
    mode: Mode, monkeypatch: pytest.MonkeyPatch, async_shop: AsyncEngine
) -> None:
    """Strict mode leaves the application's error as it is; the pool is idle afterwards."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    uninstall()
    with watching(mode, log=False, rules=alone(RULE, "raise" if mode == "strict" else "log")) as watch:
        assert await call(application(async_shop), "/tags/1") == [201]
        assert only(watch, RULE).severity == "fault"
        assert is_idle(async_shop)


async def test_exact_message(watch: Watch, async_shop: AsyncEngine) -> None:
    """The headline and the fix, word for word."""
    await call(application(async_shop), "/tags/1")
    found = only(watch, RULE)
    assert found.message == (
        "POST /tags/{number} answered 201, and then its commit failed with IntegrityError: 1 Tag object is not stored"
    )
    assert found.fix == (
        "commit before the response: await session.commit() in the handler, before it returns\n"
        'in FastAPI, let the dependency end before the response: Depends(get_session, scope="function")'
    )


async def test_headline_of_lost_writes(monkeypatch: pytest.MonkeyPatch, async_shop: AsyncEngine) -> None:
    """Writes that are lost without a failed commit are another rule's, which names the answer."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    uninstall()
    app = FastAPI()

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(async_shop) as session:
            yield session

    @app.post("/tags", status_code=201)
    async def create(session: AsyncSession = Depends(get_session)) -> None:
        session.add(Tag(name="x"))
        await session.flush()

    with watching("log", log=False, rules={"config": "off"}) as watch:
        assert await call(app, "/tags") == [201]
        found = only(watch, "lost-writes")
    assert found.message.endswith("the session was closed without a commit, after POST /tags had answered 201")


# -- near misses ---------------------------------------------------------------------------------------


async def test_ignores_the_fixes(watch: Watch, async_shop: AsyncEngine) -> None:
    """A dependency that ends before the response, and a commit in the handler: the client gets a 500."""
    assert await call(application(async_shop, "function"), "/tags/1") == [500]
    assert await call(application(async_shop), "/handled/1") == [500]
    assert watch.findings == []


async def test_ignores_a_commit_that_succeeds(watch: Watch, async_shop: AsyncEngine) -> None:
    """Late, and well."""
    assert await call(application(async_shop), "/tags/7") == [201]
    assert await call(application(async_shop), "/read", method="GET") == [200]
    assert watch.findings == []


async def test_ignores_an_answer_that_promises_nothing(watch: Watch, async_shop: AsyncEngine) -> None:
    """A status of 400 and more."""
    assert await call(application(async_shop), "/refused/1") == [422]
    assert watch.findings == []


async def test_ignores_a_first_write_after_the_response(watch: Watch, async_shop: AsyncEngine) -> None:
    """A background task, and a dependency that writes an access log."""
    app = FastAPI()

    async def work() -> None:
        async with AsyncSession(async_shop) as session:
            session.add(Tag(id=1, name="x"))
            await session.commit()

    @app.post("/later")
    async def later(tasks: BackgroundTasks) -> None:
        tasks.add_task(work)

    async def logged() -> AsyncIterator[None]:
        async with AsyncSession(async_shop) as session:
            await session.scalars(select(Tag))
            yield
            session.add(Tag(id=1, name="x"))
            await session.commit()

    @app.post("/logged", dependencies=[Depends(logged)])
    async def handler() -> None: ...

    assert await call(app, "/later", "/logged") == [200, 200]
    assert watch.findings == []


async def test_ignores_a_commit_that_is_tried_again(watch: Watch, async_shop: AsyncEngine) -> None:
    """The second attempt stores what was promised, in the same session or in another one."""
    app = FastAPI()

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(async_shop) as session:
            yield session
            try:
                await session.commit()
            except IntegrityError:
                await session.rollback()
                session.add(Tag(name="x"))
                await session.commit()

    async def get_another() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(async_shop) as session:
            yield session
            try:
                await session.commit()
            except IntegrityError:
                await session.rollback()
                async with AsyncSession(async_shop) as second:
                    second.add(Tag(name="x"))
                    await second.commit()

    @app.post("/same", status_code=201)
    async def same(session: AsyncSession = Depends(get_session)) -> None:
        session.add(Tag(id=1, name="x"))

    @app.post("/another", status_code=201)
    async def another(session: AsyncSession = Depends(get_another)) -> None:
        session.add(Tag(id=1, name="x"))

    assert await call(app, "/same", "/another") == [201, 201]
    assert watch.findings == []


async def test_ignores_a_stream_that_breaks_off(watch: Watch, async_shop: AsyncEngine) -> None:
    """The client sees that the response is not complete."""
    app = FastAPI()

    @app.post("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[str]:
            async with AsyncSession(async_shop) as session:
                session.add(Tag(id=1, name="x"))
                yield "stored"
                await session.commit()

        return StreamingResponse(parts())

    await call(app, "/stream")
    assert watch.findings == []


async def test_ignores_a_read_that_fails(watch: Watch, async_shop: AsyncEngine) -> None:
    """Nothing was promised by a session that wrote nothing."""
    app = FastAPI()

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(async_shop) as session:
            yield session
            await session.execute(select(Tag).where(Tag.id == Tag.no_such))  # type: ignore[attr-defined]

    @app.get("/read")
    async def read(session: AsyncSession = Depends(get_session)) -> int:
        return len((await session.scalars(select(Tag))).all())

    assert await call(app, "/read", method="GET") == [200]
    assert watch.findings == []


def test_ignores_a_wsgi_view_that_commits(watch: Watch, shop: Engine) -> None:
    """A commit in the view fails before the server has anything."""
    app = Flask(__name__)

    @app.post("/tags")
    def create() -> str:
        with Session(shop) as session:
            session.add(Tag(id=1, name="x"))
            session.commit()
        return "stored"

    assert app.test_client().post("/tags").status_code == 500
    assert watch.findings == []


def test_ignores_a_wsgi_response_that_rolls_back(watch: Watch, shop: Engine) -> None:
    """A rollback is meant."""
    app = flask(shop, lambda session: session.rollback())
    assert app.test_client().post("/tags/1").status_code == 201
    assert watch.findings == []


async def test_ignores_what_is_allowed(watch: Watch, async_shop: AsyncEngine) -> None:
    """A session that was opened in a block that says why."""
    app = FastAPI()

    async def get_session() -> AsyncIterator[AsyncSession]:
        with allow(RULE, reason="the answer is asked for later"):
            session = AsyncSession(async_shop)
        async with session:
            yield session
            await session.commit()

    @app.post("/tags", status_code=202)
    async def create(session: AsyncSession = Depends(get_session)) -> None:
        session.add(Tag(id=1, name="x"))

    assert await call(app, "/tags") == [202]
    assert watch.findings == []
    assert [finding.allowed for finding in watch.allowed] == ["the answer is asked for later"]
