"""The pytest plugin: what strict mode costs, whom it blames, and that it leaves other people's fixtures alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.test_pytest_plugin import Project, project, text  # noqa: F401 (a fixture)

pytest_plugins = ["pytester"]

FILES = """
    engine = create_engine("sqlite:///shop.db")
    Base.metadata.create_all(engine)
"""


def errors(result: pytest.RunResult) -> list[str]:
    """The tests that pytest's last lines name, with what they say of each."""
    return [line.partition(" - ")[0] for line in result.outlines if line.startswith(("ERROR ", "FAILED "))]


# -- cost ---------------------------------------------------------------------------------------------


COUNTING = """
import gc
counted, frozen = [], []

def noted(phase, about):
    if phase == "start":
        counted.append(about["generation"])

def pytest_runtest_setup(item):
    if noted not in gc.callbacks:
        gc.disable()  # what is counted is what somebody asks for
        gc.callbacks.append(noted)

def pytest_runtest_logfinish(nodeid):
    frozen.append(gc.get_freeze_count())
    print("after", nodeid.partition("::")[2], *counted, flush=True)
    counted.clear()

def pytest_sessionfinish():
    print("frozen", max(frozen), flush=True)
"""


def test_the_collector_runs_only_for_an_open_session_of_the_test(project: Project) -> None:  # noqa: F811
    """A session that somebody else has open costs no collection; one that the test dropped is found young first."""
    (project.path / "conftest.py").write_text(COUNTING)
    project.write("""
        kept = []
        shared = Session(engine)
        shared.scalars(select(Order)).all()

        @pytest.fixture(scope="module")
        def wide():
            with Session(engine) as session:
                session.scalars(select(Order)).all()
                yield session

        @pytest.fixture
        def narrow():
            with Session(engine) as session:
                yield session

        def test_nothing(): pass
        def test_wide(wide): wide.scalars(select(Order)).all()
        def test_narrow(narrow): narrow.scalars(select(Order)).all()
        def test_own():
            with Session(engine) as session:
                session.scalars(select(Order)).all()
        def test_dropped():
            session = Session(engine)
            session.me = session
            session.scalars(select(Order)).all()
        def test_kept():
            kept.append(Session(engine))
            kept[0].scalars(select(Order)).all()
        def test_after(): pass
        def test_closes(): shared.close()
    """)
    result = project.run("-s", "-q")
    lines = [line.lstrip(".FE") for line in result.outlines]
    assert [line for line in lines if line.startswith("after")] == [
        "after test_nothing",
        "after test_wide",
        "after test_narrow",
        "after test_own",
        "after test_dropped 0",
        "after test_kept 0 1 0 1 2",
        "after test_after",
        "after test_closes",
    ]
    assert "frozen 0" in lines
    assert errors(result) == ["FAILED test_it.py::test_dropped", "ERROR test_it.py::test_kept"]


# -- fixtures -----------------------------------------------------------------------------------------


def test_a_fixture_cleans_up_before_its_finding_is_told(project: Project) -> None:  # noqa: F811
    """What is found in a fixture fails the report of its test, and is never raised into the fixture."""
    project.write(
        FILES
        + """
    done = []

    @pytest.fixture
    def session():
        with Session(engine) as session:
            yield session
        done.append("cleaned")

    @pytest.fixture
    def prepared():
        lose()
        return "prepared"

    def test_loses(session):
        session.add(Order())
        session.flush()

    def test_cleaned(): assert done == ["cleaned"]

    def test_asks_for_it(request): assert request.getfixturevalue("prepared") == "prepared"

    def test_itself():
        with pytest.raises(Exception, match="lost-writes"):
            lose()
    """
    )
    result = project.run()
    result.assert_outcomes(passed=2, failed=2, errors=1)
    assert errors(result) == [
        "FAILED test_it.py::test_asks_for_it",
        "FAILED test_it.py::test_itself",
        "ERROR test_it.py::test_loses",
    ]


def test_a_test_case_cleans_up_before_its_finding_is_told(project: Project) -> None:  # noqa: F811
    """The same for setUp, tearDown and cleanups of unittest, also those of asyncio."""
    project.write("""
        import unittest
        done = []

        class Case(unittest.TestCase):
            def setUp(self):
                lose()
                done.append("setUp")
            def test_it(self): done.append("test")
            def tearDown(self):
                lose()
                done.append("tearDown")

        class Coroutines(unittest.IsolatedAsyncioTestCase):
            def setUp(self):
                def cleanup():
                    lose()
                    done.append("cleanup")
                self.addCleanup(cleanup)
            async def test_it(self): pass
            async def asyncTearDown(self):
                lose()
                done.append("asyncTearDown")

        def test_done():
            assert done == ["setUp", "test", "tearDown", "asyncTearDown", "cleanup"]
    """)
    project.run().assert_outcomes(failed=2, passed=1)


def test_a_failing_test_case_keeps_the_story(project: Project) -> None:  # noqa: F811
    """Where a TestCase fails by itself, the finding that its code swallowed stands beside the failure."""
    project.write("""
        import unittest
        class Case(unittest.TestCase):
            def test_it(self):
                swallow()
                self.assertEqual("its own", "failure")
    """)
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["E *AssertionError: 'its own' != 'failure'*", "*Captured sessionwatch call*", "lost-writes: *"]
    )


# -- blame --------------------------------------------------------------------------------------------


def test_a_leak_is_told_to_its_own_test(project: Project) -> None:  # noqa: F811
    """A session that a fixture hands out and nobody closes is an error of each test that it was opened for."""
    project.write("""
        @pytest.fixture
        def session():
            return Session(create_engine("sqlite://"))

        def test_leaks(session): session.connection()
        def test_innocent(): pass
        def test_leaks_last(session): session.connection()
    """)
    result = project.run("-v")
    result.assert_outcomes(passed=3, errors=2)
    assert errors(result) == ["ERROR test_it.py::test_leaks", "ERROR test_it.py::test_leaks_last"]
    result.stdout.fnmatch_lines(
        [
            "session-leak: a session was open at the end of the fixture 'session' with its connection checked out",
            "  set up by * the fixture 'session', scope function, for test_it.py::test_leaks",
        ]
    )


@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_writes_are_told_to_the_test_that_wrote(project: Project, workers: tuple[str, ...]) -> None:  # noqa: F811
    """Who closes the session later is not blamed: neither a test nor a fixture of a wider scope."""
    project.write(
        FILES
        + """
    @pytest.fixture(scope="module")
    def session():
        with Session(engine) as session:
            yield session

    other = create_engine("sqlite:///other.db")
    Base.metadata.create_all(other)
    kept = Session(other)

    def test_writes(session):
        session.add(Order())
        session.flush()
    def test_reads(session): session.scalars(select(Order)).all()
    def test_writes_elsewhere():
        kept.add(Order())
        kept.flush()
    def test_closes(): kept.close()
    @pytest.mark.sessionwatch(mode="log")
    def test_may_write():
        kept.add(Order())
        kept.flush()
    def test_closes_again(): kept.close()
    """
    )
    result = project.run(*workers)
    result.assert_outcomes(passed=6, errors=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert sorted(errors(result)) == ["ERROR test_it.py::test_writes", "ERROR test_it.py::test_writes_elsewhere"]
    result.stdout.fnmatch_lines(["sessionwatch: 1 finding after its test had ended: lost-writes"])


def test_a_wider_fixture_is_told_at_its_own_end(project: Project) -> None:  # noqa: F811
    """A module's fixture may keep its session open through all tests, but not longer, and is named."""
    project.write("""
        @pytest.fixture(scope="class")
        def session():
            return Session(engine)

        class TestFirst:
            def test_1(self, session): session.connection()
            def test_2(self, session): session.connection()
        def test_innocent(): pass
    """)
    result = project.run()
    result.assert_outcomes(passed=3, errors=1)
    assert errors(result) == ["ERROR test_it.py::TestFirst::test_2"]
    result.stdout.fnmatch_lines(["session-leak: a session was open at the end of the fixture 'session' with *"])


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_open_at_the_end_of_the_run(project: Project, workers: tuple[str, ...]) -> None:  # noqa: F811
    """A registry that nobody empties fails the run and names the test; one that is emptied later does not."""
    project.write(
        FILES
        + """
    from sqlalchemy.orm import scoped_session, sessionmaker
    Db, Other = scoped_session(sessionmaker(engine)), scoped_session(sessionmaker(engine))

    def test_reads():
        Other.scalars(select(Order)).all()
    def test_removes():
        Other.remove()
    def test_signup():
        Db.add(Order())
        Db.flush()
    def test_last(): pass
    """
    )
    result = project.run(*workers, *(["--dist", "loadfile"] if workers else []))
    result.assert_outcomes(passed=4, errors=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert errors(result) == ["ERROR test_it.py::test_signup"]
    result.stdout.fnmatch_lines(["lost-writes: 1 Order object was written, but the run ended without a commit"])


def test_run_and_the_ini_file_together(project: Project) -> None:  # noqa: F811
    """``run --fail -- pytest`` reports what is open at the end of a strict run, and fails."""
    project.write("""
        from sqlalchemy.orm import scoped_session, sessionmaker
        Db = scoped_session(sessionmaker(engine))
        def test_signup(): Db.connection()
    """)
    command = [sys.executable, "-m", "sessionwatch", "run", "--fail", "-m", "pytest", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=project.path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "sessionwatch: 1 fault\n" in done.stderr
    assert "\nA  FAULT  session-leak  " in done.stderr
    assert "ERROR test_it.py::test_signup" in done.stdout


# -- while it lasts, and mistakes ---------------------------------------------------------------------


def test_a_long_transaction_is_told_while_it_lasts(
    project: Project,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where a test stands still in a transaction, the terminal says so at once, though output is captured."""
    monkeypatch.setenv("SESSIONWATCH_SETTINGS", "long-session.idle=0.05")
    project.write("""
        from threading import Event
        def test_stands_still(sessionwatch):
            told = Event()
            sessionwatch.watch.subscribe(lambda finding, first: told.set())
            with Session(engine) as session:
                session.connection()
                assert told.wait(20)
            print("captured")
    """)
    result = project.run()
    result.assert_outcomes(passed=1)
    shown = result.stdout.str()
    assert shown.index("long-session: ") < shown.index("passed")
    assert "1 finding while a test runs: long-session" in shown
    assert "captured" not in shown


@pytest.mark.parametrize("option", ["--sessionwatch-update-baseline", "--sessionwatch-output=found.jsonl"])
def test_an_option_without_a_mode(project: Project, option: str) -> None:  # noqa: F811
    """An option that does nothing without a mode says so, unless the mode is off on purpose."""
    project.ini()
    project.write("def test_it(): pass\n")
    result = project.run(option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"{option.partition('=')[0]} does nothing without a mode" in text(result)
    project.run(option, "--sessionwatch=off").assert_outcomes(passed=1)
