"""The names of metrics and labels in Prometheus, in both styles: with underscores, and with the dots of OpenTelemetry.

The files are written with underscores, as every exporter has them; `dotted` makes what fits an OTLP receiver of
Prometheus 3 with ``translation_strategy: NoUTF8EscapingWithSuffixes``.
"""

from __future__ import annotations

import re

from sessionwatch.telemetry.table import METRICS, Metric

SUFFIXES = {"counter": "_total", "histogram": "_bucket"}


def underscored(name: str) -> str:
    """A name of OpenTelemetry as Prometheus writes it."""
    return re.sub(r"\W", "_", name)


def series(metric: Metric) -> str:
    """The series that a panel reads, with dots: a unit in braces adds nothing to the name."""
    return metric.name + ("_seconds" if metric.unit == "s" else "") + SUFFIXES.get(metric.kind, "")


SERIES = {underscored(series(metric)): series(metric) for metric in METRICS}
LABELS = {underscored(name): name for metric in METRICS for name in metric.attributes if "." in name}
_NAMES = "|".join(SERIES)
_LABELS = "|".join(sorted(LABELS, key=len, reverse=True))


def dotted(text: str) -> str:
    """An expression, a legend or a template with the names of OpenTelemetry."""
    text = re.sub(rf"\b({_NAMES})\b(?:\{{\s*(\}})?|(?!\{{))", _selector, text)
    text = re.sub(rf"(\$labels|\.Labels)\.({_LABELS})\b", lambda found: _index(found[1], found[2]), text)
    text = re.sub(rf"\{{\{{({_LABELS})\}}\}}", lambda found: f"{{{{{LABELS[found[1]]}}}}}", text)
    return re.sub(rf'(?<![\w.$"])({_LABELS})\b', lambda found: f'"{LABELS[found[1]]}"', text)


def _selector(found: re.Match[str]) -> str:
    """``name{`` and what may follow, ``name{}``, or ``name``."""
    opened = found[0].endswith("{")
    return f'{{"{SERIES[found[1]]}"' + (", " if opened else "}")


def _index(labels: str, name: str) -> str:
    return f'(index {labels} "{LABELS[name]}")'
