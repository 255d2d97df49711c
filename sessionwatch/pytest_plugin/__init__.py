"""The pytest plugin: a finding fails the test in which it happened, with the whole story.

Off until configured (``sessionwatch = strict`` in the ini file, or ``--sessionwatch=strict``), and then
light: neither SQLAlchemy nor the rest of this package is imported before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from .marker import MODES

if TYPE_CHECKING:
    from ..data.persisted import Persisted
    from .plugin import TestWatch


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("sessionwatch", "sessions and instances used outside of their bounds")
    group.addoption(
        "--sessionwatch",
        choices=MODES,
        help="strict: a finding fails its test; log: findings are shown in the summary; off (default: the ini option)",
    )
    group.addoption("--sessionwatch-output", metavar="FILE", help="append findings to FILE, one JSON object a line")
    group.addoption(
        "--sessionwatch-report",
        metavar="FORMAT:FILE",
        action="append",
        default=[],
        help="write a report to FILE when the tests have ended, in a format of `sessionwatch report` (several times)",
    )
    group.addoption(
        "--sessionwatch-update-baseline",
        action="store_true",
        help="add this run's findings to the baseline file (ini: sessionwatch_baseline); none fails its test",
    )
    parser.addini("sessionwatch", "mode of sessionwatch: strict, log, telemetry or off", default="off")
    parser.addini("sessionwatch_rules", "levels of rules, one RULE=LEVEL a line", type="linelist", default=[])
    parser.addini("sessionwatch_baseline", "file with the fingerprints of known findings", default="")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "sessionwatch(mode=None, allow=(), reason=None): another mode for this test, or rules that it allows",
    )
    mode = config.getoption("--sessionwatch") or config.getini("sessionwatch")
    if mode not in MODES:
        raise pytest.UsageError(f"sessionwatch: unknown mode {mode!r}: choose one of {', '.join(MODES)}")
    if mode == "off" and not config.getoption("--sessionwatch"):
        _check_options(config)
    if mode != "off":
        from .plugin import Plugin

        config.pluginmanager.register(Plugin(config, mode), "sessionwatch-watch")


def _check_options(config: pytest.Config) -> None:
    """An option that does nothing without a mode is a mistake, where nobody switched the plugin off on purpose."""
    for option in ("--sessionwatch-output", "--sessionwatch-report", "--sessionwatch-update-baseline"):
        if config.getoption(option):
            raise pytest.UsageError(
                f"sessionwatch: {option} does nothing without a mode: add --sessionwatch=strict (or log), or put"
                " sessionwatch = strict into the ini file"
            )


@pytest.fixture
def sessionwatch(request: pytest.FixtureRequest) -> Iterator[TestWatch]:
    """The watch of this test: ``.findings`` of this test only, ``.clear()`` to accept them.

    Where the plugin is off, sessionwatch is installed in mode ``log`` for this test.
    """
    plugin = request.config.pluginmanager.get_plugin("sessionwatch-watch")
    if plugin is not None:
        yield plugin.test_watch
        return
    from ..watch import orm  # noqa: F401 (before the others)
    from ..watch.installation import current, install
    from .plugin import TestWatch

    installed = current()
    watch = installed or install(mode="log", log=False)
    try:
        yield TestWatch(watch, [])
    finally:
        if installed is None:
            watch.uninstall()


@pytest.fixture
def sessionwatch_persisted() -> Iterator[Persisted]:
    """Check that a row is there for a new session: ``sessionwatch_persisted(order)``, or by its class and key,
    ``sessionwatch_persisted(Order, 1)``.

    Returns the row's values (``.status``), or fails with the story of who wrote it and did not commit. Looks
    where the instance's session does, or at ``bind=``; with an asyncio engine, await it. Where the sessions
    join a transaction that the test rolls back, it looks inside of that transaction, for what they committed.
    """
    from ..data.persisted import Persisted

    with Persisted().listening() as persisted:
        yield persisted
