"""WSGI: each request is a unit of work, under Flask by itself."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper, setup_testing_defaults

import httpx
import pytest
from a2wsgi import WSGIMiddleware
from fastapi import FastAPI
from flask import Blueprint, Flask, Response, stream_with_context
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from sessionwatch import FindingError
from sessionwatch.units.scope import current_unit
from sessionwatch.units.wsgi import UnitOfWorkMiddleware
from sessionwatch.watch.watch import Watch
from tests.rules.models import Order, Tag
from tests.units.work import Seen, found, write

SPLIT = "split-unit-of-work"
HALF = """
import logging
from flask import Flask
from sqlalchemy import StaticPool, create_engine
from sqlalchemy.orm import Session
from tests.rules.models import Tag, create
engine = create_engine("sqlite://", poolclass=StaticPool)
create(engine)
app = Flask("shop")
app.logger.disabled = True
@app.post("/tags")
def store():
    with Session(engine) as session, session.begin():
        session.add(Tag(id=1, name="first"))
    with Session(engine) as session, session.begin():
        session.add(Tag(id=1, name="second"))
assert app.test_client().post("/tags").status_code == 500
"""


def call(app: Any, path: str = "/", method: str = "GET", **environ: Any) -> Iterable[bytes]:
    """Call an application as a server does; the body is not read yet."""
    given: dict[str, Any] = {"PATH_INFO": path, "REQUEST_METHOD": method, **environ}
    setup_testing_defaults(given)
    body: Iterable[bytes] = app(given, lambda *_: None)
    return body


# -- Flask -----------------------------------------------------------------------------------------------


def test_reports_a_request_with_two_sessions(shop: Engine, watch: Watch) -> None:
    """Two sessions that commit in one view are split, under the name of the rule."""
    app, orders = Flask("shop"), Blueprint("orders", "shop", url_prefix="/orders")

    @orders.post("/<int:number>/pay")
    def pay(number: int) -> str:
        write(shop)
        write(shop, "paid")
        return "paid"

    app.register_blueprint(orders)
    assert app.test_client().post("/orders/17/pay").text == "paid"
    assert found(watch) == [(SPLIT, "POST /orders/<int:number>/pay")]


def test_ignores_requests_of_their_own(shop: Engine, watch: Watch) -> None:
    """One session a request is right, also where the client reads nothing, and beside the test's own session."""
    app, seen = Flask("shop"), Seen()

    @app.get("/orders")
    def orders() -> str:
        seen.look()
        write(shop)
        return "x"

    client = app.test_client()
    answers = [client.get("/orders") for _ in range(3)]
    assert current_unit() is None
    write(shop)
    assert [answer.status_code for answer in answers] == [200] * 3
    assert len({id(unit) for unit in seen.units}) == 3
    assert watch.findings == []


def test_ignores_flask_sqlalchemy(shop: Engine, watch: Watch) -> None:
    """Its session is removed by the teardown within the request, also where a test holds the context open."""
    app = Flask("shop")
    app.config["SQLALCHEMY_DATABASE_URI"] = shop.url
    db = SQLAlchemy(app)

    @app.get("/orders")
    def orders() -> str:
        db.session.add(Tag(name="new"))
        db.session.commit()
        return str(len(db.session.scalars(select(Order)).all()))

    with app.test_client() as client:
        assert client.get("/orders").text == "1"
        assert db.session.scalars(select(Order)).all()
        assert client.get("/orders").text == "1"
    assert watch.findings == []
    with app.app_context():
        db.engine.dispose()


def test_a_streamed_response_belongs_to_its_request(shop: Engine, watch: Watch) -> None:
    """The unit is current while parts are made, and ends when the server closes the body."""
    app, seen = Flask("shop"), Seen()

    @app.get("/export")
    def export() -> Response:
        seen.look()

        def rows() -> Iterator[str]:
            with Session(shop) as session:
                for order in session.scalars(select(Order)):
                    seen.look()
                    yield order.status

        return Response(stream_with_context(rows()))

    answer = app.test_client().get("/export")
    assert seen.ended == [False, False]  # Flask's client has asked for the first part
    assert answer.text == "new"
    assert seen.same
    answer.close()
    assert seen.ended == [True, True]
    assert watch.findings == []


@pytest.mark.parametrize("fails", [False, True])
def test_a_session_that_the_response_closes_is_no_leak(shop: Engine, watch: Watch, fails: bool) -> None:
    """A server closes a body that it has exhausted, or that failed: its unit lasts until then."""
    app = Flask("shop")

    @app.get("/export")
    def export() -> Response:
        session = Session(shop)
        orders = session.scalars(select(Order)).all()

        def parts() -> Iterator[str]:
            yield from (order.status for order in orders)
            if fails:
                raise ZeroDivisionError

        response = Response(parts())
        response.call_on_close(lambda: session.scalars(select(Order)).all())
        response.call_on_close(session.close)
        return response

    with pytest.raises(ZeroDivisionError) if fails else nullcontext():
        app.test_client().get("/export", buffered=True)
    assert watch.findings == []


def test_reports_a_leak_and_never_raises_it(shop: Engine, strict: Watch) -> None:
    """A session that is left open is a leak at the request's end, which raises nothing."""
    app = Flask("shop")
    kept = []

    @app.get("/leak")
    def leak() -> str:
        kept.append(Session(shop))
        return str(len(kept[0].scalars(select(Order)).all()))

    assert app.test_client().get("/leak").text == "1"
    assert found(strict) == [("session-leak", "GET /leak")]
    kept[0].close()


def test_strict_raises_within_the_request(shop: Engine, strict: Watch) -> None:
    """A finding in the view still raises where it happens."""
    app = Flask("shop")
    app.testing = True

    @app.get("/lose")
    def lose() -> str:
        with Session(shop) as session:
            session.add(Tag(name="lost"))
            session.flush()
        return "x"

    with pytest.raises(FindingError, match="lost-writes"):
        app.test_client().get("/lose")
    assert found(strict) == [("lost-writes", "GET /lose")]
    assert current_unit() is None


def test_no_route(watch: Watch) -> None:
    """A path without a rule is never part of a name."""
    app, seen = Flask("shop"), Seen()
    app.before_request(seen.look)
    assert app.test_client().get("/secret").status_code == 404
    assert seen.names == ["GET (no route)"]


def looking(seen: Seen) -> Flask:
    app = Flask("shop")

    @app.get("/orders/<number>")
    def order(number: str) -> str:
        seen.look()
        return number

    return app


def test_a_mounted_application_is_one_unit(watch: Watch) -> None:
    """Flask in Flask, and Flask in FastAPI: one unit, with the inner rule's name."""
    outer, seen = Flask("outer"), Seen()
    outer.wsgi_app = DispatcherMiddleware(outer.wsgi_app, {"/inner": looking(seen)})  # type: ignore[method-assign]
    assert outer.test_client().get("/inner/orders/1").text == "1"

    app = FastAPI()
    app.mount("/flask", WSGIMiddleware(looking(seen)))  # type: ignore[arg-type]

    async def get() -> str:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://shop") as client:
            return (await client.get("/flask/orders/2")).text

    assert asyncio.run(get()) == "2"
    assert seen.names == ["GET /orders/<number>"] * 2
    assert [unit.outer for unit in seen.units if unit] == [None, None]
    assert [unit.name for unit in seen.units if unit] == ["GET /orders/<number>"] * 2


# -- the middleware --------------------------------------------------------------------------------------


class Body:
    """A body that notes what is done with it."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(2):
            self.seen.look()
            yield b"x"

    def close(self) -> None:
        self.seen.look()
        self.closed = True


def test_the_unit_ends_when_the_body_is_closed(watch: Watch) -> None:
    """A server that stops reading closes the body: its unit is current there, and ends."""
    seen = Seen()
    body = Body(seen)
    served = call(UnitOfWorkMiddleware(lambda environ, start: body))
    assert next(iter(served)) == b"x"
    assert (current_unit(), seen.ended) == (None, [False])
    served.close()  # type: ignore[attr-defined]
    assert body.closed
    assert seen.same
    assert seen.ended == [True, True]


def test_the_unit_ends_with_the_last_part(watch: Watch) -> None:
    """A body that was read to its end needs no close()."""
    seen = Seen()
    body = Body(seen)
    assert list(call(UnitOfWorkMiddleware(lambda environ, start: body))) == [b"x", b"x"]
    assert (seen.ended, body.closed) == ([True, True], False)


def test_a_dropped_body_ends_its_unit(watch: Watch) -> None:
    """A client that neither reads nor closes the body leaves no unit behind."""
    seen = Seen()

    def app(environ: Any, start: Any) -> Iterable[bytes]:
        seen.look()
        return Body(seen)

    served = call(UnitOfWorkMiddleware(app))
    assert seen.ended == [False]
    del served
    gc.collect()
    assert seen.ended == [True]


def test_reports_a_leak_of_a_dropped_body(shop: Engine, watch: Watch) -> None:
    """Its unit ends in a finalizer: what is found there is said by somebody else, or later."""
    kept: list[Session] = []

    def app(environ: Any, start: Any) -> Iterable[bytes]:
        kept.append(Session(shop))
        kept[0].scalars(select(Order)).all()
        return Body(Seen())

    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: call(UnitOfWorkMiddleware(app)) and None).result()
    watch.drain()
    assert [finding.rule for finding in watch.findings] == ["session-leak"]
    kept.clear()
    gc.collect()
    watch.drain()
    assert [finding.rule for finding in watch.findings] == ["session-leak"]


@pytest.mark.parametrize("body", [[b"x"], (b"x",), b"x"])
def test_a_finished_body_is_handed_on_as_it_is(body: Any, watch: Watch) -> None:
    """A list needs no wrapper: its unit has ended when the call returns."""
    seen = Seen()

    def app(environ: Any, start: Any) -> Any:
        seen.look()
        return body

    assert call(UnitOfWorkMiddleware(app)) is body
    assert seen.ended == [True]


def test_a_file_is_handed_on_as_it_is(watch: Watch) -> None:
    """A server that sends files by itself still recognises them."""
    file = FileWrapper(io.BytesIO(b"x"))
    served = call(UnitOfWorkMiddleware(lambda environ, start: file), **{"wsgi.file_wrapper": FileWrapper})
    assert served is file


def test_the_middleware_for_other_frameworks(shop: Engine, watch: Watch) -> None:
    """Any WSGI application, with a function that knows where its framework leaves the route."""

    def app(environ: Any, start: Any) -> Any:
        environ["found"] = "/orders/{number}"
        write(shop)
        write(shop)
        return [b"x"]

    call(UnitOfWorkMiddleware(app, lambda environ: environ.get("found")), "/orders/1", "MADE-UP")
    assert found(watch) == [(SPLIT, "OTHER /orders/{number}")]


def test_the_hosts_error_passes(watch: Watch) -> None:
    """An error of the application, or of its body, ends the unit and stays itself."""
    seen = Seen()

    def app(environ: Any, start: Any) -> Any:
        seen.look()
        raise ZeroDivisionError

    def body(environ: Any, start: Any) -> Iterator[bytes]:
        seen.look()
        yield b"x"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        call(UnitOfWorkMiddleware(app))
    with pytest.raises(ZeroDivisionError) as caught:
        list(call(UnitOfWorkMiddleware(body)))
    assert [entry.name for entry in caught.traceback][1:] == ["body"]
    assert seen.ended == [True, True]
    assert current_unit() is None


def test_a_body_that_is_none(watch: Watch) -> None:
    """What an application returns by mistake is the server's to complain of."""
    seen = Seen()
    assert call(UnitOfWorkMiddleware(lambda environ, start: seen.look())) is None  # type: ignore[arg-type, func-returns-value, return-value]
    assert seen.ended == [True]


def test_a_response_that_is_kept_ends_its_request_in_time(shop: Engine, watch: Watch) -> None:
    """Flask's client does not close what it returns: the unit ends with the next request, or when findings are due."""
    app, kept = Flask("shop"), []

    @app.get("/leak")
    def leak() -> str:
        kept.append(Session(shop))
        kept[-1].scalars(select(Order)).all()
        return "left open"

    client = app.test_client()
    answers, counts = [], []
    for _ in range(2):
        answers.append(client.get("/leak"))
        assert answers[-1].text == "left open"
        counts.append(sum(finding.count for finding in watch.findings))
    watch.drain()
    assert [*counts, sum(finding.count for finding in watch.findings)] == [0, 1, 2]
    for session in kept:
        session.close()


def test_a_response_that_is_kept_unread_ends_with_the_program(tmp_path: Path) -> None:
    """Its request is over then: half of it was stored."""
    (tmp_path / "program.py").write_text(HALF)
    output = tmp_path / "findings.jsonl"
    command = [sys.executable, "-m", "sessionwatch", "run", "--format", "json", "--output", str(output), "program.py"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    told = [json.loads(line) for line in output.read_text().splitlines()]
    assert [finding["message"] for finding in told if finding["rule"] == SPLIT] == [
        "half of POST /tags is stored: one session committed, and another one's writes were rolled back"
    ]
