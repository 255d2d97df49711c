"""The entry point ``opentelemetry_instrumentor``: ``opentelemetry-instrument app`` installs sessionwatch.

The configuration is that of `sessionwatch.install`; where none names a mode, it is ``telemetry``. A program that
calls ``install()`` itself gets what it asks for, in the place of this installation.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]  # untyped

from .model import ConfigError
from .watch import installation

if TYPE_CHECKING:
    from .watch.watch import Watch

logger = logging.getLogger("sessionwatch")

INSTRUMENTS = ("sqlalchemy >= 2.0",)  # as the extra `instruments`, which opentelemetry-instrument looks at
_PROVIDERS = ("tracer_provider", "meter_provider", "logger_provider")
_KEYWORDS = ("mode", "target", "rules", "settings", "on_finding", "output", "baseline", "source")


class SessionwatchInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """`sessionwatch.install` and `uninstall` for programs that set up OpenTelemetry's instrumentors.

    ``instrument()`` takes ``tracer_provider``, ``meter_provider`` and ``logger_provider`` (default: the global
    ones), and the keywords of `sessionwatch.install`, for which it raises `sessionwatch.ConfigError`. Other
    keywords, which are meant for other instrumentors, are passed over.
    """

    _installed: Watch | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        return INSTRUMENTS

    def _instrument(self, **kwargs: Any) -> None:
        given = {name: kwargs[name] for name in _KEYWORDS if kwargs.get(name) is not None}
        providers = {name: kwargs[name] for name in _PROVIDERS if kwargs.get(name) is not None}
        before = installation.current()
        try:
            installed = installation.install(
                gives_way=True, providers=providers, mode_by_default=("telemetry", "instrumentor"), **given
            )
        except ConfigError:
            if given:
                raise
            # Nobody called us by hand, and an error would keep the instrumentors after this one from being loaded.
            logger.error("sessionwatch is not installed: its configuration is wrong", exc_info=True)
            return
        self._installed = installed if installed is not before else None

    def _uninstrument(self, **kwargs: Any) -> None:
        if self._installed is not None:
            installation.withdraw(self._installed)
        self._installed = None
