"""The former address of `sessionwatch.units.wsgi`."""

from __future__ import annotations

from ..units.wsgi import UnitOfWorkMiddleware

__all__ = ["UnitOfWorkMiddleware"]
