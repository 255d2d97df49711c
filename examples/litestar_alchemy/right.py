"""Litestar with advanced-alchemy: its plugin makes a session per request, and commits it before a good response."""

from advanced_alchemy.extensions.litestar import (
    AsyncSessionConfig,
    SQLAlchemyAsyncConfig,
    SQLAlchemyPlugin,
    repository,
)
from litestar import Litestar, get, post
from litestar.di import Provide
from sqlalchemy.ext.asyncio import AsyncSession

from .models import Order


class Orders(repository.SQLAlchemyAsyncRepository[Order]):
    model_type = Order


async def provide_orders(db_session: AsyncSession) -> Orders:
    return Orders(session=db_session)


@post("/orders", dependencies={"orders": Provide(provide_orders)})
async def place(orders: Orders, item: str) -> int:
    order = await orders.add(Order(item=item))
    return order.id


@get("/orders", dependencies={"orders": Provide(provide_orders)})
async def count(orders: Orders) -> int:
    return await orders.count()


def create_app(url: str) -> Litestar:
    config = SQLAlchemyAsyncConfig(
        connection_string=url,
        create_all=True,
        before_send_handler="autocommit",
        session_config=AsyncSessionConfig(expire_on_commit=False),
    )
    return Litestar([place, count], plugins=[SQLAlchemyPlugin(config)])
