"""Where a session, and a session's connection, keep the record of it."""

from __future__ import annotations

KEY = "_sessionwatch"
