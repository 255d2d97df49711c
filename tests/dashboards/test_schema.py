"""The dashboard is what Grafana's own types ask for (``@grafana/schema`` of the oldest Grafana that we name)."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from dashboards import queries
from tests import npm

pytestmark = pytest.mark.slow
Schema = dict[str, Any]


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Schema:
    """Grafana's types as a JSON Schema; nothing that they do not name is allowed."""
    folder = npm.installed(queries.FOLDER / "schema", tmp_path_factory)
    generator = str(folder / "node_modules" / ".bin" / "ts-json-schema-generator")
    options = ["--path", "types.ts", "--type", "Checked", "--no-type-check", "--expose", "none"]
    npm.run([generator, *options, "-o", "schema.json"], folder)
    made: Schema = json.loads((folder / "schema.json").read_text())
    return made["definitions"]["Checked"]["properties"]


def errors(schema: Schema, part: str, value: object) -> list[str]:
    """What is wrong with a part of the dashboard, each with its place."""
    found = jsonschema.Draft7Validator(schema[part]).iter_errors(value)
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


def test_the_file_fits_grafanas_types(schema: Schema) -> None:
    """The dashboard, the options of every panel, and how time series are drawn."""
    assert errors(schema, "dashboard", json.loads(queries.FILE.read_text())) == []
    for panel in queries.panels():
        assert errors(schema, panel["type"], panel["options"]) == []
        if panel["type"] == "timeseries":
            assert errors(schema, "custom", panel["fieldConfig"]["defaults"]["custom"]) == []


def test_what_does_not_fit_is_noticed(schema: Schema) -> None:
    """A name or a value that Grafana does not know is an error in each part."""
    dashboard = json.loads(queries.FILE.read_text())
    dashboard["templating"]["list"][0]["tpye"] = "datasource"
    assert errors(schema, "dashboard", dashboard)
    panel = next(panel for panel in queries.panels() if panel["type"] == "timeseries")
    custom = panel["fieldConfig"]["defaults"]["custom"]
    assert errors(schema, "custom", custom | {"drawStyle": "columns"})
    assert errors(schema, "stat", {"colorMode": "blinking"})
