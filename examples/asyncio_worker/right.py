"""A worker of your own: each job is a unit of work with a session of its own, however many run at once."""

import asyncio

from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import sessionwatch


class Base(DeclarativeBase): ...


class Done(Base):
    __tablename__ = "done"
    job: Mapped[int] = mapped_column(primary_key=True)


async def work(engine: AsyncEngine, jobs: list[int]) -> None:
    new_session = async_sessionmaker(engine, expire_on_commit=False)

    async def handle(job: int) -> None:
        async with sessionwatch.unit_of_work("job"), new_session() as session:
            session.add(Done(job=job))
            await session.commit()

    await asyncio.gather(*map(handle, jobs))
