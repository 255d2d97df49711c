"""The format ``sarif``: SARIF 2.1.0, for code scanning and editors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import rules
from .._version import __version__
from . import sarif_parts
from .causes import causes
from .edits import Change, Edit, edit
from .sarif_parts import Json, document, location, uri

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..model import Evidence, Finding, Site
    from .report import Report
    from .store import Seen

_LEVELS = {"fault": "error", "advice": "warning"}


def render(report: Report) -> str:
    """One run, with a result per finding; what an allowance covers is suppressed, what the baseline knows unchanged."""
    seen = [item for cause in causes(report.seen) for item in cause.seen]
    slugs = list(dict.fromkeys([*(item.finding.rule for item in seen), *(str(it["rule"]) for it in report.absent)]))
    run: Json = {
        "tool": {"driver": _driver(slugs)},
        "columnKind": "utf16CodeUnits",
        "results": [_result(item, slugs) for item in seen] + [_absent(item, slugs) for item in report.absent],
        "invocations": [
            {
                "executionSuccessful": not report.failures(),
                "toolExecutionNotifications": [
                    {"level": "error", "message": {"text": line}} for line in report.failures()
                ],
            }
        ],
    }
    return document(run)


def _driver(slugs: list[str]) -> Json:
    return {
        "name": "sessionwatch",
        "version": __version__,
        "rules": [_rule(slug) for slug in slugs],
    }


def _rule(slug: str) -> Json:
    found = sarif_parts.rule(slug)
    if "name" in found:
        found["defaultConfiguration"] = {"level": _LEVELS[rules.find(slug).severity]}
    return found


def _result(item: Seen, slugs: list[str]) -> Json:
    finding = item.finding
    result: Json = {
        "ruleId": finding.rule,
        "ruleIndex": slugs.index(finding.rule),
        "level": _LEVELS[finding.severity],
        "message": {"text": f"{finding.message}\nfix: {finding.fix}" if finding.fix else finding.message},
        "locations": [_location(finding.site)] if finding.site is not None else [],
        "partialFingerprints": {"sessionwatch/v2": finding.fingerprint},
        "baselineState": "unchanged" if finding.known else "new",
        "occurrenceCount": item.count,
        "properties": {
            "cause": finding.cause,
            "subject": finding.subject,
            "units": list(item.units)[:20],
            "tests": list(item.tests)[:20],
        },
    }
    flow = _flow(finding)
    if flow:
        result["codeFlows"] = [{"threadFlows": [{"locations": flow}]}]
    if len(finding.chain) > 1:
        frames = [{"location": _location(frame)} for frame in finding.chain]
        result["stacks"] = [{"message": {"text": "called from"}, "frames": frames}]
    if finding.allowed is not None:
        result["suppressions"] = [{"kind": "inSource", "justification": finding.allowed}]
    change = edit(finding)
    if change is not None:
        result["fixes"] = [_fix(change, finding)]
    return result


def _absent(entry: Mapping[str, str | None], slugs: list[str]) -> Json:
    """What the baseline knows and this run did not meet: there is no line, for a baseline has none."""
    path, function = entry["path"], entry["function"]
    place: Json = {}
    if path is not None:
        place["physicalLocation"] = {"artifactLocation": {"uri": uri(path)}}
    if function is not None:
        place["logicalLocations"] = [{"fullyQualifiedName": function, "kind": "function"}]
    rule = str(entry["rule"])
    return {
        "ruleId": rule,
        "ruleIndex": slugs.index(rule),
        "message": {"text": f"{entry['subject'] or rule}: known, and not met any more"},
        "locations": [place] if place else [],
        "partialFingerprints": {"sessionwatch/v2": str(entry["fingerprint"])},
        "baselineState": "absent",
    }


def _flow(finding: Finding) -> list[Json]:
    """The evidence in the order in which it happened: what opened the session first."""
    placed = [item for item in reversed(finding.evidence) if item.site is not None]
    return [
        {"executionOrder": place, "location": _location(item.site, _told(item))} for place, item in enumerate(placed, 1)
    ]


def _told(item: Evidence) -> str:
    about = [f"session {item.session}" if item.session else "", item.note, f"task {item.task}" if item.task else ""]
    return ", ".join([item.label, *(part for part in about if part)])


def _location(site: Site | None, text: str = "") -> Json:
    if site is None:
        return {}
    found: Json = {
        "physicalLocation": location(site.shown_path, site.line),
        "logicalLocations": [{"fullyQualifiedName": site.function, "kind": "function"}],
    }
    if text:
        found["message"] = {"text": text}
    return found


def _fix(change: Edit, finding: Finding) -> Json:
    replacements = [_replacement(part) for part in change.changes]
    return {
        "description": {"text": finding.fix},
        "artifactChanges": [
            {"artifactLocation": {"uri": uri(change.shown_path)}, "replacements": replacements},
        ],
    }


def _replacement(change: Change) -> Json:
    if change.column is not None:
        before = change.lines[0].encode()[: change.column].decode()
        column = len(before.encode("utf-16-le")) // 2 + 1
        region = {"startLine": change.first, "startColumn": column, "endLine": change.first, "endColumn": column}
        return {"deletedRegion": region, "insertedContent": {"text": change.text}}
    region = {"startLine": change.first, "startColumn": 1, "endLine": change.last, "endColumn": 1}
    return {"deletedRegion": region, "insertedContent": {"text": "".join(f"{line}\n" for line in change.lines)}}
