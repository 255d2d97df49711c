"""The engine, and where the service gets its sessions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import create_engine, event
from sqlalchemy.orm import Session, sessionmaker

engine = create_engine(os.environ.get("DATABASE_URL", "sqlite:///shop.db"))
SessionLocal = sessionmaker(engine)

if engine.dialect.name == "sqlite":
    event.listen(engine, "connect", lambda connection, record: connection.execute("PRAGMA foreign_keys=ON"))


def get_session() -> Iterator[Session]:
    """A session for one request: committed when the request succeeds, rolled back when it fails."""
    session = SessionLocal()
    try:
        yield session
        session.commit()
    except BaseException:
        session.rollback()
        raise
    finally:
        session.close()


session_scope = contextmanager(get_session)
