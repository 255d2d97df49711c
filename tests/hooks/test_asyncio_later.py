"""SQLAlchemy's asyncio is hooked when the program imports it, and is never imported for that."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from sessionwatch import imports
from sessionwatch.model import MODES, Mode

ROOT = Path(__file__).resolve().parents[2]
HOOKED = """
    import sys
    def ours():
        owners = (one for name in ("session", "engine") for one in vars(sys.modules[f"sqlalchemy.ext.asyncio.{name}"]).values())
        functions = (one for owner in owners for one in (vars(owner).values() if isinstance(owner, type) else (owner,)))
        return sorted({one.__name__ for one in functions if "sessionwatch" in getattr(getattr(one, "__code__", None), "co_filename", "")})
    def there():
        return [name for name in ("greenlet", "sqlalchemy.ext.asyncio", "sqlalchemy.connectors.asyncio") if name in sys.modules]
    def finders():
        return sum(type(one).__module__.startswith("sessionwatch") for one in sys.meta_path)
    def off(watch):
        return sorted(slug for slug, rule in watch.status()["rules"].items() if "SQLAlchemy" in rule["from"])
"""  # fmt: skip # noqa: E501


def run(program: str, **given: Any) -> Any:
    """What a program leaves in ``told``, in a process of its own."""
    text = "\n".join([*(f"{name} = {value!r}" for name, value in given.items()), textwrap.dedent(HOOKED)])
    text += f"\ntold = {{}}\n{textwrap.dedent(program)}\nimport json\nprint(json.dumps(told))"
    environ = {"PYTHONPATH": str(ROOT), "SESSIONWATCH_TESTING": "1"}
    done = subprocess.run([sys.executable, "-c", text], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) | {"stderr": done.stderr}


@pytest.mark.parametrize("mode", MODES)
def test_installed_before_the_import(mode: Mode) -> None:
    """Until then nothing of it is there and no rule is off; from then on all is hooked, and then undone exactly."""
    told = run(
        """
        import sqlalchemy.orm
        before = set(there())
        import sessionwatch
        watch = sessionwatch.install(mode=MODE, log=False)
        told["imported by us"] = sorted(set(there()) - before)
        told["before"] = [watch.status()["sqlalchemy"]["missing"], off(watch)]
        import sqlalchemy.ext.asyncio as package
        told["hooked"] = ours()
        told["after"] = [watch.status()["sqlalchemy"]["missing"], off(watch)]
        with watch:
            pass
        told["left"] = [ours(), finders()]
        held = [dict(vars(one)) for one in vars(package).values() if isinstance(one, type)]
        with sessionwatch.watching(MODE, log=False):
            told["hooked again"] = ours()
        told["same"] = held == [dict(vars(one)) for one in vars(package).values() if isinstance(one, type)]
        """,
        MODE=mode,
    )
    assert told["imported by us"] == []
    assert told["before"] == told["after"] == [{}, []]
    assert {"__init__", "__aexit__", "close", "reset", "invalidate", "greenlet_spawn"} <= {*told["hooked"]}
    assert told["hooked"] == told["hooked again"]
    assert (told["left"], told["same"]) == ([[], 0], True)


def test_uninstalled_before_the_import() -> None:
    """Then the import is nobody's business."""
    told = run("""
        import sessionwatch
        sessionwatch.install(log=False).uninstall()
        told["finders"] = finders()
        import sqlalchemy.ext.asyncio
        told["hooked"] = ours()
        """)
    assert (told["finders"], told["hooked"]) == (0, [])


def test_findings_of_asyncio_are_those_of_an_installation_after_the_import() -> None:
    """A write that is lost in an AsyncSession has the same story, and the session is counted as an async one."""
    program = """
        import asyncio
        import sessionwatch
        if EARLY:
            watch = sessionwatch.install(log=False)
        from sqlalchemy import text
        from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
        watch = watch if EARLY else sessionwatch.install(log=False)
        async def main():
            engine = create_async_engine("sqlite+aiosqlite://")
            async with engine.begin() as connection:
                await connection.execute(text("CREATE TABLE t (id INTEGER)"))
            async with AsyncSession(engine) as session:
                await session.execute(text("INSERT INTO t VALUES (1)"))
            await engine.dispose()
        asyncio.run(main())
        told["findings"] = [[one.rule, one.message, [item.label for item in one.evidence]] for one in watch.findings]
        told["opened"] = watch.status()["sessions"]["opened"]
        """
    early, late = run(program, EARLY=True), run(program, EARLY=False)
    assert [rule for rule, *_ in late["findings"]] == ["lost-writes"]
    assert (early["findings"], early["opened"]) == (late["findings"], {"async": 1})


def test_a_rule_goes_off_at_the_import_where_something_is_missing_there() -> None:
    """Before, nobody can know; then one warning names the rule, ``status()`` too, and no event is made for it."""
    told = run("""
        import logging
        import sessionwatch
        from sessionwatch.hooks import private
        private.SPAWN.name = "_called_something_else"
        watch = sessionwatch.install(log=False)
        told["before"] = off(watch)
        logging.basicConfig(format="%(levelname)s %(message)s")
        import sqlalchemy.ext.asyncio
        told["after"] = off(watch)
        told["missing"] = list(watch.status()["sqlalchemy"]["missing"])
        """)
    assert (told["before"], told["after"]) == ([], ["swallowed-error"])
    assert told["missing"] == ["_called_something_else"]
    assert told["stderr"].count("switched off: swallowed-error") == 1


def test_what_arrives_while_the_block_ends_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may end an installation in the midst of an import: what was put in since comes out again."""
    (tmp_path / "arrives_late.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    done: list[str] = []

    def then(name: str, is_active: Any, undo: contextlib.ExitStack) -> None:
        block.__exit__(None, None, None)
        undo.callback(done.append, "undone")

    block = imports.watched({"arrives_late"}, then, done.append)
    block.__enter__()
    __import__("arrives_late")
    assert done == ["undone"]
