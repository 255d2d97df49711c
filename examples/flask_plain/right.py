"""Flask with a scoped session: committed in the view, removed when the application context ends."""

from flask import Flask, request
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, scoped_session, sessionmaker


class Base(DeclarativeBase): ...


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]


def create_app(url: str) -> Flask:
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    db = scoped_session(sessionmaker(engine))
    app = Flask(__name__)

    @app.teardown_appcontext
    def remove_session(_error: BaseException | None) -> None:
        db.remove()

    @app.post("/orders")
    def place() -> str:
        order = Order(item=request.form["item"])
        db.add(order)
        db.commit()
        return str(order.id)

    @app.get("/orders")
    def count() -> str:
        return str(db.scalar(select(func.count(Order.id))))

    return app
