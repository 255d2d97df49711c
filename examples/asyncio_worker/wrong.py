"""As right.py, but all jobs share one session: two are in it at the same time."""

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

    async with sessionwatch.unit_of_work("jobs"), new_session() as session:

        async def handle(job: int) -> None:
            session.add(Done(job=job))
            await session.commit()  # all at once

        await asyncio.gather(*map(handle, jobs))
