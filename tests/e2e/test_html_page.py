"""The HTML report in Chromium: what the page shows and does, for eyes, keyboards and screen readers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sessionwatch.output.html import page
from tests.output.sample import HOSTILE, crowd, finding, hostile, occurrence, session, shop
from tests.tools import tool

axe = pytest.importorskip("axe_playwright_python.sync_playwright")
playwright = pytest.importorskip("playwright.sync_api")

pytestmark = pytest.mark.e2e
RANK = ["lost-writes", "cross-task", "detached-access"]
Open = Callable[..., Any]  # what is opened is a page of Playwright's


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, without a network."""
    path = tool("chromium")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens a report of the given findings and recording; whatever the browser complains of fails the test."""
    complaints: list[str] = []
    pages: list[Any] = []

    def open_page(
        findings: Any, recording: Any = None, link: str = "", scheme: str = "light", width: int = 1400
    ) -> Any:
        path = tmp_path / "report.html"
        path.write_text(page(list(findings), {"command": "pytest"}, recording, RANK), encoding="utf-8")
        made = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 1000})
        made.on("console", lambda message: complaints.append(message.text))
        made.on("pageerror", lambda error: complaints.append(str(error)))
        made.on("request", lambda request: complaints.append(request.url) if "report.html" not in request.url else None)
        made.goto(f"{path.as_uri()}{link}")
        pages.append(made)
        return made

    yield open_page
    for made in pages:
        made.close()
    assert complaints == []


@pytest.fixture
def report(opened: Open) -> Any:
    """The sample, opened."""
    return opened(*shop())


def rows(report: Any) -> list[str]:
    """The causes that are listed, by their letters."""
    found: list[str] = report.locator(".cause .bdg").all_inner_texts()
    return found


def violations(report: Any) -> list[str]:
    """What axe-core finds wrong."""
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in axe.Axe().run(report).response["violations"]]


# -- what is shown --------------------------------------------------------------------------------------


def test_verdict_first(report: Any) -> None:
    """The first line counts causes, not findings, and leaves out what is allowed."""
    assert report.locator("h1").inner_text() == "3 faults and 1 piece of advice: four edits end all five findings"
    assert report.locator("#totals").inner_text().startswith("4 new, 1 known, 1 allowed · 5 places · ")


def test_one_row_per_cause(report: Any) -> None:
    """Causes are listed by importance, with what to change and how often each was seen."""
    assert rows(report) == ["A", "B", "C", "D"]
    first = report.locator(".cause").first
    assert first.locator(".fx .m").inner_text() == "with Session.begin() as session:"
    assert first.locator(".r").all_inner_texts() == ["2", "2", "0", "4"]
    assert first.locator(".st").inner_text() == "2 new"


def test_nothing_found(opened: Open) -> None:
    """A report without findings says so."""
    empty = opened([], [])
    assert empty.locator("h1").inner_text() == "No findings"
    assert "There is nothing to change" in empty.locator("#rest").inner_text()


def test_picture(report: Any) -> None:
    """Each session is a bar with its marks; pins, hatching, the arrow to a touch, the end of a leak are drawn."""
    stage = report.locator("#stage")
    assert stage.locator(".sess").count() == 7
    assert sorted(set(stage.locator(".pin text").all_text_contents())) == ["A1", "A2", "B1", "C1", "D1"]
    assert stage.locator(".way:not(.halo)").count() == 1
    assert stage.locator(".bx.leak").count() == 1
    assert stage.locator(".comb").count() == 1
    assert stage.locator("[fill*='h)']").count() == 2
    assert report.locator("#zoomed").inner_text().startswith("7 sessions of 40")


def test_folds_idle_time(report: Any) -> None:
    """Eight seconds in which nothing happens are a break that names its length."""
    assert "nothing happens for 8.49 s" in report.locator("#stage .zig title").all_text_contents()


def test_a_finding_opens(report: Any) -> None:
    """A click on a row opens its most frequent finding: story, small picture, evidence, chain, fix, allowance."""
    report.locator(".cause .row").nth(2).click()
    story = report.locator("article.find")
    assert story.locator("h3").inner_text() == "Order.items was read after its session had ended"
    assert story.locator(".scene svg .sess").count() >= 1
    assert "60 ms after the close" in story.locator(".scene").inner_text()
    assert story.locator(".ev li b").all_inner_texts() == ["touched", "closed", "loaded", "opened"]
    assert "at 220 ms" in story.locator(".ev li").first.inner_text()
    assert "shop/routes.py:3 in post()" in story.locator(".chain").first.inner_text()
    assert "# sessionwatch: allow detached-access -- reason" in story.inner_text()


def test_findings_of_a_cause_are_tabs(report: Any) -> None:
    """One finding of a cause is open at a time; the others are a click away, and can be linked to."""
    report.locator(".cause .row").first.click()
    assert report.locator(".tabs .t").count() == 2
    report.locator(".tabs .t").nth(1).click()
    assert report.locator("article.find").get_attribute("id") == "f-A2"
    assert report.url.endswith(f"#{2:016x}")


def test_link_opens_its_finding(opened: Open) -> None:
    """The permanent link of a finding opens it, also where it is allowed and not shown at first."""
    assert opened(*shop(), link=f"#{3:016x}").locator("article.find").get_attribute("id") == "f-C1"
    allowed = opened(*shop(), link=f"#{6:016x}")
    assert "allowed: dry run" in allowed.locator("article.find").inner_text()


def test_pin_opens_its_finding(report: Any) -> None:
    """A pin of the picture is a way into the list, and dims what it is not about."""
    report.locator("#stage .pin", has_text="B1").first.click()
    assert report.locator("article.find").get_attribute("id") == "f-B1"
    assert report.locator("#stage .sess.dim").count() == 6


def test_table_of_sessions(report: Any) -> None:
    """The same sessions are a table for readers without the picture."""
    report.locator("#tab summary").click()
    playwright.expect(report.locator("#rows tr")).to_have_count(7)
    assert report.locator("#rows tr").first.locator("td").nth(3).inner_text() == "nothing was committed"


def test_zoom(report: Any) -> None:
    """The picture zooms and says how far; All shows everything again."""
    report.get_by_label("Zoom in").click()
    assert report.locator("#zoomed").inner_text().startswith("Zoomed to 60 % of the time.")
    report.get_by_role("button", name="All").click()
    assert report.locator("#zoomed").inner_text().startswith("7 sessions of 40")


def test_source_lines(opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An opened finding shows its source with the line marked."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "views1.py").write_text("".join(f"line {n} <b>\n" for n in range(1, 60)))
    report = opened([finding(1, time="2199-01-01T00:00:00Z")], link=f"#{1:016x}")
    assert report.locator(".src .hit").inner_text().endswith("line 41 <b>")


# -- filters --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "wanted", "left"),
    [
        ("rule", "n-plus-one", ["D"]),
        ("file", "shop/mail.py", ["C"]),
        ("model", "Payment", ["A"]),
        ("unit", "send_mail", ["C"]),
        ("state", "known", ["C"]),
        ("state", "new", ["A", "B", "D"]),
        ("state", "allowed", ["E"]),
    ],
)
def test_filters(report: Any, name: str, wanted: str, left: list[str]) -> None:
    """Each filter leaves the causes that have such a finding."""
    report.select_option(f"#{name}", wanted)
    assert rows(report) == left


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ("order.items", ["C"]),
        ("payment lost-writes", ["A"]),
        ("shop/routes.py:5", ["B"]),
        ("task-9", ["B"]),
        ("xyz", []),
    ],
)
def test_search(report: Any, words: str, left: list[str]) -> None:
    """The search looks through all that a finding says, word by word, and says how many are left."""
    report.fill("#q", words)
    playwright.expect(report.locator(".cause")).to_have_count(len(left))
    assert rows(report) == left
    assert "of 6 findings" in report.locator("#n").inner_text()


def test_filters_dim_the_picture(report: Any) -> None:
    """What is filtered out stays in the picture as context, without its pins."""
    report.select_option("#rule", "cross-task")
    assert report.locator("#stage .sess").count() == 7
    assert report.locator("#stage .sess.dim").count() == 6
    assert set(report.locator("#stage .pin text").all_text_contents()) == {"B1"}


def test_filters_are_cleared(report: Any) -> None:
    """Where nothing matches, one button brings everything back."""
    report.fill("#q", "xyz")
    report.locator("#clear").click()
    assert rows(report) == ["A", "B", "C", "D"]


# -- keyboard, screen readers, colours, paper -----------------------------------------------------------


def test_keyboard(report: Any) -> None:
    """j and k walk through causes, Enter opens, n walks through findings, Escape closes, / searches."""
    for key in ("j", "k", "Enter"):
        report.keyboard.press(key)
    assert report.locator("article.find").get_attribute("id") == "f-A1"
    for _ in range(2):
        report.keyboard.press("n")
    assert report.locator("article.find").get_attribute("id") == "f-B1"
    report.keyboard.press("p")
    assert report.locator("article.find").get_attribute("id") == "f-A2"
    report.keyboard.press("Escape")
    assert report.locator("article.find").count() == 0
    report.keyboard.press("/")
    assert report.evaluate("document.activeElement.id") == "q"


def test_keys_for_the_picture(report: Any) -> None:
    """z shows the open finding in the time line, + and - zoom, 0 shows all."""
    for key in ("j", "Enter", "z"):
        report.keyboard.press(key)
    zoomed = report.locator("#zoomed")
    assert zoomed.inner_text().startswith("Zoomed to ")
    report.keyboard.press("0")
    assert zoomed.inner_text().startswith("7 sessions")
    report.keyboard.press("+")
    assert zoomed.inner_text().startswith("Zoomed to 60 %")
    report.keyboard.press("-")
    assert zoomed.inner_text().startswith("7 sessions")


def test_picture_is_one_tab_stop(report: Any) -> None:
    """Arrow keys walk through sessions and pins, each of which says what it is; Enter opens a finding."""
    assert report.locator("#stage [tabindex='0']").count() == 1
    report.locator("#stage [tabindex='0']").focus()
    assert "Session S1: nothing was committed" in report.evaluate("document.activeElement.getAttribute('aria-label')")
    assert "Session S1" in report.locator("#tip").inner_text()
    report.keyboard.press("ArrowRight")
    assert report.locator("#stage [tabindex='0']").count() == 1
    report.keyboard.press("ArrowLeft")
    report.keyboard.press("Enter")
    assert report.locator("article.find").get_attribute("id") == "f-A1"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("link", ["", f"#{3:016x}", f"#{5:016x}"])
def test_accessible(opened: Open, scheme: str, link: str) -> None:
    """axe-core finds nothing wrong, in both colours, closed and open, with the table open."""
    report = opened(*shop(), link=link, scheme=scheme)
    report.locator("#tab summary").click()
    assert violations(report) == []


def test_narrow(opened: Open) -> None:
    """800 pixels are enough: nothing sticks out at the side, and nothing is wrong for axe-core."""
    report = opened(*shop(), link=f"#{3:016x}", width=800)
    assert report.evaluate("document.documentElement.scrollWidth") <= 800
    assert violations(report) == []


def test_colours(opened: Open) -> None:
    """The page follows the system's colours, and a button changes them."""
    report = opened(*shop(), scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = report.evaluate(background)
    report.locator("#theme").click()
    assert report.evaluate(background) != dark
    assert report.evaluate("document.documentElement.dataset.theme") == "light"


def test_print(opened: Open) -> None:
    """On paper it is what is open, always light, without what can only be clicked."""
    report = opened(*shop(), link=f"#{3:016x}", scheme="dark")
    report.emulate_media(media="print")
    assert report.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not report.locator("#bar").is_visible()
    assert report.locator("article.find").is_visible()


# -- large, and hostile ---------------------------------------------------------------------------------


def test_ten_thousand_findings(opened: Open) -> None:
    """A report of 10,000 findings makes a bounded number of nodes, and filters, searches and shows more of them."""
    nodes = "document.querySelectorAll('*').length"
    report = opened(crowd(10_000))
    assert report.locator("#n").inner_text() == "10,000 findings"
    assert report.locator(".cause").count() == 100
    assert report.evaluate(nodes) < 5_000
    report.locator("#more").click()
    assert report.locator(".cause").count() == 200
    report.fill("#q", "views9999.py")
    playwright.expect(report.locator(".cause")).to_have_count(1)
    report.locator(".cause .row").click()
    assert "9999 Order objects" in report.locator("article.find h3").inner_text()
    assert report.evaluate(nodes) < 5_000


def test_thousands_of_sessions(opened: Open) -> None:
    """A picture of thousands of sessions with findings is a bounded number of nodes, too; zooming in shows more."""
    recorded: list[Any] = [{"kind": "totals", "pid": 4711, "seen": 9_000, "unnoted": 0}]
    for number in range(1, 3_001):
        name = {"unit": number, "unit_name": f"GET /{number % 40}"}
        recorded.append(session(number, number / 50, number / 50 + 0.015, end="lost", **name))
        recorded.append(occurrence(number, number / 50 + 0.016, **name))
    report = opened(crowd(3_000), recorded)
    assert report.locator("#zoomed").inner_text().startswith("3,000 sessions of 9,000: all 3,000 with a finding")
    assert report.evaluate("document.querySelectorAll('*').length") < 20_000
    assert report.locator("#stage .sess").count() == 400


def test_link_into_ten_thousand_findings(opened: Open) -> None:
    """A link to a finding far down makes the rows around it only; those before are a click away."""
    report = opened(crowd(10_000), link=f"#{9_001:016x}")
    assert "9001 Order objects" in report.locator("article.find h3").inner_text()
    assert report.locator(".cause").count() <= 100
    assert report.evaluate("document.querySelectorAll('*').length") < 5_000
    report.locator("#earlier").click()
    assert report.locator(".cause").count() <= 200
    assert report.locator("article.find").count() == 1
    report.keyboard.press("k")
    assert report.evaluate("document.activeElement.className") == "row"


def test_one_cause_of_thousands(opened: Open) -> None:
    """A cause with thousands of findings pages through them."""
    report = opened(finding(number, cause="one") for number in range(1, 3_001))
    report.locator(".cause .row").click()
    assert report.locator(".tabs .t").count() == 8
    report.get_by_label("Later findings").click()
    assert "9 to 16 of 3,000" in report.locator(".tabs").inner_text()
    assert report.evaluate("document.querySelectorAll('*').length") < 5_000


def test_hostile_names_are_inert(opened: Open) -> None:
    """Names that try to be markup or code are shown as text, wherever they stand."""
    findings, recorded = hostile()
    report = opened(findings, recorded, link=f"#{1:016x}")
    assert report.evaluate("window.hacked") is None
    assert "<img src=x onerror=window.hacked=1>" in report.locator("article.find h3").inner_text()
    assert "\\x1b[31m" in report.locator("article.find h3").inner_text()
    assert report.locator("img").count() == 0
    report.locator("#stage .sess").first.hover()
    report.select_option(
        "#rule", findings[0]["rule"].replace("\x00", "\\x00").replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    )
    report.fill("#q", HOSTILE[:20])
    assert report.evaluate("window.hacked") is None
