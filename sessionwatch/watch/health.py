"""Whether an installation does what it is configured to do: for ``watch.status()``, and so for a health endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..hooks.private import VERSION

if TYPE_CHECKING:
    from ..config import Config
    from ..record.tracker import Tracker
    from ..telemetry.metrics import Metrics
    from .breaker import Breaker
    from .needs import Lacks

DROPPED = "dropped after an internal error"


def degraded(
    config: Config, tracker: Tracker, telemetry: Metrics, lacks: Lacks, breaker: Breaker, output: str | None
) -> dict[str, str]:
    """What does not work as it is configured, and why; empty where all does. ``output``: why a file lacks findings."""
    found = {
        f"rule {name.removeprefix('rules.')}": f"off: {origin}"
        for name, origin in config.origins.items()
        if origin == DROPPED or origin.startswith(f"SQLAlchemy {VERSION} has no")
    }
    if config.mode == "telemetry":
        if lacks.counting is not None:
            found["counts"] = lacks.status()["counting"]
        if not telemetry.is_exported():
            found["metrics"] = "not exported: OpenTelemetry has no meter provider"
    why = breaker.why()
    if why is not None:
        found["stories of findings"] = why
    if output is not None:
        found["output"] = output
    errors = tracker.internal_errors.copy()
    if errors:
        found["sessionwatch"] = f"{errors.total()} internal errors, in {', '.join(sorted(errors))}: see the log"
    return found
