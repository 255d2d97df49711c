"""Celery: each task is a unit of work by itself."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, signals
from celery.exceptions import Ignore, Retry
from fastapi import FastAPI
from redis import Redis, RedisError
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sessionwatch.units.scope import current_unit
from sessionwatch.watch.watch import Watch
from tests.rules import models
from tests.rules.models import Order, Tag
from tests.units.test_asgi import get
from tests.units.work import Seen, found, write

ROOT = Path(__file__).parents[2]


@pytest.fixture
def app() -> Celery:
    """An application that runs its tasks at once."""
    made = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    made.conf.task_always_eager = True
    return made


def test_reports_a_task_with_two_sessions(app: Celery, shop: Engine, watch: Watch) -> None:
    """Two sessions that commit in one task are split, under the task's name."""

    @app.task(name="shop.pay")
    def pay() -> None:
        write(shop)
        write(shop, "paid")

    pay.delay()
    assert found(watch) == [("split-unit-of-work", "shop.pay")]


def test_ignores_tasks_of_their_own(app: Celery, shop: Engine, watch: Watch) -> None:
    """One session a task is right, also for a task that another one calls."""
    seen = Seen()

    @app.task(name="shop.child")
    def child() -> None:
        seen.look()
        write(shop)

    @app.task(name="shop.parent")
    def parent() -> None:
        seen.look()
        write(shop)
        child.delay()
        seen.look()

    parent.delay()
    parent.delay()
    assert seen.names == ["shop.parent", "shop.child", "shop.parent"] * 2
    assert seen.ended == [True] * 6
    assert current_unit() is None
    assert watch.findings == []


async def test_a_task_is_no_part_of_its_request(app: Celery, shop: Engine, watch: Watch) -> None:
    """An eager task within a request is the unit that it would be in a worker."""
    seen, api = Seen(), FastAPI()

    @app.task(name="shop.mail")
    def mail() -> None:
        seen.look()
        write(shop)

    @api.get("/orders")
    async def orders() -> None:
        write(shop)
        mail.delay()
        seen.look()

    await get(api, "/orders")
    assert seen.names == ["shop.mail", "GET /orders"]
    assert watch.findings == []


@pytest.mark.parametrize("error", [ZeroDivisionError, Ignore, Retry])
def test_a_task_that_fails_has_ended(app: Celery, error: type[Exception], watch: Watch) -> None:
    """However a task ends, its unit ends with it."""
    seen = Seen()

    @app.task(name="shop.fail")
    def fail() -> None:
        seen.look()
        raise error

    fail.apply(throw=False)
    assert seen.ended == [True]
    assert current_unit() is None


def test_ignores_sessions_that_postrun_removes(app: Celery, shop: Engine, watch: Watch) -> None:
    """The unit lasts until all handlers of task_postrun have run, also those connected later."""
    registry = scoped_session(sessionmaker(shop))

    @app.task(name="shop.read")
    def read() -> int:
        return len(registry.scalars(select(Order)).all())

    def remove(**_: object) -> None:
        registry.remove()

    signals.task_postrun.connect(remove)
    try:
        assert read.delay().get() == 1
        assert read.delay().get() == 1
    finally:
        signals.task_postrun.disconnect(remove)
    assert watch.findings == []


def test_reports_a_leak_and_never_raises_it(app: Celery, shop: Engine, strict: Watch) -> None:
    """A session that is left open is a leak at the task's end, which raises nothing."""
    kept: list[Session] = []

    @app.task(name="shop.leak")
    def leak() -> int:
        kept.append(Session(shop))
        return len(kept[0].scalars(select(Order)).all())

    assert leak.delay().get() == 1
    assert found(strict) == [("session-leak", "shop.leak")]
    kept[0].close()


def test_a_call_is_no_task(app: Celery, watch: Watch) -> None:
    """A task that is called as a function belongs to its caller."""
    seen = Seen()
    app.task(seen.look, name="shop.look")()
    assert seen.units == [None]


# -- a worker --------------------------------------------------------------------------------------------

PROGRAM = """
    from celery import Celery
    from sqlalchemy import create_engine
    from sqlalchemy.orm import Session
    from tests.rules import models

    app = Celery("shop", broker={redis!r}, backend={redis!r})
    app.conf.task_default_queue = {queue!r}
    app.conf.broker_connection_retry_on_startup = True
    app.conf.worker_proc_alive_timeout = 180  # by default a worker that is not up after 4 seconds is killed
    engine = create_engine({database!r})

    def write(name):
        with Session(engine) as session:
            session.add(models.Tag(name=name))
            session.commit()

    @app.task(name="shop.pay")
    def pay():
        write("one")
        write("two")

    @app.task(name="shop.once")
    def once():
        write("once")
"""


@pytest.fixture
def redis() -> Iterator[str]:
    """The URL of a Redis server; its keys of this test are gone afterwards."""
    url = "redis://127.0.0.1:6379/9"
    client = Redis.from_url(url)
    try:
        client.ping()
    except RedisError:
        pytest.skip("no Redis server at 127.0.0.1:6379")
    yield url
    for key in client.scan_iter("*sessionwatch-*"):
        client.delete(key)
    client.close()


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker(pool: str, redis: str, tmp_path: Path) -> None:
    """A real worker over Redis, under ``sessionwatch run``: each task that it took is a unit."""
    database, queue = f"sqlite:///{tmp_path / 'shop.db'}", f"sessionwatch-{os.getpid()}-{pool}"
    engine = create_engine(database)
    models.seed(engine)
    path = tmp_path / "shop_tasks.py"
    path.write_text(textwrap.dedent(PROGRAM).format(redis=redis, queue=queue, database=database))
    command = [sys.executable, "-m", "sessionwatch", "run", "--format", "json", "--output", str(tmp_path / "found")]
    worker = [*command, "--", "celery", "-A", "shop_tasks", "worker", "-P", pool, "-c", "2", "--without-mingle"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "SESSIONWATCH_RULES": "config=off"}
    running = subprocess.Popen(worker, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        spec = importlib.util.spec_from_file_location("shop_tasks", path)
        assert spec is not None
        assert spec.loader is not None
        tasks: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tasks)
        results = [task.delay() for task in (tasks.once, tasks.pay, tasks.once)]
        for result in results:
            result.get(timeout=180)
            result.forget()
    finally:
        running.terminate()
        output, _ = running.communicate(timeout=180)
    lines = (tmp_path / "found").read_text().splitlines()
    assert '"rule": "split-unit-of-work"' in "\n".join(lines), output.decode()
    assert all('"unit": "shop.pay"' in line for line in lines)
    with Session(engine) as session:
        assert len(session.scalars(select(Tag)).all()) == 5
    engine.dispose()
