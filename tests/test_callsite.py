"""The call site: whose code a frame is, and which of the user's lines a thing happened at."""

from __future__ import annotations

import _thread
import asyncio
import json
import os
import socketserver
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import greenlet
import jinja2
import pytest
from sqlalchemy.orm import Session

import sessionwatch
from sessionwatch.frames import callsite
from sessionwatch.frames.callsite import LIBRARY, STOP, THROUGH, USER, caller, kind_of, mark, on_stack, site
from sessionwatch.model import RawSite, Site
from tests.rules.places import line

PACKAGES = sysconfig.get_path("purelib")
STDLIB = sysconfig.get_path("stdlib")
ROOT = str(Path(__file__).parents[1])


@pytest.fixture(autouse=True)
def _no_source() -> Iterator[None]:
    """Each test begins and ends without folders that count as the user's."""
    callsite.treat_as_user(())
    yield
    callsite.treat_as_user(())


def layer(path: str, **namespace: Any) -> Callable[..., Any]:
    """A function that calls its argument, in a module whose file is said to be ``path``."""
    names: dict[str, Any] = {"__name__": "layer", "__file__": path, **namespace}
    exec(compile("def call(inner, *given):\n    return inner(*given)\n", path, "exec"), names)
    function: Callable[..., Any] = names["call"]
    return function


def frame_of(path: str, **namespace: Any) -> FrameType:
    """A frame of a module whose file is said to be ``path``."""
    frame: FrameType = layer(path, **namespace)(sys._getframe, 0)
    return frame


def package(name: str) -> str:
    return os.path.join(PACKAGES, name, "module.py")


def resolved(place: RawSite | None) -> Site:
    assert place is not None
    return place.resolve()


def hidden(text: str, name: str, **namespace: Any) -> Callable[..., Any]:
    """A function of SQLAlchemy's own, which the walk looks through."""
    names = {"sys": sys, "__name__": "sqlalchemy.layer", **namespace}
    exec(compile(text, package("sqlalchemy"), "exec"), names)
    function: Callable[..., Any] = names[name]
    return function


through = layer(package("sqlalchemy"))
library = layer(package("framework"))
take = hidden("def take(*_):\n    return site(sys._getframe())\n", "take", site=site)
look = hidden(
    "def look(*codes):\n    return caller(sys._getframe(), (*codes, *(None,) * (4 - len(codes))))\n",
    "look",
    caller=caller,
)


# -- kinds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/shop/views.py", USER),
        (os.path.join(ROOT, "shop", "views.py"), USER),
        (package("fastapi"), LIBRARY),
        ("/usr/lib/python3/dist-packages/flask/app.py", LIBRARY),
        ("/srv/venv/lib/python3.11/site-packages/shop/views.py", LIBRARY),
        (package("sqlalchemy"), THROUGH),
        (package("greenlet"), THROUGH),
        (package("wrapt"), THROUGH),
        (package("sqlalchemy_utils"), LIBRARY),
        (package("flask_sqlalchemy"), LIBRARY),
        (os.path.join(STDLIB, "contextlib.py"), THROUGH),
        (os.path.join(STDLIB, "asyncio", "tasks.py"), THROUGH),
        (os.path.join(ROOT, "sessionwatch", "watch.py"), THROUGH),
        (os.path.join(ROOT, "sessionwatch", "demo", "faulty", "main.py"), USER),
        ("/srv/src/site-packages.py", USER),
        ("<frozen importlib._bootstrap>", THROUGH),
        ("<stdin>", USER),
        ("<python-input-3>", USER),
        ("<ipython-input-3-abcdef>", USER),
        ("<console>", USER),
    ],
)
def test_the_kind_of_a_file(path: str, kind: int) -> None:
    """A file is the user's, a library's, or one that is looked through."""
    assert kind_of(frame_of(path)) == kind


def test_the_kind_of_an_event_loop() -> None:
    """The functions that run other people's callbacks end the walk."""
    names: dict[str, Any] = {"sys": sys, "__name__": "asyncio.events"}
    path = os.path.join(STDLIB, "asyncio", "events.py")
    exec(compile("def _run(self):\n    return sys._getframe()\n", path, "exec"), names)
    assert kind_of(names["_run"](None)) == STOP


def test_generated_code_of_sqlalchemy_is_looked_through() -> None:
    """Functions that SQLAlchemy compiles at run time, with either line's file name."""
    for path in ("<string>", "<sqlalchemy generated _go() wrapper>"):
        assert kind_of(frame_of(path, __name__="sqlalchemy.orm.session")) == THROUGH


def test_generated_methods_are_looked_through() -> None:
    """What a module generates, as dataclasses do, is not a line that anyone can open."""
    assert kind_of(frame_of("<string>", __file__="/srv/shop/models.py")) == THROUGH


def test_a_program_on_the_command_line_is_the_users() -> None:
    """``python -c`` runs ``<string>`` in a module without a file."""
    names: dict[str, Any] = {"sys": sys, "__name__": "__main__"}
    exec(compile("frame = sys._getframe()", "<string>", "exec"), names)
    assert kind_of(names["frame"]) == USER


def test_a_template_is_not_the_users_line() -> None:
    """A compiled Jinja template belongs to the line that rendered it, wherever its file lies."""
    assert kind_of(frame_of("/srv/shop/templates/order.html", __jinja_template__=object())) == LIBRARY


def test_equal_code_of_two_files_is_told_apart() -> None:
    """Two files with the same text have equal code objects, of different kinds."""
    mine, theirs = frame_of("/srv/shop/views.py"), frame_of(package("shop"))
    assert mine.f_code == theirs.f_code
    assert [kind_of(frame) for frame in (mine, theirs, mine)] == [USER, LIBRARY, USER]


def test_a_folder_can_be_declared_the_users() -> None:
    """``source``: an installed package counts as the program's own; its neighbour does not."""
    callsite.treat_as_user((os.path.join(PACKAGES, "shop"),))
    assert kind_of(frame_of(package("shop"))) == USER
    assert kind_of(frame_of(package("shopping"))) == LIBRARY


def test_the_setting_source_reaches_the_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """install(source=…) moves the place of a session's opening into the declared folder."""
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    folder = tmp_path / "site-packages" / "shop"
    make = layer(str(folder / "db.py"))
    for source, expected in (([], __file__), ([str(folder)], str(folder / "db.py"))):
        with sessionwatch.watching("log", source=source, log=False):
            session = make(Session)
            opened = session.__dict__["_sessionwatch"].opened
        assert resolved(opened.site).path == expected


def test_what_is_remembered_of_code_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that compiles code without end does not fill memory, and kinds stay right."""
    monkeypatch.setattr(callsite, "_MEMO_LIMIT", 10)
    for number in range(100):
        assert kind_of(frame_of(f"/srv/shop/{number}.py")) == USER
        assert kind_of(frame_of(package(f"library{number}"))) == LIBRARY
    assert len(callsite._kinds) <= 11
    assert len(callsite._codes) <= 11


# -- the user's line ----------------------------------------------------------------------------------


def test_the_calling_line() -> None:
    """The line that called into SQLAlchemy, and the function's qualified name."""
    found = resolved(through(through, take))  # direct
    assert (found.line, found.function) == (line("direct"), "test_the_calling_line")


def test_a_library_between_is_passed_over() -> None:
    """The user's line is the one that called the library that called SQLAlchemy."""
    assert resolved(library(through, take)).line == line("passed over")  # passed over


def test_a_callback_inside_a_library_is_the_users() -> None:
    """The innermost of the user's lines counts, not the outermost."""

    def callback() -> RawSite | None:
        place: RawSite | None = through(take)  # callback
        return place

    found = resolved(library(callback))
    assert (found.line, found.function) == (line("callback"), "callback")


def test_the_standard_library_between_is_passed_over() -> None:
    """An encoder of the standard library that calls back is not the user's line."""
    places: list[RawSite | None] = []
    note = hidden("def note(item):\n    places.append(take())\n", "note", places=places, take=take)
    json.dumps({"x": object()}, indent=1, default=note)  # encoder
    assert resolved(places[0]).line == line("encoder")


def test_a_template_is_passed_over() -> None:
    """What a template calls is blamed on the line that rendered the template."""
    places: list[RawSite | None] = []
    note = hidden("def note():\n    places.append(take())\n", "note", places=places, take=take)
    template = jinja2.Environment(autoescape=True).from_string("{% for x in (1, 2) %}{{ read() }}{% endfor %}")
    template.render(read=note)  # render
    assert [resolved(place).line for place in places] == [line("render")] * 2


def test_a_template_in_a_file_is_passed_over(tmp_path: Path) -> None:
    """The same for a template that was loaded from the user's own folder."""
    places: list[RawSite | None] = []
    note = hidden("def note():\n    places.append(take())\n", "note", places=places, take=take)
    (tmp_path / "order.html").write_text("{% macro show() %}{{ read() }}{% endmacro %}{{ show() }}", encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, loader=jinja2.FileSystemLoader(tmp_path))
    environment.get_template("order.html").render(read=note)  # render file
    assert [resolved(place).line for place in places] == [line("render file")]


def test_without_the_users_code_a_library_is_better_than_nothing() -> None:
    """A thread that a library runs by itself: the library's place, which is not said to be the user's."""
    run = hidden("def run():\n    return library(take)\n", "run", library=library, take=take)
    place = in_thread(run, "pool")
    assert resolved(place).path == package("framework")
    assert not callsite.is_user(place)


# -- greenlets ----------------------------------------------------------------------------------------


def test_the_walk_goes_on_outside_of_a_greenlet() -> None:
    """SQLAlchemy's frames in a greenlet belong to the line that switched into it."""
    assert resolved(greenlet.greenlet(through).switch(take)).line == line("switch")  # switch


def test_the_walk_goes_on_through_nested_greenlets() -> None:
    """A greenlet inside a greenlet, neither of them with the user's code."""
    inner = hidden("def inner():\n    return greenlet(take).switch()\n", "inner", greenlet=greenlet.greenlet, take=take)
    assert resolved(greenlet.greenlet(inner).switch()).line == line("nested")  # nested


def test_users_code_inside_a_greenlet_comes_first() -> None:
    """As for run_sync: the function that runs in the greenlet."""

    def inside() -> Any:
        return through(take)  # inside

    assert resolved(greenlet.greenlet(inside).switch()).line == line("inside")


def test_a_code_is_found_on_the_stack_across_greenlets() -> None:
    """on_stack() looks outside of the greenlet, too."""
    here, absent = sys._getframe().f_code, layer("/srv/absent.py").__code__
    found = hidden("def found(code):\n    return on_stack(sys._getframe(), code)\n", "found", on_stack=on_stack)
    assert greenlet.greenlet(found).switch(here)
    assert not greenlet.greenlet(found).switch(absent)


# -- event loops --------------------------------------------------------------------------------------


def test_a_callback_of_an_event_loop_has_no_user() -> None:
    """Whoever runs the loop did not call what the loop runs."""
    places: list[RawSite | None] = []

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        text = "def note():\n    places.append(library(take))\n    done.set_result(None)\n"
        loop.call_soon(hidden(text, "note", places=places, library=library, take=take, done=done))
        await done

    asyncio.run(serve())
    assert [resolved(place).path for place in places] == [package("framework")]


def test_a_servers_loop_has_no_user() -> None:
    """The same for a server of the standard library."""
    places: list[RawSite | None] = []
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:
        text = "def note():\n    places.append(library(take))\n    server._BaseServer__shutdown_request = True\n"
        note = hidden(text, "note", places=places, library=library, take=take, server=server)
        server.service_actions = note  # type: ignore[method-assign]
        server.serve_forever(poll_interval=0.01)
    assert [resolved(place).path for place in places] == [package("framework")]


async def test_an_awaiting_coroutine_is_the_user() -> None:
    """Inside a task, the coroutines that await are on the stack."""

    async def inner() -> Any:
        return library(through, take)  # coroutine

    async def outer() -> Any:
        return await inner()

    found = resolved(await asyncio.create_task(outer()))
    assert (found.line, found.function) == (line("coroutine"), "inner")


# -- who calls ----------------------------------------------------------------------------------------


def test_a_direct_caller_is_not_a_framework() -> None:
    """The user called SQLAlchemy."""
    raw, in_framework, generator, seen = look()  # look
    assert (in_framework, generator, seen) == (False, None, -1)
    assert resolved(callsite.looked_at(raw).site).line == line("look")


def test_a_call_through_a_framework_is_told() -> None:
    """A library called SQLAlchemy on the user's behalf."""
    _, direct, _, _ = library(look)
    _, by_the_user, _, _ = library(lambda: look())
    assert (direct, by_the_user) == (True, False)


def test_a_generator_that_calls_is_told() -> None:
    """A generator's own code, but not a coroutine's."""

    def generate() -> Iterator[Any]:
        yield look()

    _, _, generator, _ = next(generate())
    assert generator is generate.__code__


async def test_an_async_generator_that_calls_is_told() -> None:
    """An async generator is one; a coroutine is none."""

    async def generate() -> Any:
        yield look()

    async for _, _, generator, _ in generate():
        assert generator is generate.__code__
    _, _, generator, _ = look()
    assert generator is None


def test_a_wanted_code_on_the_way_is_told() -> None:
    """The index of the code that was passed, and -1 where none of them was."""
    absent = hidden("def absent():\n    pass\n", "absent").__code__
    _, _, _, passed = library(look, absent, library.__code__)
    _, _, _, not_passed = look(absent, library.__code__)
    assert (passed, not_passed) == (1, -1)


# -- names --------------------------------------------------------------------------------------------


def in_thread(function: Callable[[], Any], name: str) -> Any:
    """What a function returns in a thread of that name, below no code of the user's."""
    results: list[Any] = []
    run = hidden("def run():\n    results.append(function())\n", "run", results=results, function=function)
    thread = threading.Thread(target=run, name=name)
    thread.start()
    thread.join()
    return results[0]


def test_thread_names() -> None:
    """A mark carries the name of the thread that it was taken in."""
    assert in_thread(lambda: mark(sys._getframe()).thread, "worker-3") == "worker-3"
    assert mark(sys._getframe()).thread == threading.current_thread().name


def test_a_thread_that_python_did_not_start() -> None:
    """It has a name made of its number, and no dummy thread is registered for it."""
    results: list[Any] = []
    done = threading.Event()

    def work() -> None:
        results.extend([callsite.thread_name(), _thread.get_ident(), _thread.get_ident() in threading._active])  # type: ignore[attr-defined]
        done.set()

    _thread.start_new_thread(work, ())
    assert done.wait(20)
    name, ident, registered = results
    assert name == f"thread-{ident}"
    assert not registered


async def test_task_names() -> None:
    """A mark carries the name of the running task."""

    async def work() -> str | None:
        return mark(sys._getframe()).task

    assert await asyncio.create_task(work(), name="worker-3") == "worker-3"


async def test_a_task_that_is_not_in_the_known_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where asyncio keeps its tasks elsewhere, its public function is asked."""
    monkeypatch.setattr(callsite, "_tasks", {})
    task = asyncio.current_task()
    assert task is not None
    assert callsite.task_name() == task.get_name()


def test_half_imported_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    """While asyncio is being imported there is no task; once it is there, it is asked."""
    monkeypatch.setattr(callsite, "_running_loop", None)
    monkeypatch.setitem(sys.modules, "asyncio", ModuleType("asyncio"))
    assert callsite.task_name() is None
    monkeypatch.setitem(sys.modules, "asyncio", asyncio)

    async def named() -> str | None:
        return callsite.task_name()

    async def main() -> str | None:
        return await asyncio.create_task(named(), name="worker-4")

    assert asyncio.run(main()) == "worker-4"


async def test_a_thread_beside_the_loop_has_no_task() -> None:
    """A worker thread of a running program has no task; a callback of the loop has none either."""
    assert await asyncio.to_thread(callsite.task_name) is None
    called: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(lambda: called.set_result(callsite.task_name()))
    assert await called is None


def test_without_a_loop_there_is_no_task() -> None:
    """A plain program has no task."""
    assert callsite.task_name() is None


# -- whole programs -----------------------------------------------------------------------------------

PROGRAM = """
import sessionwatch
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from tests.rules import models

sessionwatch.install(output={output!r}, log=False, rules={{"config": "off"}})
engine = create_engine("sqlite:///{database}")
models.create(engine)
session = Session(engine)
session.add(models.Order())
session.flush()
session.close()
"""


COMPREHENSIONS = """
listed = [here() for _ in "1"] + [there for _ in "1" for there in [here() for _ in "1"]]
module = {*listed, *(here() for _ in "1")}
class Shop:
    listed = [[here() for _ in "1"] for _ in "1"][0] + list({here(): here() for _ in "1"})
    class Till:
        listed = {here() for _ in "1"}
    def method(self):
        yield from [[here() for _ in "1"] for _ in "1"][0]
        yield from {here() for _ in "1"}
        yield from {here(): here() for _ in "1"}
    def others(self):
        yield from (here() for _ in "1")
        yield from (there for _ in "1" for there in [here() for _ in "1"])
        yield from (lambda: [here() for _ in "1"])()
        yield from [(lambda: here())() for _ in "1"]
        yield from [there for _ in "1" for there in (here() for _ in "1")]
        yield from (there for there in (lambda: (lambda: (here() for _ in "1"))())())
    late = lambda self: [here() for _ in "1"]
lambdas = [lambda: here(), *(lambda: here() for _ in "1"), lambda: (lambda: [*(here() for _ in "1")][0])()]
def function():
    class Local:
        listed = [here() for _ in "1"]
    def inner():
        return [here() for _ in "1"]
    def later():
        return lambda: here()
    return [Local.listed, inner(), later()()]
"""


def test_a_comprehension_is_what_is_around_it() -> None:
    """Comprehensions and generator expressions are no functions, whatever the version, nor is a lambda within one."""
    names: dict[str, Any] = {"here": lambda: resolved(site(sys._getframe(1))).function, "__name__": "made"}
    exec(compile(COMPREHENSIONS, "made.py", "exec"), names)
    shop = names["Shop"]()
    assert names["module"] == {"<module>"}
    assert names["listed"] == ["<module>"] * 2
    assert shop.listed == ["Shop"] * 2
    assert shop.Till.listed == {"Shop.Till"}
    assert [*shop.method()] == ["Shop.method"] * 3
    assert [*shop.others()] == ["Shop.others"] * 6
    assert names["function"]() == [["Local"], ["inner"], "later"]


def test_a_lambda_in_no_function_has_no_other_name() -> None:
    """On a module's level nothing else tells it from the module's own code; in a class its name is its class's."""
    names: dict[str, Any] = {"here": lambda: resolved(site(sys._getframe(1))).function, "__name__": "made"}
    exec(compile(COMPREHENSIONS, "made.py", "exec"), names)
    assert [call() for call in names["lambdas"]] == ["<lambda>"] * 3
    assert names["Shop"]().late() == ["Shop.<lambda>"]


@pytest.mark.parametrize(("how", "path"), [("-c", "<string>"), ("-", "<stdin>")])
def test_a_program_without_a_file(tmp_path: Path, how: str, path: str) -> None:
    """A program on the command line or from a pipe is the user's code, with its line numbers."""
    output = tmp_path / "findings.jsonl"
    text = PROGRAM.format(output=str(output), database=tmp_path / "program.db")
    command = [sys.executable, "-c", text] if how == "-c" else [sys.executable, "-"]
    run = subprocess.run(
        command, input=text, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": ROOT}
    )
    assert (run.returncode, run.stderr) == (0, "")
    (found,) = [json.loads(entry) for entry in output.read_text(encoding="utf-8").splitlines()]
    assert (found["rule"], found["path"], found["line"], found["function"]) == ("lost-writes", path, 13, "<module>")


TYPED = """
import logging, sessionwatch
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from tests.rules import models

logging.basicConfig(format="%(message)s")
watch = sessionwatch.install(rules={{"config": "off"}})
engine = create_engine("sqlite:///{database}")
models.create(engine)
def lose():
    session = Session(engine)
    session.add(models.Order())
    session.flush()
    session.close()

lose(); lose()
session = Session(engine)
session.add(models.Order())
session.flush()
session.close()
session = Session(engine)
session.add(models.Order())
session.flush()
session.close()
print([(finding.line, finding.count) for finding in watch.findings])
"""


def test_a_prompt(tmp_path: Path) -> None:
    """What is typed into an interpreter is told for each statement, though each of them is at line 1."""
    text = TYPED.format(database=tmp_path / "program.db")
    run = subprocess.run(
        [sys.executable, "-i", "-q"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": ROOT, "PYTHON_BASIC_REPL": "1"},
    )
    assert (run.returncode, run.stdout) == (0, "[(5, 2), (1, 1), (1, 1)]\n")
    assert run.stderr.count("lost-writes: 1 Order object was written") == 3
