"""Databases with the order book in them, for whoever imports these fixtures."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.rules import models


@pytest.fixture
def shop(engine: Engine) -> Engine:
    """A sync engine on a database that `models.seed` filled."""
    models.seed(engine)
    return engine


@pytest.fixture
async def async_shop(async_engine: AsyncEngine) -> AsyncEngine:
    """An asyncio engine on a database that `models.seed_async` filled."""
    await models.seed_async(async_engine)
    return async_engine
