"""Fault injection: each function of ours below a hook or a listener fails in turn, and the host notices nothing.

    python -m tests.host.faults                      every mode, every error
    python -m tests.host.faults log RuntimeError     one of each, as CI does
    python -m tests.host.faults log units.           only the functions in whose names that is

A host program of right and wrong use, with requests of ASGI and WSGI and tasks of Celery, is run bare, then watched
once to learn which functions of ours it reaches, and then once for each of them, made to raise. What the program does
and gets has to be as bare; at least one internal error has to be counted. Then the function is whole again, and in the
same installation every rule reports what it reports without a fault, but for rules that were dropped and say so.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import importlib
import logging
import pkgutil
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import Any

import flask
from celery import Celery
from flask import Flask
from sqlalchemy import create_engine, select, text, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, make_transient, scoped_session, sessionmaker
from sqlalchemy.orm.exc import DetachedInstanceError
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from werkzeug.test import EnvironBuilder

import sessionwatch
from sessionwatch.model import MODES, Mode
from sessionwatch.units import asgi
from sessionwatch.units.wsgi import UnitOfWorkMiddleware
from sessionwatch.watch.health import DROPPED
from sessionwatch.watch.watch import Watch
from tests.programs.shop import Base, Item, Order

ERRORS: tuple[type[Exception], ...] = (RuntimeError, RecursionError, MemoryError)
MOST = 0.9  # of the functions have to raise: what is remembered from before, a few do not ask again
# What runs below a hook. Not what users call, nor what only an installation runs, nor the guard itself.
BELOW = ("hooks", "record", "rules", "frames", "units")
GUARD = frozenset({
    "__del__", "settle", "stops", "is_foreign", "failed", "guarded", "by_collector", "_report", "say", "make",
    "install", "listen",
    "_run",  # of the watchdog: its border
    "find_spec", "__iter__",  # called by the program itself: one guards its own body, the other returns `self`
    "live_sessions",  # asked by installations, too
})  # fmt: skip


class Host:
    """The program: what it did and got, in words."""

    def __init__(self) -> None:
        self.said: list[object] = []
        self.engine = create_engine("sqlite://")
        Base.metadata.create_all(self.engine)

    def run(self) -> list[object]:
        """In a context of its own, for where what leaves a unit fails: the unit then stays the current one."""
        return contextvars.copy_context().run(self._run)

    def _run(self) -> list[object]:
        for part in self.parts():
            try:
                part()
            except Exception as error:
                self.said.append(f"{getattr(part, '__name__', part)}: {type(error).__mro__[-4].__name__}")
        gc.collect()
        with Session(self.engine) as session:
            self.said.append(session.scalars(select(Order.status).order_by(Order.id)).all())
        self.engine.dispose()
        return self.said

    def parts(self) -> list[Callable[[], object]]:
        return [self.right, self.detached, self.lost, self.errors, self.registry, self.merges, self.loads]

    def right(self) -> None:
        with Session(self.engine) as session, session.begin():
            session.add_all([Order(status="a"), Order(status="b"), Order(status="c")])
        with Session(self.engine) as session:
            order = session.get_one(Order, 1)
            with session.begin_nested():
                order.status = "changed"
            session.execute(update(Order).values(status="all").where(Order.id == 2))
            session.commit()
            self.said.append(order.status)
            session.expire_all()
            session.refresh(order)
            session.rollback()

    def detached(self) -> None:
        with Session(self.engine) as session:
            order = session.get_one(Order, 1)
        self.said.append(order.status)
        order.status = "never"
        try:
            self.said.append(len(order.items))
        except DetachedInstanceError:
            self.said.append("detached")
        make_transient(order)

    def lost(self) -> None:
        session = Session(self.engine)
        session.add(Order(status="lost"))
        session.flush()
        session.close()
        session = Session(self.engine)
        session.execute(text("insert into orders (status) values ('dropped')"))
        del session
        gc.collect()  # by this thread: SQLite lets no other one give the connection back, and the database goes with it

    def errors(self) -> None:
        session = Session(self.engine)
        with suppress(SQLAlchemyError):
            session.execute(text("insert into nowhere values (1)"))
        self.said.append(session.scalar(text("select 1")))
        session.add(Order(id=1, status="again"))
        try:
            session.commit()
        except IntegrityError:
            self.said.append("refused")
        session.rollback()
        session.close()

    def registry(self) -> None:
        registry = scoped_session(sessionmaker(self.engine))
        registry.add(Order(status="d"))
        registry.commit()
        registry.remove()
        session = registry()
        with session.no_autoflush:
            session.expunge_all()
        session.delete(session.get_one(Order, 4))
        session.flush()
        registry.remove()

    def merges(self) -> None:
        with Session(self.engine, expire_on_commit=False) as first:
            order = first.get_one(Order, 2)
            first.expunge(order)
        order.status = "merged"
        with Session(self.engine) as second:
            self.said.append(second.merge(order).status)
            second.commit()
        with Session(self.engine) as third:
            third.add(order)
            third.bulk_save_objects([Order(status="bulk")])
            third.commit()

    def loads(self) -> None:
        with Session(self.engine) as session:
            session.add_all([Item(order_id=number) for number in (1, 2, 3)])
            session.commit()
            self.said.append([len(order.items) for order in session.scalars(select(Order).order_by(Order.id))])


class Server(Host):
    """The same, and what frameworks call: requests of ASGI and WSGI, and tasks of Celery.

    ``pause`` waits in an open transaction, until somebody has looked at it.
    """

    def __init__(self, pause: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.pause = pause
        threading.excepthook = lambda ended: self.said.append(f"a thread: {ended.exc_type.__name__}")

    def parts(self) -> list[Callable[[], object]]:
        return [*super().parts(), self.asgi, self.wsgi, self.tasks, self.idle]

    def idle(self) -> None:
        with Session(self.engine) as session:
            session.execute(text("select 1"))
            self.pause()
            session.rollback()

    def asgi(self) -> None:
        asyncio.run(self.requests())

    async def requests(self) -> None:
        engine = create_async_engine("sqlite+aiosqlite://")
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)

        async def pay(request: Request) -> Response:
            async with AsyncSession(engine) as session:
                session.add(Order(status=f"paid {request.path_params['number']}"))
                await session.commit()
            return PlainTextResponse("paid", background=BackgroundTask(send_mail))

        async def send_mail() -> None:
            async with AsyncSession(engine) as session:
                self.said.append((await session.scalars(select(Order.status).order_by(Order.id))).all())

        async def search(request: Request) -> Response:
            session = AsyncSession(engine)
            await session.execute(text("insert into orders (status) values ('searched')"))
            await session.close()
            raise LookupError

        async def answer(request: Request, error: Exception) -> Response:
            return PlainTextResponse("not found", 404)

        routes = [Route("/pay/{number}", pay), Route("/search", search)]
        app = Starlette(routes=routes, exception_handlers={LookupError: answer})
        for called, path in ((app, "/pay/1"), (app, "/search"), (asgi.UnitOfWorkMiddleware(app), "/pay/2")):
            self.said.append(await self.request(called, path))
        await engine.dispose()

    async def request(self, app: Any, path: str) -> list[object]:
        got: list[object] = []

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, object]) -> None:
            got.append(message.get("status") or message.get("body"))

        scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}
        await app(scope, receive, send)
        return got

    def wsgi(self) -> None:
        app = Flask("shop")

        @app.route("/pay/<int:number>")
        def pay(number: int) -> str:
            with Session(self.engine) as session, session.begin():
                session.add(Order(status=f"paid {number}"))
            return "paid"

        @app.route("/export")
        def export() -> flask.Response:
            def lines() -> Iterator[str]:
                with Session(self.engine) as session:
                    yield from session.scalars(select(Order.status).order_by(Order.id))

            return flask.Response(lines())

        @app.route("/search")
        def search() -> str:
            session = Session(self.engine)
            session.execute(text("insert into orders (status) values ('searched')"))
            session.close()
            raise LookupError

        @app.errorhandler(LookupError)
        def answer(error: LookupError) -> tuple[str, int]:
            return "not found", 404

        for called, path in (
            (app, "/pay/3"),
            (app, "/export"),
            (app, "/search"),
            (UnitOfWorkMiddleware(app), "/pay/4"),
        ):
            environ = EnvironBuilder(path=path).get_environ()
            body = called(environ, lambda status, headers, *_: self.said.append(status))
            self.said.append(b"".join(body))
            if hasattr(body, "close"):
                body.close()

    def tasks(self) -> None:
        self.said += [settle_order.apply(args=(self, number)).state for number in (1, 1000)]


celery = Celery("shop", broker="memory://", set_as_current=False)


@celery.task(throws=(LookupError,))  # type: ignore[untyped-decorator]
def settle_order(host: Server, number: int) -> None:
    session = Session(host.engine)
    order = session.get(Order, number)
    if order is None:
        session.close()
        raise LookupError
    order.status = "settled"
    session.commit()
    session.close()


def modules() -> Iterator[types.ModuleType]:
    for part in BELOW:
        package = importlib.import_module(f"sessionwatch.{part}")
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            yield importlib.import_module(found.name)


def functions() -> dict[types.CodeType, str]:
    """Plain functions and methods of ours, by their code."""
    found: dict[types.CodeType, str] = {}
    for module in modules():
        owners = [module, *(one for one in vars(module).values() if isinstance(one, type))]
        for owner in owners:
            for name, one in vars(owner).items():
                if owner in (asgi.UnitOfWorkMiddleware, UnitOfWorkMiddleware):  # what users call
                    continue
                function = one.fget if isinstance(one, property) else getattr(one, "__wrapped__", one)
                if not isinstance(function, types.FunctionType) or function.__module__ != module.__name__:
                    continue
                if name not in GUARD and not name.startswith(("patch_", "_make")) and not is_border(function.__code__):
                    found[function.__code__] = f"{module.__name__}.{function.__qualname__}"
    return found


def is_border(code: types.CodeType) -> bool:
    """Whether it is the guard itself."""
    return not {"settle", "stops", "unseen"}.isdisjoint(code.co_names)


@contextmanager
def reached(codes: dict[types.CodeType, str]) -> Iterator[set[types.CodeType]]:
    """Those of the functions that run in the block, below code that is not ours."""
    seen: set[types.CodeType] = set()

    def profile(frame: types.FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code in codes:
            seen.add(frame.f_code)

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        yield seen
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


@contextmanager
def failing(code: types.CodeType, owners: list[types.FunctionType], error: type[Exception]) -> Iterator[None]:
    """The function with that code raises, wherever it is kept: its code is another one for the length of the block."""
    raising = _raising(error, code)
    changed = [function for function in owners if function.__code__ is code]
    for function in changed:
        function.__code__ = raising
    try:
        yield
    finally:
        for function in changed:
            function.__code__ = code


def _raising(error: type[Exception], code: types.CodeType) -> types.CodeType:
    free = ", ".join(code.co_freevars)
    lines = [f"def outer({free}):"] if free else ["def outer():"]
    lines += ["    def fails(*args, **kwargs):", *(f"        {name}" for name in code.co_freevars)]
    lines += ["        import sys; sys.__dict__['faults'].append(1)"]
    lines += [f"        raise {error.__name__}('a fault of ours')", "    return fails"]
    names: dict[str, Any] = {}
    exec(compile("\n".join(lines).replace("        \n", ""), code.co_filename, "exec"), names)  # a file of ours
    return names["outer"](*code.co_freevars).__code__  # type: ignore[no-any-return]


def check(
    mode: Mode, error: type[Exception], names: tuple[str, ...] = ("",), say: Callable[[str], object] = print
) -> list[str]:
    """What went wrong: for each function, a difference to bare, that nothing was counted, or a rule that is silent."""
    before = gc.get_freeze_count()
    gc.unfreeze()  # what is frozen, as by our conftest, is not among the objects that are looked through
    codes = functions()
    hook = threading.excepthook
    bare = Server().run()
    with watching(mode) as watch, reached(codes) as seen:
        plain = Server(partial(looked, watch, [])).run()
        reporting = reporting_after(watch)
    if plain != bare:
        return [f"without a fault: {plain} instead of {bare}"]
    owners = [one for one in gc.get_objects() if isinstance(one, types.FunctionType) and one.__code__ in seen]
    wrong: list[str] = []
    raised = 0
    logging.getLogger("sessionwatch").setLevel(logging.CRITICAL)
    gc.freeze()  # the program collects: not each time through all modules
    tried = sorted((one for one in seen if any(name in codes[one] for name in names)), key=lambda one: codes[one])
    for number, code in enumerate(tried, 1):
        if number % 25 == 0:
            say(f"{mode}, {error.__name__}: {number} of {len(tried)}, {len(wrong)} wrong")
        with watching(mode) as watch:
            watch.tracker.reraise = False
            faults: list[int] = []
            sys.__dict__["faults"] = faults
            with failing(code, owners, error):
                found = Server(partial(looked, watch, faults)).run()
            counted = sum(watch.status()["internal_errors"].values())
            silent = reporting - reporting_after(watch) - dropped(watch)
        raised += bool(faults)
        if found != bare:
            wrong.append(f"{codes[code]}: {[pair for pair in zip(found, bare, strict=False) if pair[0] != pair[1]]}")
        elif faults and not counted:  # what is remembered from before is not asked again
            wrong.append(f"{codes[code]}: nothing counted")
        elif silent:
            wrong.append(f"{codes[code]}: afterwards silent: {', '.join(sorted(silent))}")
        else:
            continue
        say(f"{mode}, {error.__name__}: {wrong[-1]}")
    gc.unfreeze()
    if before:
        gc.collect()
        gc.freeze()
    threading.excepthook = hook
    logging.getLogger("sessionwatch").setLevel(logging.NOTSET)
    say(f"{mode}, {error.__name__}: {raised} of {len(tried)} functions raised, {len(wrong)} wrong")
    if raised < MOST * len(tried):
        wrong.append(f"only {raised} of {len(tried)} functions raised")
    return wrong


def watching(mode: Mode) -> AbstractContextManager[Watch]:
    return sessionwatch.watching(mode, log=False, rules=quiet(mode), settings={"long-session.idle": 0.02})


def reporting_after(watch: Watch) -> set[str]:
    """The rules that report something of the program from now on."""
    watch.clear()
    Host().run()
    return {finding.rule for finding in watch.findings} - {"long-session"}  # which reports a machine that is busy, too


def dropped(watch: Watch) -> set[str]:
    """The rules that failed, and say so."""
    return {slug for slug, rule in watch.status()["rules"].items() if rule["from"] == DROPPED}


def looked(watch: Watch, faults: list[int]) -> None:
    """Wait until the watchdog has said something of the open transaction, or cannot because of the fault."""
    before = len(faults)
    for _ in range(100):
        looks = list(watch.watchdog.holdings.values())  # what users call, as `findings`, would meet the fault itself
        if len(faults) > before + 1 or any(getattr(look, "reported", ()) for look in looks):
            break
        time.sleep(0.01)


def quiet(mode: Mode) -> dict[str, Any]:
    """In strict mode rules would raise, which a host does notice: every rule is on, and none raises."""
    return {"all": "log"} if mode == "strict" else {}


def main(arguments: list[str]) -> int:
    modes = [mode for mode in MODES if mode in arguments] or MODES
    errors = [error for error in ERRORS if error.__name__ in arguments] or ERRORS
    names = tuple(one for one in arguments if one not in modes and one not in {error.__name__ for error in errors})
    wrong = [line for mode in modes for error in errors for line in check(mode, error, names or ("",), told)]
    return bool(wrong)


def told(line: str) -> None:
    """At once, also into a pipe: a run takes minutes."""
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
