"""Milliseconds until a program can begin: the import, and ``install()`` with 500 mapped classes.

Of processor time, because the machine is shared, and with the modules compiled before.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
from typing import Any

from . import children

IMPORT = """
import gc, json, sys, time
import sqlalchemy, sqlalchemy.orm
try:
    import sqlalchemy.ext.asyncio
except ImportError:
    pass
if sys.argv[1:]:
    gc.disable()
began = time.process_time()
import sessionwatch
imported = time.process_time()
sessionwatch.install
print(json.dumps([(imported - began) * 1e3, (time.process_time() - began) * 1e3]))
"""

INSTALL = """
import json, sys, time
from sqlalchemy import Column, Integer, String
from sqlalchemy.orm import DeclarativeBase, configure_mappers
class Base(DeclarativeBase): pass
for n in range(500):
    columns = {f"c{i}": Column(String) for i in range(5)}
    type(f"Model{n}", (Base,), {"__tablename__": f"t{n}", "id": Column(Integer, primary_key=True), **columns})
configure_mappers()
if sys.argv[2:]:
    import sqlalchemy.ext.asyncio
import sessionwatch
sessionwatch.install
began = time.process_time()
sessionwatch.install(mode=sys.argv[1])
print(json.dumps([(time.process_time() - began) * 1e3]))
"""


def measure(runs: int = 7) -> dict[str, float]:
    """Medians in milliseconds; the least of the runs is there too, because the machine is shared.

    The import makes so many objects that a full collection falls into it, over all that SQLAlchemy made before; a row
    is without it. SQLAlchemy's asyncio part is hooked by `install()` where the program has imported it; else later.
    """
    _run(IMPORT)  # compiles the modules
    imported = [_run(IMPORT) for _ in range(runs)]
    found = {"import sessionwatch": [run[0] for run in imported], "import, first use": [run[1] for run in imported]}
    found["import, first use, without a collection"] = [_run(IMPORT, "no")[1] for _ in range(runs)]
    for mode in ("telemetry", "log", "strict"):
        name = f"install(), {mode}, 500 classes"
        found[name] = [_run(INSTALL, mode)[0] for _ in range(runs)]
        with contextlib.suppress(subprocess.CalledProcessError):  # greenlet is not installed
            found[f"{name}, asyncio imported before"] = [_run(INSTALL, mode, "asyncio")[0] for _ in range(runs)]
    return {name: statistics.median(times) for name, times in found.items()} | {
        f"{name} (least)": min(times) for name, times in found.items()
    }


def _run(program: str, *arguments: str) -> Any:
    command = [sys.executable, "-c", program, *arguments]
    environment = children.environment()
    del environment["PYTHONDONTWRITEBYTECODE"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=children.ROOT, env=environment)
    return json.loads(done.stdout)
