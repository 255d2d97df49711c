"""The anti-patterns, one file each. `ALL` is the table that registers them."""

from __future__ import annotations

from . import (
    broad_except,
    broken_provider,
    close_without_commit,
    expired_read,
    expiring_async,
    gathered_session,
    helper_rollback,
    late_use,
    lazy_in_loop,
    model_across_await,
    module_session,
    never_closed,
    read_after_block,
    sent_instance,
    shared_session,
    sync_in_async,
    two_sessions,
    uncommitted_connection,
)
from ._base import Confidence, Hit, Pattern, Scope

ALL: tuple[Pattern, ...] = (
    broken_provider.PATTERN,
    late_use.PATTERN,
    close_without_commit.PATTERN,
    uncommitted_connection.PATTERN,
    broad_except.PATTERN,
    helper_rollback.PATTERN,
    two_sessions.PATTERN,
    sync_in_async.PATTERN,
    gathered_session.PATTERN,
    shared_session.PATTERN,
    sent_instance.PATTERN,
    module_session.PATTERN,
    never_closed.PATTERN,
    read_after_block.PATTERN,
    model_across_await.PATTERN,
    expired_read.PATTERN,
    lazy_in_loop.PATTERN,
    expiring_async.PATTERN,
)

__all__ = ["ALL", "Confidence", "Hit", "Pattern", "Scope"]
