"""An order service with faults, as it would run in production: OpenTelemetry set up, and sessionwatch counting.

``DATABASE_URL`` is a PostgreSQL database; ``/metrics`` is what Prometheus scrapes, or with ``METRICS_PORTS``, such as
``9464,9465``, the first of these ports that is free, one per worker. ``OTLP_HTTP`` and ``OTLP_GRPC`` are the endpoints
of collectors. ``tests/e2e/traffic.py`` says what each request makes the service do.
"""

from __future__ import annotations

import gc
import os
import threading
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Annotated, Any

import prometheus_client
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from opentelemetry import _logs, metrics, trace
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogs
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogs
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetrics
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from sqlalchemy import ForeignKey, create_engine, event, func, make_url, select, text
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, sessionmaker
from sqlalchemy.orm.exc import DetachedInstanceError

import sessionwatch


def exporters() -> Iterator[tuple[MetricExporter, SpanExporter, LogRecordExporter]]:
    """To the collectors that there are, over HTTP and over gRPC."""
    if endpoint := os.environ.get("OTLP_HTTP"):
        logs: LogRecordExporter = HttpLogs(f"{endpoint}/v1/logs")
        yield HttpMetrics(f"{endpoint}/v1/metrics"), HttpSpans(f"{endpoint}/v1/traces"), logs
    if endpoint := os.environ.get("OTLP_GRPC"):
        yield (
            GrpcMetrics(endpoint, insecure=True),
            GrpcSpans(endpoint, insecure=True),
            GrpcLogs(endpoint, insecure=True),
        )


def serve_metrics() -> int:
    """Give Prometheus a port for this process alone; 0 where it is asked at ``/metrics``."""
    for port in map(int, filter(None, os.environ.get("METRICS_PORTS", "").split(","))):
        with suppress(OSError):  # of another worker
            prometheus_client.start_http_server(port, "127.0.0.1")
            return port
    return 0


def set_up_telemetry() -> None:
    # the process is an instance: what another one counted goes on in series of its own
    resource = Resource.create({"service.name": "shop", "service.instance.id": str(uuid.uuid4())})
    label = {"service.instance.id"} if os.environ.get("INSTANCE_LABEL") else set()
    readers: list[MetricReader] = [PrometheusMetricReader(resource_attribute_filter=label.__contains__)]
    tracing, logs = TracerProvider(resource=resource), LoggerProvider(resource=resource)
    for metric_exporter, span_exporter, log_exporter in exporters():
        readers.append(PeriodicExportingMetricReader(metric_exporter, export_interval_millis=1000))
        tracing.add_span_processor(BatchSpanProcessor(span_exporter, schedule_delay_millis=500))
        logs.add_log_record_processor(BatchLogRecordProcessor(log_exporter, schedule_delay_millis=500))
    metrics.set_meter_provider(MeterProvider(readers, resource=resource))
    trace.set_tracer_provider(tracing)
    _logs.set_logger_provider(logs)


def tell_the_team(finding: sessionwatch.Finding) -> None:
    """A callback with a fault of its own: the service does not notice, `sessionwatch.internal_errors` does."""
    if finding.rule == "lost-writes":
        raise ConnectionError("the chat is down")


set_up_telemetry()
metrics_port = serve_metrics()
# what is found must not depend on how busy the machine is: no session is long here, and no story too expensive
settings = {"long-session.seconds": 3600, "long-session.idle": 3600, "breaker.share": 1}
sessionwatch.install(mode="telemetry", settings=settings, on_finding=tell_the_team)


class Base(DeclarativeBase): ...


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]
    note: Mapped[str] = mapped_column(default="by ship", deferred=True)
    lines: Mapped[list[Line]] = relationship()


class Line(Base):
    __tablename__ = "lines"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
    article: Mapped[str]


url = make_url(os.environ["DATABASE_URL"])
engine = create_engine(url, pool_logging_name="shop")
reports = create_engine(url, pool_logging_name="reports", pool_size=1, max_overflow=0, pool_timeout=2)
async_engine = create_async_engine(url.set(drivername="postgresql+asyncpg"), pool_logging_name="shop-async")
pools_watched: list[Any] = [engine.pool, reports.pool, async_engine.pool]
made, gone = Counter[str](), Counter[str]()
for each in pools_watched:
    event.listen(each, "connect", lambda *_, name=each.logging_name: made.update([name]))
    event.listen(each, "close", lambda *_, name=each.logging_name: gone.update([name]))
SessionLocal = sessionmaker(engine)
Reports = sessionmaker(reports)
AsyncSessionLocal = async_sessionmaker(async_engine, expire_on_commit=False)
released = threading.Event()


app = FastAPI()
app.mount("/metrics", prometheus_client.make_asgi_app())


@app.middleware("http")
async def traced(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """What an instrumentation of the web framework would do."""
    with trace.get_tracer("shop").start_as_current_span(request.url.path):
        return await call_next(request)


def get_db() -> Iterator[Session]:
    with SessionLocal() as db:
        yield db


async def get_async_db() -> AsyncIterator[AsyncSession]:
    async with AsyncSessionLocal() as db:
        yield db


Db = Annotated[Session, Depends(get_db)]
AsyncDb = Annotated[AsyncSession, Depends(get_async_db)]


@app.post("/orders", status_code=201)
def take_order(db: Db) -> int:
    order = Order(customer="Orion Freight", lines=[Line(article="rope"), Line(article="anchor")])
    db.add(order)
    db.commit()
    return order.id


@app.get("/orders/count")
def count_orders(db: Db) -> int:
    return db.scalar(select(func.count()).select_from(Order)) or 0


@app.get("/async/orders/count")
async def count_orders_async(db: AsyncDb) -> int:
    return await db.scalar(select(func.count()).select_from(Order)) or 0


@app.post("/orders/refused", status_code=409)
def refuse_order(db: Db) -> str:
    db.add(Order(customer="Nobody"))
    db.flush()
    db.rollback()
    return "refused"


@app.post("/orders/lost", status_code=201)
def lose_order(db: Db) -> str:
    db.add(Order(customer="Vega Shipping"))
    db.flush()
    return "taken"


@app.get("/orders/articles")
def list_articles(db: Db) -> list[list[str]]:
    orders = db.scalars(select(Order).order_by(Order.id).limit(5)).all()
    return [[line.article for line in order.lines] for order in orders]


@app.get("/orders/1/note")
def show_note(db: Db) -> str:
    return db.get_one(Order, 1).note


@app.post("/orders/1/rename")
def rename(db: Db) -> str:
    order = db.get_one(Order, 1)
    order.customer = "Lyra Cargo" if order.customer != "Lyra Cargo" else "Orion Freight"
    db.commit()
    return order.customer


@app.get("/orders/1/late")
def read_too_late() -> list[str]:
    with SessionLocal() as db:
        order = db.get_one(Order, 1)
    try:
        return [line.article for line in order.lines]
    except DetachedInstanceError:
        return []


@app.get("/orders/1/forgotten")
def forget_session() -> str:
    return SessionLocal().get_one(Order, 1).customer


@app.get("/async/orders/blocking")
async def block_the_loop() -> int:
    with SessionLocal() as db:
        return db.scalar(select(func.count(text("pg_sleep(0.1)")))) or 0


@app.post("/orders/twice", status_code=201)
def take_order_and_count() -> str:
    with SessionLocal.begin() as db:
        db.add(Order(customer="Orion Freight"))
    with SessionLocal.begin() as db:
        db.add(Order(customer="Orion Freight"))
    return "taken"


@app.get("/reports")
def report(seconds: float = 0.0) -> str:
    try:
        with Reports() as db:
            db.execute(select(func.pg_sleep(seconds)))
    except PoolTimeout:
        raise HTTPException(503, "no connection") from None
    return "done"


@app.get("/reports/held")
def hold() -> str:
    """A report that holds the only connection for reports until `/reports/release`."""
    with Reports() as db:
        db.execute(select(1))
        released.wait()
    return "done"


@app.post("/reports/release")
def release() -> str:
    released.set()
    return "done"


@app.get("/reports/busy")
def busy() -> int:
    """How many connections of the reports are out; without a session."""
    return reports.pool.checkedout()  # type: ignore[attr-defined]


@app.get("/reports/exhausted", status_code=503)
def exhaust() -> str:
    """A report while the only connection for reports is out."""
    with reports.connect():
        try:
            with Reports() as db:
                db.execute(select(1))
        except PoolTimeout:
            return "no connection"
    return "done"


@app.get("/worker")
def worker() -> dict[str, int]:
    """Who answers, and where Prometheus finds it."""
    return {"pid": os.getpid(), "port": metrics_port}


@app.post("/reconnect")
def reconnect() -> str:
    """What happens after the database was restarted: a connection is gone, and another one is made."""
    with engine.connect() as connection:
        connection.invalidate()
        connection.execute(select(1))
    return "done"


@app.get("/pools")
def pools() -> dict[str, dict[str, int]]:
    """The connections of this worker: idle, in use, and made since it began, as SQLAlchemy's own events count them."""
    found = {}
    for pool in pools_watched:
        name, used = pool.logging_name, pool.checkedout()
        # not checkedin(): what was invalidated waits in the pool as well, without a connection
        found[name] = {"idle": made[name] - gone[name] - used, "used": used, "made": made[name]}
    return found


@app.post("/collect")
def collect() -> str:
    """What the collector does at a time of its own."""
    gc.collect()
    return "done"


with engine.begin() as connection:
    connection.execute(text("SELECT pg_advisory_xact_lock(1)"))  # one worker after the other
    Base.metadata.create_all(connection)
