"""The kinds of panels that the dashboard is made of, so that the same thing looks the same in every row."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Mapping

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
TARGET_ZERO = ((None, "green"), (0.5, "red"))
QUIET = ((None, "text"),)
EVENTS = "5m"  # at least, for a bar
Queries = Mapping[str, str]  # legend -> expression
Panel = stat.Panel | bargauge.Panel | timeseries.Panel | table.Panel


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
        .with_target(_query("", expression).instant().ref_id("A"))
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
    """One horizontal bar per label value, the longest first; red where it is not 0."""
    return (
        bargauge.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .with_target(_query(legend, expression).instant().ref_id("A"))
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


def rows_of(title: str, description: str, queries: Queries, columns: Mapping[str, str], *, width: int) -> table.Panel:
    """A table: the labels of the queries as columns, then their values; ``columns`` are field -> heading, in order."""
    panel = table.Panel().title(title).description(description).datasource(SOURCE)
    for letter, expression in zip("ABCDEF", queries.values(), strict=False):
        panel.with_target(_query("", expression).instant().format(PromQueryFormat.TABLE).ref_id(letter))
    order = {"excludeByName": {"Time": True}, "indexByName": {name: place for place, name in enumerate(columns)}}
    panel.with_transformation(DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(DataTransformerConfig("organize", options=order | {"renameByName": dict(columns)}))
    panel.cell_options(options.TableAutoCellOptions())
    return panel.unit("short").filterable(True).height(10).span(width)


def colored(panel: Panel, colors: Mapping[str, str]) -> Panel:
    """The same colour for the same series, whichever others there are."""
    for name, color in colors.items():
        fixed = {"mode": FieldColorModeId.FIXED.value, "fixedColor": color}
        panel.override_by_name(name, [DynamicConfigValue(id_val="color", value=fixed)])
    return panel


def column(panel: table.Panel, name: str, **properties: object) -> table.Panel:
    """How one column of a table looks: properties of Grafana, with ``custom__`` for ``custom.``."""
    made = [DynamicConfigValue(id_val=key.replace("__", "."), value=value) for key, value in properties.items()]
    return panel.override_by_name(name, made)


def explore(title: str, source: str, query: Mapping[str, object]) -> dashboard.DashboardLink:
    """A link that opens a query in Explore, in the time that is shown; Grafana fills in ``${...}``."""
    pane = {
        "datasource": f"${{{source}}}",
        "queries": [{"refId": "A", **query}],
        "range": {"from": "${__from}", "to": "${__to}"},
    }
    panes = urllib.parse.quote(json.dumps({"a": pane}, separators=(",", ":")), safe="${}_.:")
    link = dashboard.DashboardLink(title).type(DashboardLinkType.LINK).target_blank(True)
    return link.url(f"/explore?schemaVersion=1&orgId=1&panes={panes}")


def _query(legend: str, expression: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().datasource(SOURCE).expr(expression).legend_format(legend or "__auto")


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)


def _legend() -> common.VizLegendOptions:
    legend = common.VizLegendOptions().display_mode(options.LegendDisplayMode.LIST).show_legend(True)
    return legend.placement(options.LegendPlacement.BOTTOM).calcs([])
