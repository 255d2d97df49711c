"""``target=``: which sessions an installation watches."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from ..hooks.reading import read
from ..model import ConfigError

Wants = Callable[[Any], bool]


def wants(target: Any) -> Wants | None:
    """A test for sessions; None for every session.

    Raises `sessionwatch.ConfigError` for anything but a sessionmaker, a Session class, an engine, their
    asyncio counterparts, or a scoped_session.
    """
    if target is None:
        return None
    if isinstance(target, scoped_session) or type(target).__name__ == "async_scoped_session":
        return wants(target.session_factory)
    if isinstance(target, sessionmaker):
        maker_class = target.class_
        return lambda session: isinstance(session, maker_class)
    if isinstance(target, type) and issubclass(target, Session):
        return lambda session: isinstance(session, target)
    if isinstance(target, Engine):
        return lambda session: _bound_to(session, target)
    asynchronous = _asynchronous(target)
    if asynchronous is not None:
        return asynchronous
    raise ConfigError(f"target must be a sessionmaker, a Session class or an engine, not {type(target).__name__}")


def _asynchronous(target: Any) -> Wants | None:
    if "sqlalchemy.ext.asyncio" not in sys.modules:  # an import that fails without greenlet leaves its parts behind
        return None
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

    if isinstance(target, AsyncEngine):
        engine = target.sync_engine
        return lambda session: _bound_to(session, engine)
    if isinstance(target, async_sessionmaker):
        code = async_sessionmaker.__call__.__code__
        return lambda session: _made_by(code, lambda maker: maker is target)
    if isinstance(target, type) and issubclass(target, AsyncSession):
        return lambda session: _made_by(None, lambda maker: isinstance(maker, target))
    return None


def _bound_to(session: Any, engine: Engine) -> bool:
    """Whether the session uses the engine; a session that chooses its engine by itself may."""
    by_class = read.binds(session) or {}
    binds = [session.bind, *by_class.values()]
    binds = [bind.engine if isinstance(bind, Connection) else bind for bind in binds if bind is not None]
    if any(bind.pool is engine.pool for bind in binds):  # Engine.execution_options() makes another one on the pool
        return True
    return not binds and type(session).get_bind is not Session.get_bind


def _made_by(code: CodeType | None, matches: Callable[[Any], bool]) -> bool:
    """Whether the session is being made inside a call of the target, a few frames outside of here."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(12):
        if frame is None:
            return False
        if (code is None or frame.f_code is code) and matches(frame.f_locals.get("self")):
            return True
        frame = frame.f_back
    return False
