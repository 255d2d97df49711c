"""Python imports this before a watched program, because ``sessionwatch run`` puts its folder on PYTHONPATH.

It runs in every Python process that the program starts, whatever its version and installed packages. So
it needs no other module, removes its own traces, gives way to the ``sitecustomize`` that would have been
found without it, and does the real work only once SQLAlchemy is imported.
"""

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))


class _Waits:
    """A finder that never finds anything; it sees the first import of SQLAlchemy, or of sessionwatch itself."""

    def __init__(self, raw: str) -> None:
        self._raw = raw

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name in ("sqlalchemy", "sessionwatch") and self._raw:
            raw, self._raw = self._raw, ""
            _start(raw)


def _start(raw: str) -> None:
    """Load ``__init__.py`` beside this file, whether or not the package can be imported here."""
    try:
        if sys.version_info < (3, 11):  # noqa: UP036 (the program chooses its interpreter, not we)
            raise RuntimeError(f"sessionwatch needs Python 3.11, and this is {sys.version.split()[0]}")
        from importlib.util import module_from_spec, spec_from_file_location

        spec = spec_from_file_location("_sessionwatch_autostart", os.path.join(_HERE, "__init__.py"))
        module = module_from_spec(spec)  # type: ignore[arg-type]
        spec.loader.exec_module(module)  # type: ignore[union-attr]
        module.start(raw)
    except Exception as error:
        _complain(raw, error)


def _complain(raw: str, error: BaseException) -> None:
    """Leave a note for the report, for example where a program's Python is too old to be watched."""
    try:
        import json

        text = f"{type(error).__name__}: {error}"
        line = json.dumps({"event": "failed", "pid": os.getpid(), "error": text})
        with open(os.path.join(json.loads(raw)["folder"], "notes.jsonl"), "ab", 0) as file:
            file.write(line.encode("ascii") + b"\n")
    except Exception:
        pass  # nobody is left to be told, and the program must not notice


def _arrange() -> None:
    raw = os.environ.get("SESSIONWATCH_RUN")
    if not raw:
        return
    if "sqlalchemy" in sys.modules or "sessionwatch" in sys.modules:
        _start(raw)
    else:
        sys.meta_path.insert(0, _Waits(raw))


def _give_way() -> None:
    """Import the ``sitecustomize`` that is next on the path; `ImportError` where there is none.

    Python's ``site`` module takes that error as "there is none", and reports any other one as it would
    report it without this module in between.
    """
    sys.path[:] = [entry for entry in sys.path if entry != _HERE]
    sys.modules.pop("sitecustomize", None)
    __import__("sitecustomize")


try:
    _give_way()
finally:
    _arrange()
