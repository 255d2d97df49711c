"""The dashboard is what Grafana's own types ask for: ``@grafana/schema`` of the first and the last 11, of 12 and of 13.

No Grafana server takes part. Types do not say what a transformation or a link means; ``tests/e2e/test_picture.py``
runs those with Grafana's own code.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dashboards import queries
from tests import npm

pytestmark = pytest.mark.slow
Schema = dict[str, Any]
OLD, NEW = "dist/esm/raw/dashboard/x/dashboard_types.gen", "dist/types/raw/dashboard/x/types.gen"
RELEASES = {"grafana-11.0": OLD, "grafana-11.6": OLD, "grafana-12.4": NEW, "grafana-13.2": NEW}
# what 11.0 does not know yet and 11.6 asks for; a release leaves out what it does not know
YOUNGER = {"grafana-11.0": {"bargauge": "legend", "stat": "percentChangeColorMode"}}
FILES = [queries.FILE, queries.FOLDER / "sessionwatch-utf8.json"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages of all releases."""
    return npm.installed(queries.FOLDER / "schema", tmp_path_factory)


@pytest.fixture(scope="module", params=list(RELEASES))
def schema(project: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Schema:
    """The types of one release as a JSON Schema; nothing that they do not name is allowed."""
    release, folder = request.param, tmp_path_factory.mktemp(request.param)
    # under its own name, by which its files import each other
    own = folder / "node_modules" / "@grafana" / "schema"
    shutil.copytree(project / "node_modules" / release, own, copy_function=os.link)
    (folder / "types.ts").write_text((project / "types.ts").read_text().replace("DASHBOARD", RELEASES[release]))
    generator = str(project / "node_modules" / ".bin" / "ts-json-schema-generator")
    options = ["--path", "types.ts", "--type", "Checked", "--no-type-check", "--expose", "none"]
    npm.run([generator, *options, "-o", "schema.json"], folder)
    made: Schema = json.loads((folder / "schema.json").read_text())
    return made["definitions"]["Checked"]["properties"]


def errors(schema: Schema, part: str, value: object) -> list[str]:
    """What is wrong with a part of the dashboard, each with its place."""
    found = jsonschema.Draft7Validator(schema[part]).iter_errors(value)
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_file_fits_grafanas_types(file: Path, schema: Schema, request: pytest.FixtureRequest) -> None:
    """The dashboard, the options of every panel, and how time series and the cells of tables are drawn."""
    younger = YOUNGER.get(request.node.callspec.params["schema"], {})
    assert errors(schema, "dashboard", json.loads(file.read_text())) == []
    kinds = {"timeseries": "custom", "table": "cells"}
    for panel in queries.panels(file):
        known = {name: value for name, value in panel["options"].items() if name != younger.get(panel["type"])}
        assert errors(schema, panel["type"], known) == []
        if part := kinds.get(panel["type"]):
            assert errors(schema, part, panel["fieldConfig"]["defaults"]["custom"]) == []


def test_what_does_not_fit_is_noticed(schema: Schema) -> None:
    """A name or a value that Grafana does not know is an error in each part."""
    dashboard = json.loads(queries.FILE.read_text())
    dashboard["templating"]["list"][0]["tpye"] = "datasource"
    assert errors(schema, "dashboard", dashboard)
    panel = next(panel for panel in queries.panels() if panel["type"] == "timeseries")
    custom = panel["fieldConfig"]["defaults"]["custom"]
    assert errors(schema, "custom", custom | {"drawStyle": "columns"})
    assert errors(schema, "stat", {"colorMode": "blinking"})
    assert errors(schema, "table", {"showHeader": "always"})
    assert errors(schema, "cells", {"filterable": "perhaps"})
