"""IPython and notebooks show the story of a finding and of its exception."""

from __future__ import annotations

import html
from typing import Any

import pytest

import sessionwatch
from sessionwatch import FindingError
from sessionwatch.output.messages import render
from tests.programs.shop import lose, memory_engine

interactive = pytest.importorskip("IPython.core.interactiveshell")


@pytest.fixture(scope="module")
def shell() -> Any:
    """One that has no terminal and keeps no history."""
    config = pytest.importorskip("traitlets.config").Config()
    config.HistoryManager.enabled = False
    return interactive.InteractiveShell(config=config)


def test_a_finding_shows_its_story(shell: Any) -> None:
    """As text in a terminal, as escaped HTML in a notebook; a list of findings too."""
    with sessionwatch.watching(log=False) as watch:
        lose(memory_engine())
    (finding,) = watch.findings
    shown, _ = shell.display_formatter.format(finding)
    assert shown["text/plain"] == render(finding)
    assert shown["text/html"] == f'<pre style="white-space: pre-wrap">{html.escape(render(finding))}</pre>'
    assert "  fix: commit before the session ends" in shell.display_formatter.format(watch.findings)[0]["text/plain"]


def test_an_exception_shows_its_story(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Raised in a cell, the traceback ends with it; as a value, it is what is displayed."""
    with sessionwatch.watching(mode="strict", log=False), pytest.raises(FindingError) as caught:
        lose(memory_engine())
    shell.push({"error": caught.value})
    shell.run_cell("raise error")
    assert "  fix: commit before the session ends" in capsys.readouterr().out
    shown, _ = shell.display_formatter.format(caught.value)
    assert shown["text/plain"] == str(caught.value) == render(caught.value.finding)
    assert html.unescape(shown["text/html"]).removesuffix("</pre>").endswith(str(caught.value))
