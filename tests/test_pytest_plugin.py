"""The pytest plugin, in pytest runs of their own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from textwrap import dedent
from xml.etree import ElementTree

import pytest

pytest_plugins = ["pytester"]

SHOP = """
import gc
import pytest
from sqlalchemy import create_engine, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import StaticPool

class Base(DeclarativeBase):
    pass

class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(default="new")

engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
Base.metadata.create_all(engine)
with engine.begin() as connection:
    connection.execute(Order.__table__.insert(), {"id": 1, "status": "new"})

def lose():
    session = Session(engine)
    session.add(Order())
    session.flush()
    session.close()

def swallow():
    try:
        lose()
    except Exception:
        pass

def detached():
    with Session(engine) as session:
        return session.get(Order, 1)
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A folder with a module ``shop`` and a switched-on plugin."""
    for name in ("SESSIONWATCH_MODE", "SESSIONWATCH_RULES", "SESSIONWATCH_OUTPUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SESSIONWATCH_TESTING", "1")
    monkeypatch.setenv("COLUMNS", "200")
    (pytester.path / "shop.py").write_text(SHOP)
    return Project(pytester)


class Project:
    """Tests in a folder, and a way to run them."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path: Path = pytester.path
        self.ini("sessionwatch = strict")

    def ini(self, *lines: str) -> None:
        body = "\n".join(["[pytest]", "pythonpath = .", "asyncio_mode = strict", *lines])
        (self.path / "pytest.ini").write_text(body + "\n")

    def write(self, body: str, name: str = "test_it.py") -> None:
        (self.path / name).write_text("from shop import *\n" + dedent(body))

    def run(self, *arguments: str) -> pytest.RunResult:
        return self.pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments)


def text(result: pytest.RunResult) -> str:
    return result.stdout.str() + result.stderr.str()


# -- on and off ---------------------------------------------------------------------------------------


def test_off_by_default(project: Project) -> None:
    """Without configuration nothing is watched, and neither SQLAlchemy nor our core is imported."""
    project.ini()
    (project.path / "test_it.py").write_text(
        "import sys\n"
        "def test_light():\n"
        "    assert 'sqlalchemy' not in sys.modules\n"
        "    assert 'sessionwatch.watch.watch' not in sys.modules\n"
        "def test_it():\n"
        "    from shop import lose\n"
        "    lose()\n"
    )
    result = project.run()
    result.assert_outcomes(passed=2)
    assert "sessionwatch" not in result.stdout.str().replace("plugins: ", "").partition("collected")[2]


@pytest.mark.parametrize("how", ["ini", "option"])
def test_strict_by_one_line(project: Project, how: str) -> None:
    """One ini line or one option makes findings fail their tests."""
    project.ini("sessionwatch = strict" if how == "ini" else "")
    project.write("def test_bad(): lose()\ndef test_good(): pass\n")
    project.run(*(["--sessionwatch=strict"] if how == "option" else [])).assert_outcomes(failed=1, passed=1)


def test_the_traceback_ends_at_the_users_line(project: Project) -> None:
    """SQLAlchemy's close(), with its long docstring, does not stand between the test and the story."""
    project.write("def test_bad(): lose()\n")
    shown = project.run().stdout.str()
    assert re.search(r"^shop\.py:\d+: FindingError$", shown, re.MULTILINE)
    assert "site-packages" not in shown.partition("FAILURES")[2].partition("warnings summary")[0]


def test_option_beats_ini(project: Project) -> None:
    """``--sessionwatch=off`` switches off what the ini file switches on."""
    project.write("def test_bad(): lose()\n")
    project.run("--sessionwatch=off").assert_outcomes(passed=1)


def test_log_mode_fails_nothing(project: Project) -> None:
    """In log mode findings stand in the summary only, with their story and what to do next."""
    project.write("def test_bad(): lose()\n")
    result = project.run("--sessionwatch=log")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "*= sessionwatch =*",
            "sessionwatch: 1 fault",
            "A  FAULT  lost-writes  Order  * 1 place, 1 test",
            "   1 Order object was written, but the session was closed without a commit",
            "* | session.close() * shop.py",
            "     closed *shop.py:* in lose*session S*",
            "     called from  test_it.py:2 in test_bad",
            "   fix   shop.py:*, commit before the session ends*",
            "more: sessionwatch explain lost-writes",
            "next: start with A, at shop.py:*",
        ],
        consecutive=False,
    )
    assert max(map(len, result.outlines[result.outlines.index("sessionwatch: 1 fault") : -1])) <= 100


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["sessionwatch = strickt"], "unknown mode 'strickt': choose one of strict, log, telemetry, off"),
        (["sessionwatch = strict", "sessionwatch_rules = lost-write=off"], "Did you mean 'lost-writes'"),
        (["sessionwatch = strict", "sessionwatch_rules = lost-writes"], "expected NAME=VALUE"),
    ],
)
def test_wrong_configuration(project: Project, lines: list[str], message: str) -> None:
    """A mistake in the configuration is a usage error of one line, not a traceback."""
    project.ini(*lines)
    project.write("def test_it(): pass\n")
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in text(result)
    assert "Traceback" not in text(result)
    assert "INTERNALERROR" not in text(result)


# -- what fails ---------------------------------------------------------------------------------------


def test_swallowed_finding_still_fails_with_the_story(project: Project) -> None:
    """Where the program swallowed the exception, the test fails all the same, and shows the whole story."""
    project.write("def test_bad(): swallow()\n")
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "sessionwatch: 1 finding in the test: lost-writes",
            "lost-writes: 1 Order object was written, but the session was closed without a commit",
            "  closed *shop.py:* in lose*",
            "  written *shop.py:* in lose*1 Order object written",
            "  opened *shop.py:* in lose*",
            "  fix: commit before the session ends*",
            "  more: sessionwatch explain lost-writes",
        ]
    )


def test_failure_of_its_own_keeps_its_place(project: Project) -> None:
    """A test that fails by itself fails so; the finding stands beside it as a section."""
    project.write("def test_bad():\n    swallow()\n    assert 'its own' == 'failure'\n")
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *assert 'its own' == 'failure'", "*Captured sessionwatch call*", "lost-writes: *"])


@pytest.mark.parametrize("body", ["lose()", "swallow()"])
@pytest.mark.parametrize("ci", ["", "true"])
def test_finding_is_told_once(project: Project, monkeypatch: pytest.MonkeyPatch, body: str, ci: str) -> None:
    """A finding that fails a test is told once; pytest's last lines, which it does not shorten on CI, hold one line."""
    monkeypatch.setenv("CI", ci)
    monkeypatch.delenv("BUILD_NUMBER", raising=False)
    project.write(f"def test_bad(): {body}\n")
    result = project.run()
    result.assert_outcomes(failed=1)
    assert result.stdout.str().count("more: sessionwatch explain lost-writes") == 1
    assert "/sessionwatch/hooks/" not in result.stdout.str()
    last = result.stdout.str().partition("short test summary info")[2].splitlines()
    assert "FAILED test_it.py::test_bad - " in last[1]
    assert last[1].partition(" - ")[2].startswith("lost-writes: 1 Order object was written")
    assert last[2].startswith("====")


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_the_same_failure_of_many_tests_is_told_once(project: Project, workers: tuple[str, ...]) -> None:
    """One test shows the story and names the others; each of them says what failed it, and where the story is."""
    if workers:
        pytest.importorskip("xdist")
    raised = "".join(f"def test_{n}(): lose()\n" for n in range(20))
    swallowed = "".join(f"def test_also_{n}(): swallow()\n" for n in range(9))
    late = "@pytest.fixture\ndef after():\n    yield\n    lose()\ndef test_late(after): pass\n"
    project.write(raised + swallowed + late)
    result = project.run("--junit-xml=junit.xml", *workers)
    result.assert_outcomes(failed=29, errors=1, passed=1)
    shown, _, last = result.stdout.str().partition("short test summary info")
    assert shown.count("  opened ") == 1
    assert shown.count("\n  the story: test_it.py::test_") == 29
    assert len(re.findall(r"^the same failed test_it.py::\w+, .* and 26 more$", shown, re.MULTILINE)) == 1
    repeated = [line for line in last.splitlines() if line.startswith(("FAILED", "ERROR"))]
    assert len(repeated) == 30
    assert all(" - lost-writes: 1 Order object" in line for line in repeated)
    whole = ElementTree.parse(project.path / "junit.xml").findall(".//failure")
    assert len(whole) == 29
    assert all("opened" in str(failure.text) for failure in whole)


def test_different_failures_of_one_line_are_told_apart(project: Project) -> None:
    """What lost something else at the same line, or has another caller, has a story of its own."""
    project.write("from other import call\ndef test_1(): lose()\ndef test_2(): call()\n")
    (project.path / "other.py").write_text("from shop import lose\ndef call(): lose()\n")
    result = project.run()
    result.assert_outcomes(failed=2)
    assert "the story:" not in result.stdout.str()
    assert result.stdout.str().count("more: sessionwatch explain lost-writes\n\n") == 2


def test_finding_of_a_passing_test_names_that_test_only(project: Project) -> None:
    """Each test fails for its own findings, also where they are of the same place."""
    project.write("def test_1(): swallow()\ndef test_2(): pass\ndef test_3(): swallow()\n")
    result = project.run("-v")
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.re_match_lines([".*test_1 FAILED.*", ".*test_2 PASSED.*", ".*test_3 FAILED.*"])
    assert result.stdout.str().count("\nlost-writes: 1 Order object was written") == 2


def test_fixtures_are_blamed(project: Project) -> None:
    """A finding in a fixture's setup or teardown is an error of that phase, not a failure of the test."""
    project.write("""
        @pytest.fixture
        def before():
            swallow()

        @pytest.fixture
        def after():
            yield
            swallow()

        def test_setup(before): pass
        def test_teardown(after): pass
    """)
    result = project.run()
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(
        ["*ERROR at setup of test_setup*", "sessionwatch: 1 finding in a fixture's setup: lost-writes"]
    )
    result.stdout.fnmatch_lines(
        ["*ERROR at teardown of test_teardown*", "sessionwatch: 1 finding in a fixture's teardown: lost-writes"]
    )


def test_a_failing_test_is_not_blamed_for_what_it_left_behind(project: Project) -> None:
    """A test that breaks off fails once; its fixture's close discards its writes without a second fault."""
    project.write("""
        @pytest.fixture
        def session():
            session = Session(engine)
            yield session
            session.close()

        def test_broken(session):
            session.add(Order())
            session.flush()
            assert session.get(Order, 1).status == "shipped"

        def test_after(session):
            session.add(Order())
            session.flush()
    """)
    result = project.run()
    result.assert_outcomes(failed=1, passed=1, errors=1)  # the next test is strict again


def test_session_that_is_dropped(project: Project) -> None:
    """A session that only the garbage collector finds fails the test that dropped it."""
    project.write("""
        def test_leak():
            session = Session(engine)
            session.scalars(select(Order)).all()
            session.me = session
        def test_next(): pass
    """)
    result = project.run("-v")
    result.stdout.re_match_lines([".*test_leak FAILED.*", ".*test_next PASSED.*"])
    result.stdout.fnmatch_lines(["session-leak: a session was dropped with its connection checked out"])


def test_a_serializers_attributes_are_one_story(project: Project) -> None:
    """What one line reads of one instance, and swallows, is told once, with the other attributes in a line."""
    project.write("""
        def read(order, name):
            try:
                getattr(order, name)
            except Exception:
                pass
        def test_serialized():
            order = detached()
            for name in ("status", "id"):
                read(order, name)
    """)
    result = project.run()
    result.assert_outcomes(failed=1)
    told = result.stdout.str().partition("FAILURES")[2].partition("= sessionwatch =")[0]
    assert "sessionwatch: 2 findings in the test: detached-touch" in told
    assert told.count(" was read after its session had ended") == told.count("  touched ") == 1
    assert told.count("  the same of Order.id") == 1


def test_detached_write_waits_for_the_end(project: Project) -> None:
    """A change to a detached instance fails the test at its end, and not if a session took it."""
    project.ini("sessionwatch = strict", "sessionwatch_rules = detached-touch=off")
    project.write("""
        kept = []
        def test_lost():
            kept.append(detached())
            kept[0].status = "changed"
        def test_merged():
            order = detached()
            order.status = "changed"
            with Session(engine) as session, session.begin():
                session.merge(order)
    """)
    result = project.run("-v")
    result.stdout.re_match_lines([".*test_lost FAILED.*", ".*test_merged PASSED.*"])
    result.stdout.fnmatch_lines(["detached-write: Order.status was changed, but no session will save it"])


def test_xfail_and_skip(project: Project) -> None:
    """An expected failure may be a finding; a strict xfail that finds nothing fails; skips stay skips."""
    project.write("""
        @pytest.mark.xfail
        def test_expected(): swallow()
        @pytest.mark.xfail(strict=True)
        def test_nothing_found(): pass
        @pytest.mark.skip
        def test_skipped(): lose()
        def test_skips():
            swallow()
            pytest.skip("later")
    """)
    project.run().assert_outcomes(xfailed=1, failed=1, skipped=2)


# -- marker and fixture -------------------------------------------------------------------------------


def test_marker(project: Project) -> None:
    """The marker allows rules with a reason, and gives a test another mode."""
    project.write("""
        @pytest.mark.sessionwatch(allow=["lost-writes"], reason="a dry run")
        def test_allowed(): lose()

        @pytest.mark.sessionwatch(allow="lost-writes", reason="a dry run")
        def test_allowed_by_a_word(): lose()

        @pytest.mark.sessionwatch(mode="log")
        def test_logged(): lose()

        @pytest.mark.sessionwatch(mode="off")
        def test_off(): lose()

        @pytest.mark.sessionwatch(allow=["session-leak"], reason="another rule")
        def test_not_covered(): lose()

        def test_as_configured(): lose()
    """)
    result = project.run("-v", "--strict-markers")
    result.assert_outcomes(passed=4, failed=2)
    result.stdout.fnmatch_lines(["sessionwatch: 1 fault, 2 allowed", "A  FAULT  lost-writes *, 3 times"])


def test_marker_covers_fixtures(project: Project) -> None:
    """What the marker says holds for the test's fixtures too, and on a class for all of its tests."""
    project.write("""
        @pytest.fixture
        def dirty():
            lose()
            yield
            lose()

        @pytest.mark.sessionwatch(allow=["lost-writes"], reason="a dry run")
        class TestDry:
            def test_1(self, dirty): pass
            def test_2(self, dirty): lose()
    """)
    project.run().assert_outcomes(passed=2)


def unused(result: pytest.RunResult) -> list[str]:
    """What the summary says of allowances that matched nothing, without their reasons."""
    return [line.partition(" -- ")[0] for line in result.outlines if line.startswith("unused: ")]


@pytest.mark.parametrize("options", [(), ("-n", "2")])
def test_marker_that_allows_nothing(project: Project, options: tuple[str, ...]) -> None:
    """Each marker's allowance is its own; one that matched nothing is listed with the place of what it marks."""
    if options:
        pytest.importorskip("xdist")
    project.write("""
        @pytest.mark.sessionwatch(allow=["lost-writes"], reason="the same")
        def test_used(): lose()

        @pytest.mark.sessionwatch(allow=["lost-writes"], reason="the same")
        def test_unused(): pass

        @pytest.mark.sessionwatch(allow=["lost-writes"], reason="the same")
        class TestUsedOnce:
            def test_1(self): pass
            def test_2(self): lose()

        @pytest.mark.sessionwatch(allow=["session-leak"], reason="the same")
        class TestUnused:
            def test_1(self): pass
            def test_2(self): pass

        @pytest.mark.parametrize("number", range(2))
        @pytest.mark.sessionwatch(allow=["lost-writes"], reason="the same")
        def test_used_once(number): lose() if number else None
    """)
    result = project.run(*options)
    result.assert_outcomes(passed=8)
    lines = [line.removeprefix("unused: test_it.py:") for line in unused(result)]
    assert sorted(lines) == ["14: allow session-leak", "6: allow lost-writes"]


def test_marker_of_a_module(project: Project) -> None:
    """A marker of a whole module is at its first line."""
    project.write("""
        pytestmark = pytest.mark.sessionwatch(allow=["lost-writes"], reason="a dry run")
        def test_1(): pass
        def test_2(): pass
    """)
    assert unused(project.run()) == ["unused: test_it.py:1: allow lost-writes"]


def test_marker_that_was_not_put_to_the_test(project: Project) -> None:
    """The marker of a test that was skipped, or that failed before it came to it, is not listed."""
    project.write("""
        @pytest.mark.skip
        @pytest.mark.sessionwatch(allow=["lost-writes"], reason="later")
        def test_skipped(): lose()

        @pytest.mark.sessionwatch(allow=["lost-writes"], reason="later")
        def test_skips(): pytest.skip("later")

        @pytest.mark.sessionwatch(allow=["lost-writes"], reason="later")
        def test_fails(): 1 / 0
    """)
    result = project.run()
    result.assert_outcomes(skipped=2, failed=1)
    assert unused(result) == []


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("allow=['lost-write'], reason='x'", "Did you mean 'lost-writes'"),
        ("allow=['lost-writes']", "needs a reason"),
        ("mode='strickt'", "unknown mode 'strickt'"),
        ("modus='log'", "takes mode=, allow= and reason="),
        ("'log'", "takes mode=, allow= and reason="),
    ],
)
def test_wrong_marker(project: Project, marker: str, message: str) -> None:
    """A wrong marker is an error of its own test; the run goes on."""
    project.write(f"@pytest.mark.sessionwatch({marker})\ndef test_wrong(): pass\ndef test_next(): pass\n")
    result = project.run()
    result.assert_outcomes(errors=1, passed=1)
    assert message in text(result)
    assert "INTERNALERROR" not in text(result)


def test_fixture(project: Project) -> None:
    """The fixture gives this test's findings, waiting ones included, and can clear them."""
    project.ini("sessionwatch = strict", "sessionwatch_rules = detached-touch=off")
    project.write("""
        def test_before(): swallow()

        def test_cleared(sessionwatch):
            assert sessionwatch.findings == []
            swallow()
            assert [finding.rule for finding in sessionwatch.findings] == ["lost-writes"]
            order = detached()
            order.status = "changed"
            assert [finding.rule for finding in sessionwatch.findings] == ["lost-writes", "detached-write"]
            assert sessionwatch.status()["mode"]["value"] == "strict"
            sessionwatch.clear()
            assert sessionwatch.findings == []

        def test_kept(sessionwatch):
            swallow()
            assert len(sessionwatch.findings) == 1
    """)
    result = project.run("-v")
    result.stdout.re_match_lines([".*test_before FAILED.*", ".*test_cleared PASSED.*", ".*test_kept FAILED.*"])


def test_fixture_without_the_plugin_switched_on(project: Project) -> None:
    """Where the plugin is off, a test that asks for the fixture is watched in log mode, and it alone."""
    project.ini()
    project.write("""
        def test_asks(sessionwatch):
            lose()
            assert [finding.rule for finding in sessionwatch.findings] == ["lost-writes"]

        def test_does_not():
            from sessionwatch.watch.installation import current
            assert current() is None
    """)
    project.run().assert_outcomes(passed=2)


def test_allow_in_the_program(project: Project) -> None:
    """``sessionwatch.allow`` in the program covers its findings in strict tests."""
    project.write("""
        import sessionwatch as sw
        def test_allowed():
            with sw.allow("lost-writes", reason="a dry run"):
                lose()
    """)
    result = project.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["sessionwatch: no findings, 1 allowed"])


# -- configuration ------------------------------------------------------------------------------------


def test_rules_in_the_ini_file(project: Project) -> None:
    """``sessionwatch_rules`` sets levels one a line; a rule that is logged fails nothing."""
    project.ini("sessionwatch = strict", "sessionwatch_rules =", "    lost-writes=log", "    detached-touch=off")
    project.write("def test_logged(): lose()\ndef test_off(): detached().status\n")
    result = project.run()
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["sessionwatch: 1 fault"])


def test_baseline(project: Project) -> None:
    """Findings of the baseline file fail nothing and are counted as allowed; new ones fail."""
    project.ini("sessionwatch = strict", "sessionwatch_baseline = known.json")
    project.write("def test_known(): swallow()\n")
    project.run("--sessionwatch-update-baseline").assert_outcomes(passed=1)
    assert len(json.loads((project.path / "known.json").read_text())["findings"]) == 1
    project.write("""
        def test_known(): swallow()
        def test_new():
            session = Session(engine)
            session.add(Order())
            session.close()
    """)
    result = project.run()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["sessionwatch: 2 faults: * (1 new, 1 known)", "*1 test   known"])


def test_baseline_has_what_the_collector_finds(project: Project) -> None:
    """An update finds what a strict run finds, sessions that were dropped unclosed included."""
    project.ini("sessionwatch = strict", "sessionwatch_baseline = known.json")
    leaks = """
        def leak_{n}():
            session = Session(engine)
            session.me = session
            session.scalars(select(Order)).all()

        def test_{n}():
            leak_{n}()
    """
    tests = "".join(dedent(leaks.format(n=n)) for n in range(4))
    project.write(f"engine = create_engine('sqlite:///leaks.db')\nBase.metadata.create_all(engine)\n{tests}")
    project.run().assert_outcomes(failed=4)
    project.run("--sessionwatch-update-baseline").assert_outcomes(passed=4)
    assert len(json.loads((project.path / "known.json").read_text())["findings"]) == 4
    project.run().assert_outcomes(passed=4)


def test_baseline_keeps_what_did_not_run(project: Project) -> None:
    """An update by a part of the tests adds to the file; what it knew of the others stays."""
    project.ini("sessionwatch = strict", "sessionwatch_baseline = known.json")
    project.write("def test_first(): swallow()\n", "test_first.py")
    project.write("def test_second(): detached().status\n", "test_second.py")
    project.run("--sessionwatch-update-baseline", "test_first.py").assert_outcomes(passed=1)
    result = project.run("--sessionwatch-update-baseline", "test_second.py")
    result.stdout.fnmatch_lines(["sessionwatch: *known.json: 2 known findings (before: 1)"])
    project.run().assert_outcomes(passed=2)


def test_baseline_takes_pytests_own_names_of_test_files(project: Project) -> None:
    """What ``python_files`` names is no caller: another test of known code fails for nothing."""
    project.ini("sessionwatch = strict", "sessionwatch_baseline = known.json", "python_files = check_*.py")
    project.write("def test_first(): swallow()\n", "check_first.py")
    project.write("def test_second(): swallow()\n", "check_second.py")
    project.run("--sessionwatch-update-baseline", "check_first.py").assert_outcomes(passed=1)
    project.run("check_second.py").assert_outcomes(passed=1)


@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_baseline_holds_from_every_folder(
    project: Project, monkeypatch: pytest.MonkeyPatch, workers: tuple[str, ...]
) -> None:
    """It names files as they are seen from pytest's root, wherever in the project pytest is started."""
    project.ini("sessionwatch = strict", "sessionwatch_baseline = known.json")
    below = project.path / "tests"
    below.mkdir()
    project.write("def test_known(): swallow()\ndef test_touched(): detached().status\n", "tests/test_it.py")
    monkeypatch.chdir(below)
    project.run("--sessionwatch-update-baseline", *workers).assert_outcomes(passed=2)
    written = (project.path / "known.json").read_text()
    assert [item["path"] for item in json.loads(written)["findings"]] == ["tests/test_it.py", "shop.py"]
    project.run(*workers).assert_outcomes(passed=2)
    monkeypatch.chdir(project.path)
    project.run(*workers).assert_outcomes(passed=2)
    project.run("--sessionwatch-update-baseline", *workers).assert_outcomes(passed=2)
    assert (project.path / "known.json").read_text() == written


def test_an_installation_of_the_programs_own_may_have_another_root(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pyproject.toml below pytest's root makes a conftest that installs before the plugin no mistake."""
    below = project.path / "part"
    below.mkdir()
    (below / "pyproject.toml").write_text("[project]\nname = 'part'\n")
    (below / "conftest.py").write_text("import sessionwatch\nsessionwatch.install(mode='strict')\n")
    project.write("def test_known(): swallow()\n", "part/test_it.py")
    monkeypatch.chdir(below)
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"rootdir: {project.path}", "*lost-writes: 1 Order object was written*"])


@pytest.mark.parametrize(("written", "why"), [("{", "can't be read"), (None, "can't be written")])
def test_baseline_that_can_not_be_updated(project: Project, written: str | None, why: str) -> None:
    """A file that is no baseline, or can't be written, is a usage error of one line."""
    if written is None:
        project.ini("sessionwatch = strict", "sessionwatch_baseline = missing/known.json")
    else:
        (project.path / "sessionwatch-baseline.json").write_text(written)
    project.write("def test_known(): swallow()\n")
    result = project.run("--sessionwatch-update-baseline")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert why in text(result)
    assert "INTERNALERROR" not in text(result)
    assert "Traceback" not in text(result)


def test_output(project: Project) -> None:
    """``--sessionwatch-output`` appends findings as JSON Lines."""
    project.write("def test_bad(): swallow()\ndef test_worse(): swallow()\n")
    project.run("--sessionwatch-output", "found.jsonl").assert_outcomes(failed=2)
    lines = [json.loads(line) for line in (project.path / "found.jsonl").read_text().splitlines()]
    assert {line["rule"] for line in lines} == {"lost-writes"}
    assert {(line["path"], line["mode"]) for line in lines} == {("shop.py", "strict")}


# -- summary ------------------------------------------------------------------------------------------


def test_summary(project: Project) -> None:
    """The summary counts findings by place, allowed ones, and lists allowances that matched nothing."""
    project.write("""
        import sessionwatch as sw
        def test_bad():
            for _ in range(3):
                swallow()
        def test_allowed():
            with sw.allow("lost-writes", reason="a dry run"):
                lose()
            with sw.allow("session-leak", reason="no longer needed"):
                pass
    """)
    result = project.run()
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        [
            "*= sessionwatch =*",
            "unused: test_it.py:*: allow session-leak -- no longer needed",
            "sessionwatch: 1 fault, 1 allowed",
            "A  FAULT  lost-writes  Order * 1 place, 1 test, 3 times",
            "   shop.py:* in lose: 1 Order object was written, but the session was closed without a commit",
        ]
    )


@pytest.mark.parametrize("options", [(), ("-n", "2")])
def test_summary_counts_queries(project: Project, options: tuple[str, ...]) -> None:
    """A count that goes on after the finding was made is in the summary as it is at last, over all tests."""
    if options:
        pytest.importorskip("xdist")
    project.ini("sessionwatch = log")
    (project.path / "parcels.py").write_text(
        dedent("""
            from shop import *

            class Parcel(Base):
                __tablename__ = "parcels"
                id: Mapped[int] = mapped_column(primary_key=True)

            Base.metadata.create_all(engine)
            with engine.begin() as connection:
                connection.execute(Parcel.__table__.insert(), [{"id": n} for n in range(20)])

            def one_by_one(most):
                with Session(engine) as session:
                    for number in range(most):
                        session.get(Parcel, number)
        """)
    )
    project.write("from parcels import one_by_one\ndef test_1(): one_by_one(20)\ndef test_2(): one_by_one(10)\n")
    result = project.run(*options)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["A  advice n-plus-one  Parcel * 1 place, 2 tests, *30 times"])


def test_subjects_of_one_line_are_apart(project: Project) -> None:
    """Two findings of one line that are about different things are both named in the summary."""
    project.ini("sessionwatch = log", "sessionwatch_rules =", "    detached-access=log")
    project.write("""
        class Parcel(Base):
            __tablename__ = "parcels"
            id: Mapped[int] = mapped_column(primary_key=True)
            weight: Mapped[int] = mapped_column(default=1)

        def test_both():
            Base.metadata.create_all(engine)
            with Session(engine) as session:
                session.add_all([Order(id=7), Parcel(id=7)])
                session.commit()
                kept = session.get(Order, 7), session.get(Parcel, 7)
                session.commit()
            for instance, name in zip(kept, ("status", "weight")):
                with pytest.raises(Exception):
                    getattr(instance, name)
    """)
    result = project.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["A  FAULT  detached-access  Order.status, Parcel.weight *1 place*2 times"])


def test_no_findings_no_summary(project: Project) -> None:
    """Where there is nothing to say, nothing is said."""
    project.write("def test_good(): pass\n")
    assert "= sessionwatch =" not in project.run().stdout.str()


def test_junit_properties(project: Project) -> None:
    """Findings are properties of their test case in the JUnit file, with their cause and who called."""
    project.write("def test_bad(): swallow()\ndef test_good(): pass\n")
    project.run("--junit-xml=junit.xml")
    cases = ElementTree.parse(project.path / "junit.xml").iter("testcase")
    found = {case.get("name"): [item.get("value") for item in case.iter("property")] for case in cases}
    assert found["test_good"] == []
    place, cause, chain = found["test_bad"]
    assert re.fullmatch(r"lost-writes at shop.py:\d+", str(place))
    assert re.fullmatch(r"[0-9a-f]{12}", str(cause))
    assert re.fullmatch(r"shop.py:\d+ in lose < shop.py:\d+ in swallow < test_it.py:2 in test_bad", str(chain))


# -- other runners ------------------------------------------------------------------------------------


def test_xdist(project: Project) -> None:
    """Under xdist each worker watches, and the summary adds up."""
    pytest.importorskip("xdist")
    body = "".join(f"def test_{n}(): swallow()\ndef test_good_{n}(): pass\n" for n in range(4))
    project.write(
        body
        + dedent("""
            import sessionwatch as sw
            def test_allowed():
                with sw.allow("lost-writes", reason="a dry run"):
                    lose()

            @pytest.mark.parametrize("number", range(4))
            def test_sometimes_allowed(number):
                with sw.allow("lost-writes", reason="needed once"):
                    lose() if number == 0 else None
                with sw.allow("lost-writes", reason="never needed"):
                    pass
        """)
    )
    result = project.run("-n", "2")
    result.assert_outcomes(failed=4, passed=9)
    result.stdout.fnmatch_lines(
        [
            "unused: test_it.py:*: allow lost-writes -- never needed",
            "sessionwatch: 1 fault, 2 allowed",
            "A  FAULT  lost-writes  Order * 1 place, 4 tests, 2 processes, 4 times",
        ]
    )
    assert "needed once" not in result.stdout.str()


ASYNC = """
async_engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)

async def alose():
    async with async_engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncSession(async_engine) as session:
        session.add(Order())
        await session.flush()

async def aswallow():
    try:
        await alose()
    except Exception:
        pass
    finally:
        await async_engine.dispose()
"""


def test_pytest_asyncio(project: Project) -> None:
    """Coroutine tests and fixtures under pytest-asyncio are covered."""
    pytest.importorskip("pytest_asyncio")
    project.write(
        ASYNC
        + dedent("""
            import pytest_asyncio

            @pytest_asyncio.fixture
            async def dirty():
                yield
                await aswallow()

            @pytest.mark.asyncio
            async def test_bad(): await aswallow()

            @pytest.mark.asyncio
            async def test_teardown(dirty): pass

            @pytest.mark.asyncio
            @pytest.mark.sessionwatch(allow=["lost-writes"], reason="a dry run")
            async def test_allowed(): await aswallow()

            @pytest.mark.asyncio
            async def test_good(): pass
        """)
    )
    result = project.run()
    result.assert_outcomes(failed=1, errors=1, passed=3)
    result.stdout.fnmatch_lines(["lost-writes: 1 Order object was written*", "  closed *test_it.py:* in alose*"])


def test_anyio(project: Project) -> None:
    """The same under anyio's plugin."""
    pytest.importorskip("anyio")
    project.write(
        ASYNC
        + dedent("""
            pytestmark = pytest.mark.anyio

            @pytest.fixture
            def anyio_backend(): return "asyncio"

            async def test_bad(): await aswallow()

            @pytest.mark.sessionwatch(allow=["lost-writes"], reason="a dry run")
            async def test_allowed(): await aswallow()

            async def test_good(): pass
        """)
    )
    project.run().assert_outcomes(failed=1, passed=2)


def test_unittest(project: Project) -> None:
    """Methods, setUp and tearDown of unittest classes are covered, and the marker on them works."""
    project.write("""
        import unittest

        class Case(unittest.TestCase):
            def test_bad(self): swallow()
            def test_good(self): pass
            @pytest.mark.sessionwatch(allow=["lost-writes"], reason="a dry run")
            def test_allowed(self): lose()

        class Dirty(unittest.TestCase):
            def setUp(self): swallow()
            def test_it(self): pass

        class Coroutines(unittest.IsolatedAsyncioTestCase):
            async def test_bad(self): swallow()
    """)
    project.run().assert_outcomes(failed=3, passed=2)


def test_watched_program_is_restored(project: Project) -> None:
    """After the run SQLAlchemy is as it was, also for what runs at the very end."""
    (project.path / "conftest.py").write_text(
        dedent("""
            import pytest
            from sqlalchemy.orm import Session
            before = Session._close_impl

            @pytest.hookimpl(trylast=True)
            def pytest_unconfigure():
                print("restored", "sessionwatch" not in Session._close_impl.__code__.co_filename)
        """)
    )
    project.write("def test_good(): pass\n")
    result = project.run("-s")
    result.assert_outcomes(passed=1)
    assert "restored True" in result.stdout.str()


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_reports_are_written(project: Project, options: tuple[str, ...]) -> None:
    """``--sessionwatch-report`` writes one file per format, with the findings of all tests and workers merged."""
    if options:
        pytest.importorskip("xdist")
    project.write("def test_1(): swallow()\ndef test_2(): swallow()\n")
    files = ("--sessionwatch-report=text:found.txt", "--sessionwatch-report=json:found.jsonl")
    result = project.run("--sessionwatch=log", *files, *options)
    result.assert_outcomes(passed=2)
    (line,) = (project.path / "found.jsonl").read_text().splitlines()
    assert json.loads(line)["count"] == 2
    assert "2 tests" in (project.path / "found.txt").read_text()


def test_sarif_of_a_test_run_names_what_is_absent(project: Project) -> None:
    """What the baseline knows and no test met is in the state absent; not so where the ini file has its rule off."""
    names = ("fingerprint", "rule", "subject", "path", "function", "caller", "unit")
    entries = [
        dict(zip(names, (number * 16, rule, "Order", "old.py", "f", "", None), strict=True))
        for number, rule in (("0", "lost-writes"), ("1", "session-leak"))
    ]
    (project.path / "known.json").write_text(json.dumps({"schema": 2, "findings": entries}))
    project.ini("sessionwatch = strict", "sessionwatch_baseline = known.json", "sessionwatch_rules = session-leak=off")
    project.write("def test_1(): swallow()\n")
    result = project.run("--sessionwatch-report=sarif:found.sarif")
    result.assert_outcomes(failed=1)
    (run,) = json.loads((project.path / "found.sarif").read_text())["runs"]
    told = [(each["ruleId"], each["baselineState"]) for each in run["results"]]
    assert told == [("lost-writes", "new"), ("lost-writes", "absent")]


def test_a_report_that_fails_is_a_line(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of ours in a report costs neither summary nor exit status of pytest, nor the other reports."""
    monkeypatch.delenv("SESSIONWATCH_TESTING")
    project.write(
        """
        from sessionwatch.output import text

        def test_1():
            swallow()
            text._Text.lines = None
        """
    )
    result = project.run("--sessionwatch=log", *(f"--sessionwatch-report={it}:{it}.txt" for it in ("text", "json")))
    assert result.ret == 0
    told = "can't be made: TypeError: 'NoneType' object is not callable"
    result.stdout.fnmatch_lines([f"sessionwatch: text.txt {told}", "sessionwatch: json.txt written"])
    result.stdout.fnmatch_lines([f"sessionwatch: the report {told}", "*1 passed*"])


def test_a_report_in_an_unknown_format(project: Project) -> None:
    """A mistake in the option is told before a test runs."""
    project.write("def test_1(): pass\n")
    result = project.run("--sessionwatch=log", "--sessionwatch-report=txt:found")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*unknown format 'txt'*Did you mean 'text'?"])
