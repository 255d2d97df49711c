"""The packing worker: the part of the service that uses asyncio."""

from __future__ import annotations

from sqlalchemy import event, select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from .models import Order


async def pack_order(database_url: str, number: str) -> str:
    """Note that the order lies in its box."""
    engine = create_async_engine(database_url)
    if engine.dialect.name == "sqlite":
        event.listen(
            engine.sync_engine, "connect", lambda connection, record: connection.execute("PRAGMA foreign_keys=ON")
        )
    make_session = async_sessionmaker(engine, expire_on_commit=False)
    try:
        async with make_session.begin() as session:
            order = (await session.scalars(select(Order).where(Order.number == number))).one()
            order.status = "packed"
    finally:
        await engine.dispose()
    return f"200 packed {number}"
