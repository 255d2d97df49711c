"""What a program sees and shows under ``sessionwatch run`` is what it sees and shows without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.programs import Outcome, Place

FACTS = """
import json, os, signal, sys
import __main__

def mask(name):
    with open("/proc/self/status") as status:
        bits = int(next(line for line in status if line.startswith(name)).split()[1], 16)
    return bits & ~(0b11 << 31)  # without the two signals that the C library keeps for itself

facts = {
    "argv": sys.argv, "orig_argv": sys.orig_argv, "executable": sys.executable, "flags": str(sys.flags),
    "xoptions": sys._xoptions, "warnoptions": sys.warnoptions, "path": sys.path, "prefix": sys.prefix,
    "main": [__name__, __main__.__dict__.get("__file__"), getattr(__main__.__spec__, "name", None), __package__],
    "modules": sorted(set(sys.modules)), "cwd": os.getcwd(), "group": os.getpgrp(), "session": os.getsid(0),
    "environment": {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SESSIONWATCH_RUN")},
    "files": sorted(os.listdir("/proc/self/fd")), "umask": os.umask(0),
    "handlers": {s.name: str(signal.getsignal(s)) for s in signal.valid_signals() if isinstance(s, signal.Signals)},
    "masks": [mask("SigBlk"), mask("SigIgn"), mask("SigCgt")],
    "stdin": sys.stdin.read(), "encoding": sys.stdout.encoding, "buffered": str(sys.stdout),
}
print(json.dumps(facts, indent=1))
"""
LOSES = "import shop, sys\nshop.lose(shop.make_engine())\n"


def both(place: Place, bare: list[object], watched: list[object], **options: object) -> Outcome:
    """The outcome that a program has without and, in everything, with sessionwatch."""
    expected = place.execute(*bare, **options)
    outcome = place.sessionwatch("run", "--output", "report.txt", *watched, **options)
    assert outcome.out == expected.out
    assert outcome.err == expected.err
    assert outcome == expected
    return expected


def hosted(place: Place, python_path: str, *argv: object) -> Outcome:
    """Run sessionwatch with a PYTHONPATH that its own process was not started with."""
    main = "import os, sys; os.environ['PYTHONPATH'], sys.argv[1:2] = sys.argv[1], []; sys.path.insert(0, {root!r})"
    main = main.format(root=place.env["PYTHONPATH"]) + "; from sessionwatch.command.cli import main; sys.exit(main())"
    return place.python("-c", main, python_path, "run", "--output", "report.txt", *argv)


def as_script(place: Place, name: str, *arguments: object, **options: object) -> Outcome:
    return both(place, [sys.executable, name, *arguments], [name, *arguments], **options)


def test_facts_of_a_script(place: Place) -> None:
    """A script sees the same arguments, path, modules, flags, signals, files and input."""
    place.write("facts.py", FACTS)
    outcome = as_script(place, "facts.py", "--mode", "-m", "--", "x y", stdin=b"some\ninput")
    facts = json.loads(outcome.out)
    assert facts["argv"] == ["facts.py", "--mode", "-m", "--", "x y"]
    assert facts["stdin"] == "some\ninput"


@pytest.mark.parametrize("name", ["jobs.facts", "jobs"])
def test_facts_of_a_module(place: Place, name: str) -> None:
    """``-m`` runs a module or a package's ``__main__`` as Python's own ``-m`` does."""
    place.write("jobs/__init__.py", "")
    place.write("jobs/facts.py", FACTS)
    place.write("jobs/__main__.py", FACTS)
    outcome = both(place, [sys.executable, "-m", name, "-v", "--fail"], ["-m", name, "-v", "--fail"])
    assert json.loads(outcome.out)["argv"][1:] == ["-v", "--fail"]


def test_facts_of_a_folder_and_of_standard_input(place: Place) -> None:
    """A folder with a ``__main__`` and a script on standard input run as with Python."""
    place.write("job/__main__.py", FACTS)
    assert as_script(place, "job", "argument").status == 0
    source = b"import sys; print(sys.argv, __name__)"
    outcome = both(place, [sys.executable, "-", "argument"], ["-", "argument"], stdin=source)
    assert outcome.out == "['-', 'argument'] __main__\n"


def test_facts_of_a_console_script(place: Place) -> None:
    """A command on the path is started by its own first line, and finds itself at the same place."""
    place.write("bin/serve", f"#!{sys.executable} -u\n{FACTS}", mode=0o755)
    env = {"PATH": f"{place.path / 'bin'}{os.pathsep}{place.env['PATH']}"}
    outcome = both(place, [place.path / "bin" / "serve", "--", "-x"], ["--", "serve", "--", "-x"], env=env)
    assert json.loads(outcome.out)["argv"] == [str(place.path / "bin" / "serve"), "--", "-x"]


def test_facts_of_python_as_the_command(place: Place) -> None:
    """``-- python -c`` keeps the name that the interpreter was called by."""
    env = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{place.env['PATH']}"}
    expected = place.execute("python", "-c", FACTS, "x", env=env, executable=sys.executable)
    assert place.sessionwatch("run", "--output", "report.txt", "--", "python", "-c", FACTS, "x", env=env) == expected


@pytest.mark.parametrize("options", [["-X", "dev"], ["-W", "error", "-O"], ["-u", "-X", "utf8=0"], ["-B"]])
def test_options_of_the_interpreter(place: Place, options: list[str]) -> None:
    """What is given to the Python that runs sessionwatch is given to the program."""
    place.write("facts.py", FACTS)
    expected = place.python(*options, "facts.py", "a")
    outcome = place.python(*options, "-m", "sessionwatch", "run", "--output", "report.txt", "facts.py", "a")
    assert outcome == expected


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("sys.exit('not today')", 1),
        ("sys.exit(-1)", 255),
        ("raise SystemExit", 0),
        ("1 / 0", 1),
        ("def f(): f()\nf()", 1),
        ("import os; sys.stdout.flush(); os._exit(4)", 4),
        ("import os; os.abort()", -6),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -15),
        ("raise KeyboardInterrupt", -2),
        ("print('x'", 1),
        ("import atexit; atexit.register(print, 'at exit')\nimport no_such_module", 1),
        ("sys.excepthook = lambda *_: print('own hook'); raise ValueError('é')", 1),
        ("import threading; threading.Thread(target=lambda: 1 / 0, name='t').start()", 0),
        ("shop.Session(None).execute(None)", 1),
    ],
)
def test_every_way_to_end(place: Place, source: str, status: int) -> None:
    """A program that lost an order ends with the status, output and traceback that it has by itself."""
    place.write("job.py", LOSES + "print('begun', flush=True)\n" + source)
    outcome = as_script(place, "job.py")
    assert outcome.status == status


HOST_ERRORS = """
import asyncio, traceback, shop
from sqlalchemy import ForeignKey, event, text
from sqlalchemy.orm import Mapped, mapped_column, relationship, scoped_session, sessionmaker, validates
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

class Item(shop.Base):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    parts: Mapped[list["Part"]] = relationship()

    @validates("name", "parts")
    def check(self, key, value):
        raise ValueError(key)

class Part(shop.Base):
    __tablename__ = "parts"
    id: Mapped[int] = mapped_column(primary_key=True)
    item_id: Mapped[int] = mapped_column(ForeignKey("items.id"))

engine = shop.make_engine()

def wrong_keyword():
    shop.Session(engine, wrong=1)

def wrong_query():
    with shop.Session(engine) as session:
        session.execute(text("select nothing"))

def wrong_row():
    with shop.Session(engine) as session, session.begin():
        session.add(shop.Order(status=["no text"]))

def raised_in_block():
    with shop.Session(engine) as session:
        session.add(shop.Order())
        session.flush()
        raise LookupError("mine")

def raised_in_begin():
    with sessionmaker(engine).begin() as session:
        session.add(shop.Order())
        raise LookupError("mine")

def unusable():
    session = shop.Session(engine)
    session.add(shop.Order(status=["no text"]))
    try:
        session.flush()
    finally:
        session.execute(text("select 1"))

def registry():
    registry = scoped_session(sessionmaker(engine))
    registry(wrong=1)

def listener():
    session = shop.Session(engine)
    event.listen(session, "after_transaction_end", lambda *_: 1 / 0)
    session.execute(text("select 1"))
    session.close()

def attribute():
    shop.Order(unknown=1)

def refused_member():
    Item().parts.append(Part())

def refused_delete():
    del Item().name

async def async_keyword():
    AsyncSession(wrong=1)

async def async_block():
    async with AsyncSession(create_async_engine("sqlite+aiosqlite://")) as session:
        raise LookupError("mine")

async def in_task():
    async with AsyncSession(create_async_engine("sqlite+aiosqlite://")) as session:
        await session.execute(text("select nothing"))

for function in (wrong_keyword, wrong_query, wrong_row, raised_in_block, raised_in_begin, unusable, registry, listener,
                 attribute, refused_member, refused_delete, lambda: asyncio.run(async_keyword()),
                 lambda: asyncio.run(async_block()), lambda: asyncio.run(in_task())):
    try:
        function()
    except Exception:
        traceback.print_exc()
"""


def test_errors_of_the_host(place: Place) -> None:
    """Errors that SQLAlchemy or the program raises have the traceback that they have without us.

    One of them is a finding, whose story would be added as a note: that rule is off.
    """
    place.env["SESSIONWATCH_RULES"] = "swallowed-error=off"
    place.write("job.py", HOST_ERRORS)
    assert as_script(place, "job.py").err.count("Traceback") >= 15


def test_error_of_a_validator(place: Place) -> None:
    """An assignment that the program refuses shows no line of ours (nor of SQLAlchemy's ``__set__``, written anew)."""
    classes, _, _ = HOST_ERRORS.partition("def wrong_keyword")
    place.write("job.py", classes + "Item().name = 'wrong'\n")
    frames = frames_of(place.python("job.py"))
    watched = frames_of(place.sessionwatch("run", "--output", "report.txt", "job.py"))
    assert watched == [frame for frame in frames if not frame.partition("\n")[0].endswith("in __set__")]
    assert len(watched) == len(frames) - 1


def frames_of(outcome: Outcome) -> list[str]:
    assert outcome.status == 1
    return outcome.err.split("\n  File ")


def test_finding_survives_every_end(place: Place) -> None:
    """What was found before ``os._exit``, an exception or a signal is in the report."""
    for end in ("import os; os._exit(4)", "raise ValueError", "import os; os.kill(os.getpid(), 9)"):
        place.write("job.py", LOSES + end)
        _, findings = place.run("job.py")
        assert [finding["rule"] for finding in findings] == ["lost-writes"]


def test_own_sitecustomize_still_runs(place: Place) -> None:
    """A ``sitecustomize`` of the user's runs before the program, under its own name and once."""
    place.write("site/sitecustomize.py", "print('mine', __name__, __file__)\nVALUE = 1\n")
    place.write("job.py", LOSES + "import sitecustomize; print(sitecustomize.VALUE, sitecustomize.__file__)")
    path = f"{place.env['PYTHONPATH']}{os.pathsep}{place.path / 'site'}"
    expected = place.python("job.py", env={"PYTHONPATH": path})
    assert hosted(place, path, "job.py") == expected
    assert expected.out.count("mine") == 1
    assert "sessionwatch: 1 fault" in (place.path / "report.txt").read_text()


@pytest.mark.parametrize("source", ["1 / 0", "import no_such_module", "raise ImportError('sitecustomize')"])
def test_failing_sitecustomize_is_reported_as_ever(place: Place, source: str) -> None:
    """An error in the user's ``sitecustomize`` is shown as Python shows it, and the watch is on all the same."""
    place.write("site/sitecustomize.py", source)
    place.write("job.py", LOSES)
    path = f"{place.env['PYTHONPATH']}{os.pathsep}{place.path / 'site'}"
    expected = place.python("job.py", env={"PYTHONPATH": path})
    assert hosted(place, path, "job.py") == expected
    assert "Error in sitecustomize" in expected.err
    assert "sessionwatch: 1 fault" in (place.path / "report.txt").read_text()


def test_inherited_files_reach_the_program(place: Place) -> None:
    """A pipe that the caller left open for the program is open in the program."""
    place.write("job.py", "import os, sys; os.write(int(sys.argv[1]), b'through the pipe')")
    reader, writer = os.pipe()
    outcome = place.sessionwatch("run", "job.py", writer, pass_fds=[writer])
    os.close(writer)
    with open(reader, "rb") as stream:
        assert (outcome.status, stream.read()) == (0, b"through the pipe")


@pytest.mark.parametrize("value", ["", "/nowhere", "relative"])
def test_python_path_of_the_program(place: Place, value: str) -> None:
    """The program's own PYTHONPATH applies, and an empty one does not turn into the working directory."""
    place.write("job/facts.py", FACTS)
    assert hosted(place, value, "job/facts.py") == place.python("job/facts.py", env={"PYTHONPATH": value})


def test_program_without_sqlalchemy_is_left_alone(place: Place) -> None:
    """A program that never imports SQLAlchemy never gets wrapt, json or sessionwatch into its process."""
    place.write("job.py", "import sys; print(sorted(set(sys.modules) & {'wrapt', 'json', 'sessionwatch', 'atexit'}))")
    outcome = place.sessionwatch("run", "job.py")
    assert (outcome.status, outcome.out) == (0, "[]\n")
    assert outcome.err == "sessionwatch: no findings (no process imported sqlalchemy.orm)\n"


def test_engines_take_their_arguments(tmp_path: Path) -> None:
    """``create_engine()`` reads the parameters of the engine's class, in a program that imports no ORM, too."""
    program = tmp_path / "program.py"
    program.write_text(
        "from sqlalchemy import create_engine, text\n"
        "engine = create_engine('sqlite://', echo=False, logging_name='shop', hide_parameters=True)\n"
        "with engine.connect() as connection:\n"
        "    print(connection.scalar(text('SELECT 42')))\n"
    )
    command = [sys.executable, "-m", "sessionwatch", "run", str(program)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
