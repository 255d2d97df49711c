"""Orders, with a primary key from advanced-alchemy."""

from advanced_alchemy.extensions.litestar import base
from sqlalchemy.orm import Mapped


class Order(base.BigIntBase):
    __tablename__ = "orders"
    item: Mapped[str]
