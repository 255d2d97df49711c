"""FastAPI with an asyncio engine: nothing is loaded where nobody can await it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI
from sqlalchemy import ForeignKey, event, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload


class Base(DeclarativeBase): ...


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    lines: Mapped[list["Line"]] = relationship()


class Line(Base):
    __tablename__ = "lines"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
    item: Mapped[str]


def create_app(url: str) -> FastAPI:
    engine = create_async_engine(url)
    new_session = async_sessionmaker(engine, expire_on_commit=False)

    @event.listens_for(engine.sync_engine, "connect")
    def enforce_foreign_keys(connection, _record):
        connection.execute("PRAGMA foreign_keys=ON")

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with new_session() as session:
            yield session

    @app.post("/orders")
    async def place(items: list[str], session: Annotated[AsyncSession, Depends(get_session)]) -> int:
        order = Order(lines=[Line(item=item) for item in items])
        session.add(order)
        await session.commit()
        return order.id

    @app.get("/orders")
    async def read(session: Annotated[AsyncSession, Depends(get_session)]) -> list[list[str]]:
        query = select(Order).options(selectinload(Order.lines))
        orders = await session.scalars(query)
        return [[line.item for line in order.lines] for order in orders]

    return app
