"""The pattern of Litestar's SQLAlchemy tutorial: a transaction for each request, provided by a dependency."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from litestar import Litestar, get, post
from litestar.di import Provide
from litestar.exceptions import ClientException
from litestar.params import Dependency
from sqlalchemy import URL, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The declarative base of the application."""


class Task(Base):
    __tablename__ = "garden_tasks"

    title: Mapped[str] = mapped_column(primary_key=True)
    done: Mapped[bool] = mapped_column(default=False)


Transaction = Annotated[AsyncSession, Dependency(skip_validation=True)]


def make(url: URL) -> tuple[Litestar, AsyncEngine]:
    """The application, and the engine that it uses."""
    engine = create_async_engine(url)
    new_session = async_sessionmaker(engine, expire_on_commit=False)

    async def provide_transaction() -> AsyncIterator[AsyncSession]:
        async with new_session() as session, session.begin():
            yield session

    @get("/tasks")
    async def read_all(transaction: Transaction, done: bool | None = None) -> list[dict[str, Any]]:
        query = select(Task).order_by(Task.title)
        if done is not None:
            query = query.where(Task.done.is_(done))
        return [{"title": task.title, "done": task.done} for task in await transaction.scalars(query)]

    @post("/tasks")
    async def create(transaction: Transaction, data: dict[str, str]) -> dict[str, Any]:
        task = Task(title=data["title"])
        transaction.add(task)
        try:
            await transaction.flush()
        except IntegrityError as error:
            raise ClientException(status_code=409, detail="there is such a task") from error
        return {"title": task.title, "done": task.done}

    app = Litestar([read_all, create], dependencies={"transaction": Provide(provide_transaction)})
    return app, engine
