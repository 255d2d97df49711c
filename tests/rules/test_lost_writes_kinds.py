"""``lost-writes`` with every kind of session: factories, registries, subclasses, other packages' sessions, binds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, delete, insert, select
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sessionwatch import FindingError
from sessionwatch.watch.watch import Watch
from tests.models import Base
from tests.rules.models import Customer, Order, Tag, create
from tests.rules.places import evidence_line, is_idle, line, only


class Plain(Session):
    """A subclass that changes nothing."""


class Audited(Session):
    """A subclass with its own constructor and close."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.audited = True

    def close(self) -> None:
        super().close()


class Held:
    """An object with a session, as extensions of frameworks have it."""

    def __init__(self, engine: Engine) -> None:
        self.session = Session(engine)


def by_maker(engine: Engine) -> Session:
    return sessionmaker(engine)()


def by_configured_maker(engine: Engine) -> Session:
    maker = sessionmaker(expire_on_commit=False)
    maker.configure(bind=engine)
    return maker()


def by_registry(engine: Engine) -> Session:
    return scoped_session(sessionmaker(engine))()


def by_subclass(engine: Engine) -> Session:
    return Plain(engine)


def by_audited(engine: Engine) -> Session:
    return Audited(engine)


def by_maker_of_subclass(engine: Engine) -> Session:
    return sessionmaker(engine, class_=Audited)()


def by_connection(engine: Engine) -> Session:
    return Session(engine.connect())


def by_binds(engine: Engine) -> Session:
    return Session(binds={Base: engine})


def by_sqlmodel(engine: Engine) -> Session:
    sqlmodel = pytest.importorskip("sqlmodel")
    session: Session = sqlmodel.Session(engine)
    return session


KINDS = [
    by_maker,
    by_configured_maker,
    by_registry,
    by_subclass,
    by_audited,
    by_maker_of_subclass,
    by_connection,
    by_binds,
    by_sqlmodel,
]


@pytest.mark.parametrize("make", KINDS)
def test_reports_every_kind_of_session(shop: Engine, watch: Watch, make: Callable[[Engine], Session]) -> None:
    """However it was made, a session's writes are lost by its with block's end, and the maker is named."""
    with make(shop) as session:
        session.add(Order())
        session.flush()
    finding = only(watch, "lost-writes")
    assert finding.message == "1 Order object was written, but the session was closed without a commit"
    opened = finding.evidence[-1]
    assert (opened.label, opened.site and opened.site.function) == ("opened", make.__name__)


@pytest.mark.parametrize("make", KINDS)
def test_ignores_every_kind_of_session_that_commits(
    shop: Engine, watch: Watch, make: Callable[[Engine], Session]
) -> None:
    """The same sessions with a commit are right, also under begin()."""
    with make(shop) as session:
        session.add(Order())
        session.commit()
    with make(shop) as session, session.begin():
        session.add(Order())
    assert watch.findings == []


def test_points_at_the_caller_of_an_overridden_close(shop: Engine, watch: Watch) -> None:
    """A subclass's own close() is the user's code: it is the line that discards."""
    session = Audited(shop)
    session.add(Order())
    session.flush()
    session.close()
    assert only(watch, "lost-writes").function == "Audited.close"


def test_reports_a_session_opened_before_the_installation(shop: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not known is said: the session was opened before sessionwatch was installed."""
    from sessionwatch import uninstall, watching

    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    uninstall()
    session = Session(shop)
    with watching("log", log=False) as watch:
        session.add(Order())
        session.flush()
        session.close()
        finding = only(watch, "lost-writes")
    assert finding.evidence[-1].note == "opened before sessionwatch was installed"


@pytest.fixture
def second(tmp_path: Any) -> Iterator[Engine]:
    """Another database."""
    engine = create_engine(f"sqlite:///{tmp_path}/second.db")
    create(engine)
    yield engine
    engine.dispose()


def test_reports_writes_to_several_binds(shop: Engine, second: Engine, watch: Watch) -> None:
    """One session on two databases loses the writes of both."""
    with Session(binds={Order: shop, Tag: second}) as session:
        session.add_all([Order(), Tag(name="late")])
        session.flush()
    finding = only(watch, "lost-writes")
    assert finding.message.startswith("1 Order object and 1 Tag object were written, but the session was closed")
    assert is_idle(shop)
    assert is_idle(second)


def test_ignores_several_binds_that_are_committed(shop: Engine, second: Engine, watch: Watch) -> None:
    """One commit covers both."""
    with Session(binds={Order: shop, Tag: second}) as session:
        session.add_all([Order(), Tag(name="late")])
        session.commit()
    assert watch.findings == []


def test_ignores_the_bind_that_is_joined_and_reports_the_other(shop: Engine, second: Engine, watch: Watch) -> None:
    """Only the bind whose transaction is the session's own can lose something."""
    with shop.connect() as connection:
        transaction = connection.begin()
        with Session(binds={Order: connection, Tag: second}) as session:
            session.add_all([Order(), Tag(name="late")])
            session.flush()
        transaction.rollback()
    assert only(watch, "lost-writes").subject == "Tag"


# -- FastAPI ----------------------------------------------------------------------------------------------


def sync_dependency(engine: Engine) -> Callable[[], Iterator[Session]]:
    def get_session() -> Iterator[Session]:
        session = Session(engine)
        try:
            yield session
        finally:
            session.close()  # fastapi-sync-close

    return get_session


def async_dependency(engine: Engine) -> Callable[[], AsyncIterator[Session]]:
    async def get_session() -> AsyncIterator[Session]:
        with Session(engine) as session:  # fastapi-async-close
            yield session

    return get_session


@pytest.mark.parametrize("dependency", [sync_dependency, async_dependency])
def test_fastapi_dependencies(shop: Engine, watch: Watch, dependency: Callable[[Engine], Any]) -> None:
    """A handler that fails or commits is right; one that returns without a commit loses its writes."""
    fastapi = pytest.importorskip("fastapi")
    if shop.dialect.name == "sqlite" and dependency is async_dependency:
        pytest.skip("SQLite's driver binds a connection to its thread")
    app = fastapi.FastAPI()
    needed = fastapi.Depends(dependency(shop))
    errors = {"refused": fastapi.HTTPException(409), "broken": KeyError("mine")}

    @app.post("/{kind}")
    def place_order(kind: str, session: Any = needed) -> str:
        session.add(Order())
        session.flush()
        if kind in errors:
            raise errors[kind]
        if kind == "right":
            session.commit()
        return "stored"

    client = pytest.importorskip("fastapi.testclient").TestClient(app, raise_server_exceptions=False)
    assert [client.post(f"/{kind}").status_code for kind in ("refused", "broken", "right")] == [409, 500, 200]
    assert watch.findings == []
    assert client.post("/forgotten").text == '"stored"'
    place = line("fastapi-sync-close") if dependency is sync_dependency else line("fastapi-async-close")
    assert only(watch, "lost-writes").line == place


# -- Flask-SQLAlchemy -------------------------------------------------------------------------------------


def flask_app(engine: Engine) -> tuple[Any, Any]:
    flask = pytest.importorskip("flask")
    flask_sqlalchemy = pytest.importorskip("flask_sqlalchemy")
    app = flask.Flask("shop")
    app.config["SQLALCHEMY_DATABASE_URI"] = engine.url
    if engine.url.database is None:
        pytest.skip("a database in memory belongs to one engine")
    db = flask_sqlalchemy.SQLAlchemy(model_class=Base, disable_autonaming=True)
    db.init_app(app)
    return app, db


def test_reports_flask_sqlalchemy_at_the_last_write(shop: Engine, watch: Watch) -> None:
    """The teardown that discards is Flask-SQLAlchemy's: the finding points at the view's last write."""
    app, db = flask_app(shop)

    @app.post("/orders")
    def place_order() -> str:
        db.session.add(Order())
        db.session.flush()  # flask-flush
        return "stored"

    response = app.test_client().post("/orders")
    assert (response.status_code, response.text) == (200, "stored")
    finding = only(watch, "lost-writes")
    assert finding.line == line("flask-flush")
    assert finding.function == "place_order"


def test_reports_flask_sqlalchemy_pending_at_the_add(shop: Engine, watch: Watch) -> None:
    """The same for an object that never was flushed: the place is where it was added."""
    app, db = flask_app(shop)

    @app.post("/orders")
    def place_order() -> str:
        db.session.add(Order())  # flask-add
        return "stored"

    app.test_client().post("/orders")
    finding = only(watch, "lost-writes")
    assert finding.line == line("flask-add")
    assert evidence_line(finding, "added") == line("flask-add")


def test_ignores_flask_sqlalchemy_that_commits_or_fails(shop: Engine, watch: Watch) -> None:
    """A view that commits, one that reads, and one that fails are right."""
    app, db = flask_app(shop)

    @app.post("/orders")
    def place_order() -> str:
        db.session.add(Order())
        db.session.commit()
        return "stored"

    @app.get("/orders")
    def count_orders() -> str:
        return str(len(db.session.scalars(select(Order)).all()))

    @app.post("/customers")
    def fail() -> str:
        db.session.add(Customer(name="Bob"))
        db.session.flush()
        raise KeyError("mine")

    client = app.test_client()
    client.post("/orders")
    assert client.get("/orders").text == "2"
    assert client.post("/customers").status_code == 500
    assert watch.findings == []


def test_ignores_a_teardown_function_that_is_told_of_the_failure(shop: Engine, watch: Watch) -> None:
    """The documented pattern for Flask: the registry is removed by the application's own teardown function."""
    app = pytest.importorskip("flask").Flask("shop")
    registry = scoped_session(sessionmaker(shop))

    @app.teardown_appcontext
    def remove(error: BaseException | None = None) -> None:
        registry.remove()  # flask-teardown

    @app.post("/<kind>")
    def place_order(kind: str) -> str:
        registry.add(Order())
        registry.flush()
        if kind == "broken":
            raise KeyError("mine")
        return "stored"

    client = app.test_client()
    assert client.post("/broken").status_code == 500
    assert watch.findings == []
    client.post("/forgotten")
    assert only(watch, "lost-writes").line == line("flask-teardown")


def test_reports_a_session_of_an_error_handler(shop: Engine, watch: Watch) -> None:
    """A session that the error handler itself opened is not excused by the error that it was given."""

    def handle(error: Exception) -> None:
        session = Session(shop)
        session.add(Order(status=str(error)))
        session.flush()
        session.close()  # handler-closes

    handle(KeyError("handled"))
    assert only(watch, "lost-writes").line == line("handler-closes")


def test_reports_a_registry_used_inside_an_except_block(shop: Engine, watch: Watch) -> None:
    """The registry handles a KeyError of its own while it makes the session; ours is behind it."""
    registry = scoped_session(sessionmaker(shop))
    try:
        raise ValueError("why the audit row is written")
    except ValueError:
        registry.add(Order(status="failed"))
        registry.flush()
        registry.remove()  # except-removes
    assert only(watch, "lost-writes").line == line("except-removes")


def test_names_who_took_a_session_that_its_registry_had_kept(shop: Engine, watch: Watch) -> None:
    """A registry's session that is closed and used again was made by whoever asked first, in another scope."""
    registry = scoped_session(sessionmaker(shop))
    registry.close()  # first asked
    registry.scalars(select(Order)).all()  # asked again
    registry.add(Tag(name="new"))
    registry.close()
    finding = only(watch, "lost-writes")
    assert evidence_line(finding, "taken") == line("asked again")
    assert evidence_line(finding, "opened") == line("first asked")


def test_the_fix_of_a_session_that_an_object_holds_opens_no_other_one(shop: Engine, watch: Watch) -> None:
    """Who holds the session opened it elsewhere: a block here would be another session's."""
    held = Held(shop)
    held.session.execute(insert(Tag).values(name="new"))
    held.session.close()
    fix = "commit before the session ends: held.session.commit();\nto discard on purpose: held.session.rollback()"
    assert only(watch, "lost-writes").fix == fix


def test_counts_what_one_verb_does_not_say(shop: Engine, watch: Watch) -> None:
    """Rows of one table that were inserted and deleted are named by both verbs."""
    with Session(shop) as session:
        session.execute(insert(Tag).values(name="new"))
        session.execute(delete(Tag).where(Tag.name == "new"))
    message = "1 row of tags was inserted and 1 row of tags was deleted, but the session was closed"
    assert only(watch, "lost-writes").message.startswith(message)


def test_strict_raises_where_a_registry_is_removed(shop: Engine, strict: Watch) -> None:
    """The registry has let go of its session when the error arrives, and the next one is new."""
    registry = scoped_session(sessionmaker(shop))
    session = registry()
    session.add(Order())
    session.flush()
    with pytest.raises(FindingError):
        registry.remove()
    assert is_idle(shop)
    assert only(strict, "lost-writes").subject == "Order"
