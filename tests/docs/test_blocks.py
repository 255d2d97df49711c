"""The code on the pages runs: each block of the README and of docs/, or it says what it is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest

import sessionwatch
from sessionwatch import config, rules
from tests.docs.blocks import PAGES, Block, as_shown, blocks, commands, into, unexplained

FILES = Path(__file__).parent / "files"
INI = {"sessionwatch", "sessionwatch_rules", "sessionwatch_baseline"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, in which the blocks of one page are run."""
    sessionwatch.uninstall()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_block_says_what_it_is(page: Path) -> None:
    """Python, a console or a configuration; or a comment above it names what runs it, or why nothing does."""
    told = [unexplained(block) for block in blocks(page.read_text(encoding="utf-8"))]
    assert [text for text in told if text] == []


def runnable(page: Path) -> list[Block]:
    return [
        each for each in blocks(page.read_text("utf-8")) if each.how in ("", "save", "into") and each.language != "text"
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run(page: Path, folder: Path) -> None:
    """One after the other, in one folder; a console shows what is shown."""
    names: dict[str, Any] = {"__name__": "page"}
    if (FILES / page.stem).is_dir():  # what the page takes for granted
        shutil.copytree(FILES / page.stem, folder, dirs_exist_ok=True)
    try:
        for block in runnable(page):
            check_block(block, folder, names, page)
    finally:
        sessionwatch.uninstall()


def check_block(block: Block, folder: Path, names: dict[str, Any], page: Path) -> None:
    where = f"{page.name}:{block.line}"
    if block.how == "save":
        (folder / block.what).write_text(block.text, encoding="utf-8")
        assert not block.what.endswith(".py") or compile(block.text, where, "exec")
    elif block.how == "into":
        path = folder / block.what
        path.write_text(into(path.read_text(encoding="utf-8"), block.text), encoding="utf-8")
    elif block.language == "python":
        exec(compile("\n" * block.line + block.text, str(page), "exec", dont_inherit=True), names)
    elif block.language == "console":
        for command, shown in commands(block.text):
            output = in_shell(command, shown, folder)
            assert not shown or as_shown(shown, output), f"{where}: {command}\n{output}"
    elif block.language == "toml":
        read_toml(block.text, folder)
    else:
        parser = ConfigParser()
        parser.read_string(block.text)
        assert set(parser["pytest"]) <= INI, where
        assert config.check_mode(parser["pytest"].get("sessionwatch", "strict"))


def in_shell(command: str, shown: str, folder: Path) -> str:
    """What a command writes to both outputs; the programs of this environment come first."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    plain = {"PATH": path, "PYTEST_ADDOPTS": "-p no:cacheprovider -p no:asyncio", "COLUMNS": "100"}
    ended = subprocess.run(
        command, shell=True, cwd=folder, env={**os.environ, **plain}, timeout=300, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    fails = "--fail" in command or bool(re.search(r"^\d+ failed", shown, re.MULTILINE))
    assert ended.returncode == int(fails), f"{command}: {ended.returncode}\n{ended.stdout}"
    return ended.stdout


def read_toml(text: str, folder: Path) -> None:
    """Ours is accepted as it stands; pytest's has no option that the plugin does not know."""
    tools = tomllib.loads(text)["tool"]
    assert set(tools.get("pytest", {}).get("ini_options", {})) <= INI
    if "sessionwatch" in tools:
        (folder / "configured").mkdir(exist_ok=True)
        (folder / "configured" / "pyproject.toml").write_text(text, encoding="utf-8")
        loaded = config.load(rules.ALL, environ={}, start=folder / "configured")
        assert "pyproject" in " ".join(loaded.origins.values())


def test_what_the_runner_takes_for_granted() -> None:
    """A wrong output, a missing part and an unmarked block are seen; an ellipsis is any lines, or the rest of one."""
    assert as_shown("a\n...\nz ...\n", "a\nb\nc\nz 3\n")
    assert not as_shown("a\nz\n", "a\nb\nz\n")
    assert commands("$ one\n1\n$ two\n") == [("one", "1\n"), ("two", "")]
    assert into("x = 1\ndef f():\n    return 1\n", "def f():\n    return 2\n") == "x = 1\ndef f():\n    return 2\n"
    page = "```sh\nls\n```\n<!-- part of: noxfile.py -->\n```python\nno_such_line()\n```\n"
    page += "<!-- guess: so -->\n```text\n```\n"
    told = [unexplained(block) for block in blocks(page)]
    assert told[0] == "line 1: a block of sh that nothing runs"
    assert told[1] == "line 5: it is not in noxfile.py word for word"
    assert "'guess' is none of" in told[2]
    assert unexplained(Block(1, "sh", "", "run by", "tests/docs/test_blocks.py::test_no")) != ""
