"""As right.py, but without `before_send_handler="autocommit"`: the repository flushes, and nobody commits."""

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
    order = await orders.add(Order(item=item))  # lost
    return order.id


@get("/orders", dependencies={"orders": Provide(provide_orders)})
async def count(orders: Orders) -> int:
    return await orders.count()


def create_app(url: str) -> Litestar:
    config = SQLAlchemyAsyncConfig(
        connection_string=url,
        create_all=True,
        session_config=AsyncSessionConfig(expire_on_commit=False),
    )
    return Litestar([place, count], plugins=[SQLAlchemyPlugin(config)])
