"""The format ``sarif``: SARIF 2.1.0, for code scanning. A result per anti-pattern; what is allowed is suppressed."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ..._version import __version__
from ...output.sarif_parts import Json, document, location, rule

if TYPE_CHECKING:
    from ..changes import Changes
    from ..result import Audit, Entry

_LEVELS = {"certain": "warning", "likely": "note"}


def render(audit: Audit, changes: Changes | None, colour: bool) -> str:
    """The whole audit. With ``--since``, each result has its baseline state. ``colour`` changes nothing."""
    new = {id(each) for each in changes.new} if changes is not None else None
    ids = sorted({each.rule for each in audit.entries})
    results = [
        _result(each, ids, None if new is None else "new" if id(each) in new else "unchanged") for each in audit.entries
    ]
    if changes is not None:
        results += [_result(each, ids, "absent") for each in changes.gone]
    notes = [
        {
            "level": "warning",
            "message": {"text": each.error},
            "locations": [{"physicalLocation": location(each.path, 1)}],
        }
        for each in audit.unparsed
    ]
    run: Json = {
        "tool": {"driver": _driver(ids, audit)},
        "columnKind": "unicodeCodePoints",
        "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": notes}],
        "results": results,
    }
    return document(run)


def _driver(ids: list[str], audit: Audit) -> Json:
    return {
        "name": "sessionwatch audit",
        "semanticVersion": __version__,
        "rules": [rule(each) for each in ids],
        "properties": {"totals": audit.totals()},
    }


def _result(entry: Entry, ids: list[str], state: str | None) -> Json:
    found: Json = {
        "ruleId": entry.rule,
        "level": _LEVELS[entry.confidence],
        "message": {"text": f"{entry.message} (in {entry.function})"},
        "locations": [{"physicalLocation": location(entry.path, entry.line)}],
        "partialFingerprints": {"sessionwatch/v1": _fingerprint(entry)},
        "properties": {"antiPattern": entry.pattern, "confidence": entry.confidence, "function": entry.function},
    }
    if entry.rule in ids:
        found["ruleIndex"] = ids.index(entry.rule)
    if state is not None:
        found["baselineState"] = state
    if entry.allowed is not None:
        found["suppressions"] = [{"kind": "inSource", "justification": entry.allowed}]
    return found


def _fingerprint(entry: Entry) -> str:
    return hashlib.sha256("\0".join(entry.key).encode()).hexdigest()[:20]
