"""``sessionwatch audit``: what it prints, what it accepts, and how it ends."""

from __future__ import annotations

import io
import json
import re
import textwrap
from pathlib import Path

import pytest

from sessionwatch import __version__, rules
from sessionwatch.audit import analyse
from sessionwatch.audit.formats import FORMATS
from sessionwatch.audit.patterns import ALL
from sessionwatch.audit.tree import Module
from sessionwatch.command.cli import main

LOST = """
    from sqlalchemy import create_engine
    from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
    class Base(DeclarativeBase): ...
    class Order(Base):
        __tablename__ = "orders"
        id: Mapped[int] = mapped_column(primary_key=True)
    engine = create_engine("sqlite://")
    def work():
        with Session(engine) as session:{comment}
            session.add(Order())
"""
LIKELY = """
    from sqlalchemy import text
    from sqlalchemy.orm import Session
    def names(session: Session):
        try:
            return session.execute(text("SELECT 1")).all()
        except Exception:
            return []
"""
ROOT = Path(__file__).parents[2]
MORE = """
    def more():
        with Session(engine) as session:
            session.add(Order())
"""
ALLOWED = "  # sessionwatch: allow lost-writes -- a dry run"


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project that is the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop").mkdir()
    return tmp_path / "shop"


def write(path: Path, text: str, comment: str = "") -> None:
    path.write_text(textwrap.dedent(text.replace("{comment}", comment)), encoding="utf-8")


def report(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["audit", "shop", *arguments]) == 0
    return capsys.readouterr().out


# -- exit status --------------------------------------------------------------------------------------------


def test_fail_is_about_certain_ones(shop: Path) -> None:
    """``--fail`` gives 1 where a certain one is left, and 0 where all are only likely."""
    write(shop / "names.py", LIKELY)
    assert main(["audit", "shop", "--fail"]) == 0
    write(shop / "work.py", LOST)
    assert main(["audit", "shop"]) == 0
    assert main(["audit", "shop", "--fail"]) == 1


@pytest.mark.parametrize(
    ("comment", "status"),
    [
        (ALLOWED, 0),
        ("  # sessionwatch: allow lost-writes", 1),  # without a reason
        ("  # sessionwatch: allow config -- another rule", 1),
    ],
)
def test_an_allow_comment_counts(shop: Path, comment: str, status: int) -> None:
    """A comment with a reason, for the rule that the anti-pattern leads to, is what a run accepts as well."""
    write(shop / "work.py", LOST, comment)
    assert main(["audit", "shop", "--fail"]) == status


def test_an_allow_block_counts(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So is ``with allow(...)``, with its reason."""
    block = 'with allow("lost-writes", reason="dry run"), Session(engine)'
    text = textwrap.dedent(LOST.replace("{comment}", "")).replace("with Session(engine)", block)
    (shop / "work.py").write_text("from sessionwatch import allow\n" + text, encoding="utf-8")
    assert main(["audit", "shop", "--fail"]) == 0
    assert "allowed: dry run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere"], "no such file or folder"),
        (["shop"], "there is no Python file in it"),
        ([".", "--since", "nowhere.json"], "can't read nowhere.json"),
        ([".", "--findings", "nowhere.jsonl"], "can't read nowhere.jsonl"),
        ([".", "--since", "other.json"], "other.json is no audit"),
        ([".", "--since", "broken.json"], "broken.json is not JSON"),
    ],
)
def test_mistakes_are_told(shop: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str) -> None:
    """A path or file that can't be used ends with 2 and one line that says why."""
    (shop.parent / "main.py").write_text("", encoding="utf-8")
    (shop.parent / "other.json").write_text("{}", encoding="utf-8")
    (shop.parent / "broken.json").write_text("{", encoding="utf-8")
    assert main(["audit", *arguments]) == 2
    assert told in capsys.readouterr().err


# -- which files --------------------------------------------------------------------------------------------


def test_files_that_do_not_parse_are_named(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They stop nothing, and are named with the line."""
    write(shop / "work.py", LOST)
    (shop / "broken.py").write_text("from sqlalchemy import (\n", encoding="utf-8")
    (shop / "bytes.py").write_bytes(b"# sqlalchemy\n\xff\xfe")
    told = report("--format", "json", capsys=capsys)
    unparsed = {each["path"]: each["error"] for each in json.loads(told)["unparsed"]}
    assert set(unparsed) == {"shop/broken.py", "shop/bytes.py"}
    assert "line 1" in unparsed["shop/broken.py"]
    assert "not read: shop/broken.py" in report(capsys=capsys)


def test_an_error_of_ours_is_told(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that the audit fails at is named, and the others are audited."""
    write(shop / "work.py", LOST)
    write(shop / "names.py", LIKELY)
    looked = analyse._look

    def fail(project: analyse.Project, module: Module, found: analyse.Looked) -> None:
        if module.path.endswith("names.py"):
            raise RecursionError("too deep")
        looked(project, module, found)

    monkeypatch.setattr(analyse, "_look", fail)
    monkeypatch.delenv("SESSIONWATCH_TESTING", raising=False)
    audit = analyse.audit("shop", workers=1)
    assert [(each.path, "RecursionError: too deep" in each.error) for each in audit.unparsed] == [
        ("shop/names.py", True)
    ]
    assert len(audit.entries) == 1


def test_what_is_left_out(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stubs, notebooks, hidden folders and environments are not read."""
    write(shop / "work.pyi", LOST)
    write(shop / "work.ipynb", LOST)
    for folder in (".hidden", "venv", "node_modules", "own"):
        (shop / folder).mkdir()
        write(shop / folder / "work.py", LOST)
    (shop / "own" / "pyvenv.cfg").write_text("", encoding="utf-8")
    write(shop / "names.py", LIKELY)
    told = json.loads(report("--format", "json", capsys=capsys))
    assert [each["path"] for each in told["files"]] == ["shop/names.py"]
    assert told["totals"]["files"] == 1


def test_one_file(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """PATH may be a file."""
    write(shop / "work.py", LOST)
    assert main(["audit", "shop/work.py"]) == 0
    assert "1 certain" in capsys.readouterr().out


def test_nothing_is_imported(shop: Path) -> None:
    """The audited code never runs."""
    (shop / "work.py").write_text("import sqlalchemy\nraise SystemExit(7)\n", encoding="utf-8")
    assert main(["audit", "shop"]) == 0


# -- what it looks like -------------------------------------------------------------------------------------


def test_files_are_ordered_by_work_left(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table has the file with most to do first."""
    write(shop / "a.py", LIKELY)
    write(shop / "b.py", LOST + MORE)
    table = report(capsys=capsys).split("\n\n")[0].splitlines()
    assert table[0].split() == ["certain", "likely", "opened", "operations", "sync", "in", "async", "query()", "file"]
    assert [line.split()[-1] for line in table[1:]] == ["shop/b.py", "shop/a.py"]
    assert table[1].split()[:4] == ["2", "-", "2", "2"]


def test_no_colour_and_no_bar_without_a_terminal(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What goes to a file or a pipe is plain, and nothing goes to stderr."""
    write(shop / "work.py", LOST)
    assert main(["audit", "shop"]) == 0
    out, err = capsys.readouterr()
    assert "\033" not in out
    assert err == ""


def test_a_bar_on_a_terminal(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large tree shows how far it has come, on a terminal only, and wipes it."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    for number in range(60):
        (shop / f"part{number}.py").write_text("", encoding="utf-8")
    monkeypatch.setattr("sys.stderr", terminal)
    assert main(["audit", "shop"]) == 0
    assert "60/60 files" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\033[K")


def test_colour_of_the_text(shop: Path) -> None:
    """With colour, what is certain is red."""
    write(shop / "work.py", LOST)
    assert "\033[31mlost-writes\033[0m" in FORMATS["text"](analyse.audit("shop"), None, True)


def test_no_line_is_longer_than_100(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The text is made for 100 columns."""
    write(shop / "work.py", LOST)
    assert max(map(len, report(capsys=capsys).splitlines())) <= 100


def test_html_escapes_all(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Paths and reasons of the project are text in the page; there is no script and nothing is fetched."""
    name = "<b>&'quoted'.py"
    write(shop / name, LOST, "  # sessionwatch: allow lost-writes -- <script>alert(1)</script>")
    page = report("--format", "html", capsys=capsys)
    assert "<script" not in page
    assert "<b>&'" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not re.search(r'(?:src|href)="(?!#)', page)


def test_json_has_what_the_contract_names(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Per anti-pattern its rule, place, function, confidence and message; per file the counts."""
    write(shop / "work.py", LOST)
    told = json.loads(report("--format", "json", capsys=capsys))
    (entry,) = told["anti_patterns"]
    assert {name: entry[name] for name in ("rule", "path", "line", "function", "confidence")} == {
        "rule": "lost-writes",
        "path": "shop/work.py",
        "line": 10,
        "function": "work",
        "confidence": "certain",
    }
    assert entry["message"]
    assert told["files"][0]["operations"] == {"sync": {"add": 1}, "async": {}}
    assert told["files"][0]["openings"] == {"sync": 1, "async": 0}
    assert told["version"] == __version__


def test_sarif_has_its_parts(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rules with their pages, a result per anti-pattern with a fingerprint, suppressions, what was not parsed."""
    write(shop / "work.py", LOST, ALLOWED)
    write(shop / "more.py", LOST)
    (shop / "broken.py").write_text("sqlalchemy (", encoding="utf-8")
    told = json.loads(report("--format", "sarif", capsys=capsys))
    assert (told["version"], len(told["runs"])) == ("2.1.0", 1)
    (run,) = told["runs"]
    assert [each["id"] for each in run["tool"]["driver"]["rules"]] == ["lost-writes"]
    by_path = {each["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]: each for each in run["results"]}
    assert set(by_path) == {"shop/work.py", "shop/more.py"}
    assert by_path["shop/work.py"]["suppressions"] == [{"kind": "inSource", "justification": "a dry run"}]
    assert by_path["shop/more.py"]["level"] == "warning"
    assert by_path["shop/more.py"]["partialFingerprints"] != by_path["shop/work.py"]["partialFingerprints"]
    (note,) = run["invocations"][0]["toolExecutionNotifications"]
    assert "can't be parsed" in note["message"]["text"]


def test_sarif_knows_what_is_new(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With ``--since`` a result is new, unchanged or absent."""
    write(shop / "work.py", LOST)
    write(shop / "gone.py", LOST)
    assert main(["audit", "shop", "--format", "json", "--output", "before.json"]) == 0
    (shop / "gone.py").unlink()
    write(shop / "new.py", LOST)
    told = json.loads(report("--format", "sarif", "--since", "before.json", capsys=capsys))
    states = {
        each["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]: each["baselineState"]
        for each in told["runs"][0]["results"]
    }
    assert states == {"shop/work.py": "unchanged", "shop/gone.py": "absent", "shop/new.py": "new"}


def test_since_does_not_mind_that_lines_move(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An anti-pattern that only stands further down is neither gone nor new."""
    write(shop / "work.py", LOST)
    assert main(["audit", "shop", "--format", "json", "--output", "before.json"]) == 0
    write(shop / "work.py", "\n\n\n" + LOST)
    assert "0 gone, 0 new, 1 left" in report("--since", "before.json", capsys=capsys)


def test_findings_mark_what_a_run_saw(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An entry is seen where a finding of its rule has its line among its places."""
    write(shop / "work.py", LOST)
    write(shop / "more.py", LOST)
    evidence = {"label": "closed", "path": "shop/work.py", "line": 10, "function": "work"}
    finding = {"rule": "lost-writes", "path": "shop/other.py", "line": 1, "function": "f", "evidence": [evidence]}
    finding |= {"message": "", "fingerprint": "x", "pid": 1}
    Path("findings.jsonl").write_text(json.dumps(finding) + "\n", encoding="utf-8")
    told = json.loads(report("--findings", "findings.jsonl", "--format", "json", capsys=capsys))
    seen = {each["path"]: each["seen"] for each in told["anti_patterns"]}
    assert seen == {"shop/work.py": True, "shop/more.py": False}
    assert "seen by the run" in report("--findings", "findings.jsonl", capsys=capsys)


# -- the table of anti-patterns -----------------------------------------------------------------------------


def test_each_anti_pattern_leads_to_a_rule() -> None:
    """Names are unique, and each rule is a registered one."""
    assert len({pattern.name for pattern in ALL}) == len(ALL)
    assert all(rules.find(pattern.rule.slug) is pattern.rule for pattern in ALL)


def test_several_processes_find_the_same(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many processes share the work changes nothing of what is found."""
    for number in range(20):
        write(shop / f"work{number}.py", LOST)
    alone = analyse.audit("shop", workers=1)
    monkeypatch.setattr(analyse, "PARALLEL", 0)
    assert analyse.audit("shop", workers=2).entries == alone.entries


# -- our own examples ---------------------------------------------------------------------------------------


def test_our_examples(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """``--fail`` fails for the examples with the faults, for nothing outside of them, and for no right one."""
    monkeypatch.chdir(ROOT)
    assert main(["audit", "examples", "--format", "json", "--fail"]) == 1
    entries = json.loads(capsys.readouterr().out)["anti_patterns"]
    certain = {each["path"] for each in entries if each["confidence"] == "certain"}
    assert "examples/fastapi_orders/app.py" in certain
    assert [path for path in certain if Path(path).name not in ("app.py", "wrong.py")] == []
    assert main(["audit", "examples/fastapi_orders/repaired.py", "--fail"]) == 0


def test_the_page_lists_every_anti_pattern() -> None:
    """``docs/audit.md`` has a row for each, with the rule that it leads to."""
    page = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    assert [pattern.name for pattern in ALL if f"| `{pattern.name}` |" not in page] == []
    assert all(f"`{pattern.rule.slug}`" in page for pattern in ALL)
