"""As right.py, but the order is only flushed: the client gets its number, and the row is gone with the session."""

from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, FastAPI
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase): ...


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]


def create_app(url: str) -> FastAPI:
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    app = FastAPI()

    def get_session() -> Iterator[Session]:
        with Session(engine) as session:
            yield session

    @app.post("/orders")
    def place(item: str, session: Annotated[Session, Depends(get_session)]) -> int:
        order = Order(item=item)
        session.add(order)
        session.flush()  # lost
        return order.id

    @app.get("/orders")
    def count(session: Annotated[Session, Depends(get_session)]) -> int:
        return session.scalar(select(func.count(Order.id))) or 0

    return app
