"""What the order service takes and answers."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class NewOrder(BaseModel):
    customer: str


class LineOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    article: str
    quantity: int


class OrderOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    customer: str
    lines: list[LineOut]
