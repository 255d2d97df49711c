"""Frameworks are wrapped by themselves, whenever they are imported, and are afterwards as they were."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from celery import signals
from starlette.applications import Starlette

import sessionwatch
from sessionwatch import rules
from sessionwatch.imports import Finder
from sessionwatch.model import MODES, Mode
from sessionwatch.units import auto
from sessionwatch.units.auto import MODULES, WRAPPED, owner

NAMES = [f"{entry.module}.{entry.owner}.{entry.name}" for entry in WRAPPED]


def snapshot() -> dict[str, Any]:
    """All that is changed in the frameworks, and in the import system."""
    owners = {entry: owner(importlib.import_module(entry.module), entry) for entry in WRAPPED}
    return {
        "methods": {name: vars(owners[entry]).get(entry.name) for name, entry in zip(NAMES, WRAPPED, strict=True)},
        "classes": {name: dict(vars(owners[entry])) for name, entry in zip(NAMES, WRAPPED, strict=True)},
        "prerun": list(signals.task_prerun.receivers),
        "postrun": list(signals.task_postrun.receivers),
        "meta path": list(sys.meta_path),
    }


@pytest.mark.parametrize("mode", MODES)
def test_uninstall_restores_everything(mode: Mode) -> None:
    """While installed every method of the table is ours; afterwards each is what it was, object by object."""
    before = snapshot()
    with sessionwatch.watching(mode, log=False):
        during = snapshot()
    after = snapshot()
    assert [name for name in NAMES if during["methods"][name] is before["methods"][name]] == []
    assert len(during["prerun"]) == len(before["prerun"]) + 1
    assert isinstance(during["meta path"][0], Finder)
    assert after == before
    assert [name for name in NAMES if after["methods"][name] is not before["methods"][name]] == []


def test_nothing_is_wrapped_with_all_rules_off() -> None:
    """Without a rule nobody asks for units."""
    before = snapshot()
    with sessionwatch.watching(log=False, rules={rule.slug: "off" for rule in rules.ALL}):
        assert snapshot() == before


def test_a_wrapper_on_top_of_ours_stays(caplog: pytest.LogCaptureFixture) -> None:
    """Where somebody has wrapped over us, ours passes everything through from then on, and says so."""
    original = Starlette.__call__
    try:
        with sessionwatch.watching(log=False):
            ours = Starlette.__call__

            async def theirs(self: Any, *args: Any) -> None:
                await ours(self, *args)

            Starlette.__call__ = theirs  # type: ignore[method-assign]
        assert Starlette.__call__ is theirs
        assert "Starlette.__call__ was wrapped by somebody else" in caplog.text
    finally:
        Starlette.__call__ = original  # type: ignore[method-assign]


def run(program: str) -> list[str]:
    """The lines that a program prints in a process of its own."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_frameworks_that_are_imported_later() -> None:
    """They are wrapped as they are imported, their import looks as usual, and uninstall restores them exactly."""
    program = """
        import sys
        import sessionwatch
        watch = sessionwatch.install(log=False)
        from sessionwatch.units.auto import MODULES, WRAPPED, owner
        assert not MODULES & set(sys.modules)
        import starlette.applications, starlette.background, flask, litestar, celery.signals
        import litestar.background_tasks, litestar.middleware._internal.exceptions.middleware
        def methods():
            return [vars(owner(sys.modules[e.module], e))[e.name] for e in WRAPPED]
        ours = methods()
        assert all("sessionwatch" in method.__code__.co_filename for method in ours)
        loaders = [sys.modules[name].__spec__.loader for name in MODULES]
        assert not [loader for loader in loaders if "exec_module" in vars(loader)]
        assert celery.signals.task_prerun.receivers
        watch.uninstall()
        assert not [method for method in methods() if "sessionwatch" in method.__code__.co_filename]
        assert not celery.signals.task_prerun.receivers
        assert not [finder for finder in sys.meta_path if type(finder).__module__.startswith("sessionwatch")]
        print("done")
    """
    assert run(program) == ["done"]


def test_none_is_imported_for_it() -> None:
    """An installation imports no framework."""
    names = sorted({name.partition(".")[0] for name in MODULES})
    program = f"""
        import sys
        import sessionwatch
        with sessionwatch.watching(log=False):
            from sqlalchemy.orm import Session
            Session().close()
        print(*(name for name in {names} if name in sys.modules))
    """
    assert run(program) == [""]


def test_an_import_that_fails_fails_as_usual(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A framework that is not there, or is broken, raises what it would raise, without a frame of ours."""
    (tmp_path / "broken_framework.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(auto, "MODULES", frozenset({"broken_framework", "no_framework"}))
    with sessionwatch.watching(log=False):
        with pytest.raises(ZeroDivisionError) as caught:
            importlib.import_module("broken_framework")
        with pytest.raises(ModuleNotFoundError, match="No module named 'no_framework'"):
            importlib.import_module("no_framework")
    assert not [entry for entry in caught.traceback if str(entry.path).endswith("adapters/auto.py")]


def test_a_search_within_the_search() -> None:
    """Another finder that begins the search anew, as some do, meets no endless search."""
    program = """
        import importlib.util, sys
        import sessionwatch
        class Again:
            asked = False
            def find_spec(self, name, path=None, target=None):
                if name == "flask.app" and not Again.asked:
                    Again.asked = True
                    return importlib.util.find_spec(name)
        sys.meta_path.insert(0, Again())
        with sessionwatch.watching(log=False):
            sys.meta_path.insert(0, Again())
            import flask
            print("sessionwatch" in flask.Flask.__call__.__code__.co_filename)
    """
    assert run(program) == ["True"]
