"""Run one half of a scenario, bare or watched, and compare what was found with the marks in its source.

``# expect: rule``             a finding of that rule points at this line; ``# expect: one, two`` is two of them
``# expect on sqlite: rule``   only there
``# evidence: rule label``     a finding of that rule has evidence with this label at this line

A rule that is planned but not registered yet is expected of nobody.
"""

from __future__ import annotations

import asyncio
import gc
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest
from sqlalchemy import make_url

from sessionwatch import Finding, uninstall, watching
from sessionwatch.rules import ALL

EXPECTED = re.compile(r"# expect(?: on (?P<backend>\w+))?: (?P<rules>[a-z-]+(?:, [a-z-]+)*)")
EVIDENCE = re.compile(r"# evidence: ([a-z-]+) ([a-z-]+)")
REGISTERED = frozenset(rule.slug for rule in ALL)

Main = Callable[..., Awaitable[dict[str, Any]]]
Place = tuple[str, str, int]


@dataclass
class Outcome:
    """What one run showed: to a user, to whoever reads the loop's log, and to sessionwatch."""

    symptoms: dict[str, Any]
    findings: list[Finding] = field(default_factory=list)
    loop_errors: list[str] = field(default_factory=list)

    @property
    def places(self) -> set[Place]:
        """Rule, file name and line of each finding."""
        sites = [(finding.rule, finding.site) for finding in self.findings]
        return {(rule, Path(site.path).name, site.line) if site else (rule, "", 0) for rule, site in sites}

    @property
    def evidence(self) -> set[tuple[str, str, int]]:
        """Rule, label and line of all evidence."""
        every = [(finding.rule, item) for finding in self.findings for item in finding.evidence]
        return {(rule, item.label, item.site.line) for rule, item in every if item.site is not None}

    def told(self) -> str:
        """Every finding with its place, for the message of an assertion."""
        return "\n".join(f"{f.rule} at {f.path}:{f.line}: {f.message}" for f in self.findings)


def bare(main: Main, url: str, **options: Any) -> Outcome:
    """One run without sessionwatch."""
    uninstall()
    errors: list[str] = []
    return Outcome(asyncio.run(_to_its_end(main, url, errors, options)), loop_errors=errors)


def watched(
    main: Main,
    url: str,
    mode: Literal["log", "strict", "telemetry"],
    *,
    rules: dict[str, Any],
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> Outcome:
    """One run with sessionwatch in ``mode``; our own errors raise."""
    uninstall()
    errors: list[str] = []
    with pytest.MonkeyPatch.context() as patched, watching(mode, log=False, rules=rules, settings=settings) as watch:
        patched.setenv("SESSIONWATCH_TESTING", "1")
        symptoms = asyncio.run(_to_its_end(main, url, errors, options))
        gc.collect()
        watch.drain()
        return Outcome(symptoms, list(watch.findings), errors)


def marks(module: ModuleType, url: str) -> set[Place]:
    """What sessionwatch has to find in this file on this backend."""
    backend, path = make_url(url).get_backend_name(), Path(str(module.__file__))
    return {
        (rule, path.name, number)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for mark in EXPECTED.finditer(line)
        for rule in mark["rules"].split(", ")
        if mark["backend"] in (None, backend) and _is_registered(rule)
    }


def evidence_marks(module: ModuleType) -> set[tuple[str, str, int]]:
    """Evidence that the findings in this file have to have."""
    lines = enumerate(Path(str(module.__file__)).read_text(encoding="utf-8").splitlines(), 1)
    found = [(mark[1], mark[2], number) for number, line in lines for mark in EVIDENCE.finditer(line)]
    return {(rule, label, number) for rule, label, number in found if _is_registered(rule)}


def named(module: ModuleType) -> set[str]:
    """The rules that the marks of this file name, on whichever backend, registered or not."""
    text = Path(str(module.__file__)).read_text(encoding="utf-8")
    return {rule for mark in EXPECTED.finditer(text) for rule in mark["rules"].split(", ")}


def listed(module: ModuleType) -> set[str]:
    """Those of them that are registered."""
    return {rule for rule in named(module) if _is_registered(rule)}


def every_rule(level: Literal["log", "raise"]) -> dict[str, str]:
    """All rules that there are, at one level."""
    return dict.fromkeys(REGISTERED, level)


def known_settings(**settings: Any) -> dict[str, Any]:
    """Settings given as ``rule__name=value``, of registered rules."""
    named = {name.replace("__", ".").replace("_", "-"): value for name, value in settings.items()}
    return {name: value for name, value in named.items() if name.partition(".")[0] in REGISTERED}


def assert_as_marked(outcome: Outcome, module: ModuleType, url: str) -> None:
    """Each marked line has its finding, each finding a marked line, and the evidence names the lines it has to."""
    assert outcome.places == marks(module, url), outcome.told()
    assert evidence_marks(module) <= outcome.evidence, outcome.evidence


def _is_registered(rule: str) -> bool:
    assert rule in REGISTERED, f"a mark names {rule!r}, which is no rule"
    return rule in REGISTERED


async def _to_its_end(main: Main, url: str, errors: list[str], options: dict[str, Any]) -> dict[str, Any]:
    """The program, and after it the garbage that it left, while its loop is still there."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(type(context.get("exception")).__name__))
    symptoms = await main(url, **options)
    gc.collect()
    await asyncio.sleep(0)
    return symptoms
