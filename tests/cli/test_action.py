"""The action for GitHub: its steps run as a runner would run them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.programs import Place

yaml = pytest.importorskip("yaml")
ACTION = Path(__file__).parents[2] / ".github" / "actions" / "sessionwatch" / "action.yml"
LOSE = "import shop\nengine = shop.make_engine()\nshop.lose(engine)\n"


def test_the_step_annotates_and_fails(place: Place, tmp_path: Path) -> None:
    """A finding is annotated at its line, told in log and summary, written as SARIF, and fails the job."""
    place.write("job.py", LOSE)
    action = yaml.safe_load(ACTION.read_text())
    (step,) = [step for step in action["runs"]["steps"] if step.get("id") == "run"]
    given = {name: str(item.get("default", "")) for name, item in action["inputs"].items()}
    given |= {"command": "job.py", "sarif": "found.sarif"}
    told = {name: given[value.split("inputs.")[1].split()[0]] for name, value in step["env"].items()}
    files = {name: str(tmp_path / name) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    environment = {**os.environ, **place.env, **told, **files, "RUNNER_TEMP": str(tmp_path)}
    environment["PATH"] = f"{Path(os.sys.executable).parent}{os.pathsep}{environment['PATH']}"  # type: ignore[attr-defined]
    ended = subprocess.run(
        ["bash", "-e", "-c", step["run"]], cwd=place.path, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1, ended.stderr
    assert "::error file=shop.py,line=" in ended.stdout
    assert "FAULT  lost-writes" in ended.stdout
    assert "lost-writes" in (tmp_path / "GITHUB_STEP_SUMMARY").read_text()
    assert '"ruleId": "lost-writes"' in (place.path / "found.sarif").read_text()
    assert (tmp_path / "GITHUB_OUTPUT").read_text().startswith("findings=")
