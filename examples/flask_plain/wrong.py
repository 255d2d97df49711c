"""As right.py, but nobody removes the session: each thread of the server keeps one, with its connection."""

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

    @app.post("/orders")
    def place() -> str:
        order = Order(item=request.form["item"])
        db.add(order)  # this thread's session, which nobody removes
        db.commit()
        return str(order.id)

    @app.get("/orders")
    def count() -> str:
        return str(db.scalar(select(func.count(Order.id))))

    return app
