"""The page that compares tools: the bad example of each rule's page, run under each tool that is installed.

``nox -s comparison`` writes docs/comparison.md. Nothing in its table is typed: a cell is what a run gave.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.exc import SADeprecationWarning, SAWarning

import sessionwatch
from sessionwatch import rules
from sessionwatch.output.messages import render
from tests.backends import enforce_foreign_keys
from tests.rules import examples, models

PAGE = Path(__file__).parent.parent / "docs" / "comparison.md"
NOT_RUN = {  # what the example needs, and no other tool gives
    "long-session": "a clock of ours",
    "foreign-loop": "a PostgreSQL server",
    "cross-process": "a child process, whose output is not collected here",
}
HEAD = """\
# Comparison with other tools

Written by `nox -s comparison`, on {date}, with Python {python} and SQLAlchemy {sqlalchemy}: each cell is what
a run gave. The programs are the bad examples of [the rules' pages](rules.md), so sessionwatch finds all of them: the
table does not show how good it is, but what the others are for. They answer other questions; use them beside it.
[What each costs](benchmarks.md) is measured, too.

- **the line**: a message that names a line of the program; **a message**: one that does not. **N+1**: the message is
  about statements that repeat, whatever the row's fault is.
- **an error**, **a warning**: SQLAlchemy's own, which everybody gets. The error's traceback shows where it was raised.
- **spans only**: the statements are recorded, and nobody says that something is wrong.
- **nothing**: not a word.
"""
TAIL = """\
Not run, because the example needs more than these tools are given here: {not_run}.

A recorder of statements judges nothing in the process. What a service behind it makes of the spans, such as a detection
of N+1 on the server, was not run.
"""


class Outcome(AbstractContextManager[None]):
    """What SQLAlchemy itself said: the errors that an example ends with, in place of `contextlib.suppress`."""

    errors: list[BaseException] = []  # noqa: RUF012 (one run at a time)

    def __init__(self, *_: type[BaseException]) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> bool:
        if error is not None:
            self.errors.append(error)
        return isinstance(error, Exception)


def tell(text: str, about: str = "") -> str:
    """The cell of a tool that told something."""
    if not text:
        return "nothing"
    return about + ("the line" if "bad.py:" in text else "a message")


def alone(play: Callable[[], None]) -> str:
    """SQLAlchemy without any tool."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SAWarning)
        warnings.simplefilter("ignore", SADeprecationWarning)
        play()
    if Outcome.errors:
        return f"an error: `{type(Outcome.errors[0]).__name__}`"
    return "a warning" if any(issubclass(warning.category, SAWarning) for warning in caught) else "nothing"


def queryspy(play: Callable[[], None]) -> str:
    module: Any = importlib.import_module("queryspy")
    with module.record() as recorder:
        play()
    found = recorder.findings()
    return tell(module.render_findings(found) if found else "", "N+1, ")


def queryguard(play: Callable[[], None]) -> str:
    module: Any = importlib.import_module("pytest_queryguard.api")
    with module.record_queries() as log:
        play()
    try:
        log.assert_no_nplusone()
    except module.NPlusOneDetected as error:
        return tell(str(error), "N+1, ")
    return "nothing"


def opentelemetry(play: Callable[[], None]) -> str:
    module: Any = importlib.import_module("opentelemetry.instrumentation.sqlalchemy")
    trace: Any = importlib.import_module("opentelemetry.sdk.trace")
    export: Any = importlib.import_module("opentelemetry.sdk.trace.export")
    memory: Any = importlib.import_module("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = memory.InMemorySpanExporter()
    provider = trace.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    module.SQLAlchemyInstrumentor().instrument(tracer_provider=provider, skip_dep_check=True)
    try:
        play()
    finally:
        module.SQLAlchemyInstrumentor().uninstrument()
    spans = exporter.get_finished_spans()
    return "spans only" if spans else "nothing"


def watched(play: Callable[[], None]) -> str:
    with sessionwatch.watching("log", log=False, rules={"all": "log"}) as watch:
        play()
    return tell("\n".join(render(finding) for finding in watch.findings))


TOOLS: dict[str, Callable[[Callable[[], None]], str]] = {
    "SQLAlchemy": alone,
    "queryspy": queryspy,
    "pytest-queryguard": queryguard,
    "opentelemetry-instrumentation-sqlalchemy": opentelemetry,
    "sessionwatch": watched,
}


@contextlib.contextmanager
def example(slug: str) -> Iterator[Callable[[], None]]:
    """The rule's bad example, ready to be run once, in a database of its own."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        engine = create_engine("sqlite://")
        enforce_foreign_keys(engine)
        models.seed(engine)
        Outcome.errors.clear()
        path = Path(folder) / "bad.py"
        source = examples.example(slug, "Bad")
        yield lambda: examples.run(source, path, engine, NO_WATCH)
        engine.dispose()


class _NoWatch:
    """In place of an installation, for examples that need no clock."""

    class watchdog:  # noqa: N801
        clock: Any = None


NO_WATCH: Any = _NoWatch()


def cell(slug: str, tool: str) -> str:
    """What a tool says of a rule's bad example."""
    with example(slug) as play:
        return TOOLS[tool](play)


def page() -> str:
    """The whole page, as Markdown."""
    examples.suppress = Outcome  # type: ignore[assignment]
    versions = [f"{tool} {importlib.metadata.version(tool)}" for tool in TOOLS]
    today, python, sqlalchemy = f"{datetime.now(UTC):%Y-%m-%d}", sys.version.split()[0], versions[0].split()[1]
    lines = [HEAD.format(date=today, python=python, sqlalchemy=sqlalchemy)]
    lines += [f"| fault | {' | '.join(versions)} |", f"| --- |{' --- |' * len(TOOLS)}"]
    for rule in rules.ALL:
        if rule.slug not in NOT_RUN:
            lines.append(f"| [`{rule.slug}`](rules.md) | {' | '.join(cell(rule.slug, tool) for tool in TOOLS)} |")
            print(lines[-1], file=sys.stderr)
    not_run = ", ".join(f"`{slug}` ({why})" for slug, why in NOT_RUN.items())
    return "\n".join([*lines, "", TAIL.format(not_run=not_run)])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
