"""The former address of `sessionwatch.units.asgi`."""

from __future__ import annotations

from ..units.asgi import UnitOfWorkMiddleware

__all__ = ["UnitOfWorkMiddleware"]
