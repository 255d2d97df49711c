"""The kinds of panels that the dashboard is made of, so that the same thing looks the same in every row."""

from __future__ import annotations

from collections.abc import Mapping

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    DynamicConfigValue,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
)

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
SELECTED = 'job=~"$job", instance=~"$instance"'
TARGET_ZERO = ((None, "green"), (0.5, "red"))  # increase() extrapolates: what is not 0 is at least 1
QUIET = ((None, "text"),)
EVENTS = "5m"  # at least, for a bar: with this step, $__rate_interval counts each event in one bar
Queries = Mapping[str, str]  # legend -> expression
Panel = stat.Panel | bargauge.Panel | timeseries.Panel


def series(name: str, *matchers: str) -> str:
    """A metric of the service and the instances that are chosen at the top of the dashboard."""
    return f"{name}{{{', '.join([SELECTED, *matchers])}}}"


def per_second(name: str, *matchers: str, by: str = "") -> str:
    """How often something happens, in all instances together."""
    return f"sum{f' by ({by}) ' if by else ''}(rate({series(name, *matchers)}[$__rate_interval]))"


def happened(name: str, *matchers: str, by: str = "", over: str = "$__range") -> str:
    """How many times something happened in the time that is shown."""
    return f"sum{f' by ({by}) ' if by else ''}(increase({series(name, *matchers)}[{over}]))"


def quantiles(histogram: str, *shares: float, by: str = "") -> dict[str, str]:
    """Quantiles of a histogram; the legend names the share, and the label that they are grouped by."""
    labels = f"le, {by}" if by else "le"
    rate = per_second(f"{histogram}_bucket", by=labels)
    suffix = f" {{{{{by}}}}}" if by else ""
    return {f"p{share * 100:g}{suffix}": f"histogram_quantile({share}, {rate})" for share in shares}


def thresholds(steps: tuple[tuple[float | None, str], ...]) -> dashboard.ThresholdsConfig:
    made = [Threshold(value=value, color=color) for value, color in steps]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(made)


def number(title: str, description: str, expression: str, *, width: int = 4, target_zero: bool = True) -> stat.Panel:
    """One number for the time that is shown; red where it is not 0, if 0 is the target."""
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .with_target(_query("", f"round({expression})").instant().ref_id("A"))
        .unit("short")
        .thresholds(thresholds(TARGET_ZERO if target_zero else QUIET))
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .color_mode(options.BigValueColorMode.BACKGROUND if target_zero else options.BigValueColorMode.VALUE)
        .graph_mode(options.BigValueGraphMode.NONE)
        .reduce_options(_last())
        .height(4)
        .span(width)
    )


def bars(title: str, description: str, legend: str, expression: str, *, width: int, height: int) -> bargauge.Panel:
    """One horizontal bar a label value, the longest first; red where it is not 0."""
    return (
        bargauge.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .with_target(_query(legend, f"sort_desc(round({expression}))").instant().ref_id("A"))
        .unit("short")
        .min(0)
        .thresholds(thresholds(TARGET_ZERO))
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .display_mode(options.BarGaugeDisplayMode.BASIC)
        .orientation(options.VizOrientation.HORIZONTAL)
        .name_placement(options.BarGaugeNamePlacement.LEFT)
        .reduce_options(_last())
        .height(height)
        .span(width)
    )


def lines(title: str, description: str, unit: str, queries: Queries, *, width: int = 8) -> timeseries.Panel:
    """Lines over time."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .line_width(1)
        .fill_opacity(10)
        .show_points(options.VisibilityMode.NEVER)
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
        .legend(_legend())
        .tooltip(common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI).sort(options.SortOrder.DESCENDING))
        .height(8)
        .span(width)
    )
    for letter, (legend, expression) in zip("ABCDEF", queries.items(), strict=False):
        panel.with_target(_query(legend, expression).range().ref_id(letter))
    return panel


def stacked(title: str, description: str, unit: str, queries: Queries, *, width: int = 8) -> timeseries.Panel:
    """Parts of a whole over time."""
    panel = lines(title, description, unit, queries, width=width).fill_opacity(60).line_width(0)
    return panel.stacking(common.StackingConfig().mode(options.StackingMode.NORMAL).group("A"))


def events(title: str, description: str, queries: Queries, *, width: int = 8) -> timeseries.Panel:
    """Single events over time, as bars on top of each other."""
    panel = stacked(title, description, "short", queries, width=width).decimals(0)
    return panel.draw_style(options.GraphDrawStyle.BARS).fill_opacity(80).interval(EVENTS)


def colored(panel: timeseries.Panel, colors: Mapping[str, str]) -> timeseries.Panel:
    """The same colour for the same series, whichever others there are."""
    for name, color in colors.items():
        fixed = {"mode": FieldColorModeId.FIXED.value, "fixedColor": color}
        panel.override_by_name(name, [DynamicConfigValue(id_val="color", value=fixed)])
    return panel


def _query(legend: str, expression: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().datasource(SOURCE).expr(expression).legend_format(legend or "__auto")


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)


def _legend() -> common.VizLegendOptions:
    legend = common.VizLegendOptions().display_mode(options.LegendDisplayMode.LIST).show_legend(True)
    return legend.placement(options.LegendPlacement.BOTTOM).calcs([])
