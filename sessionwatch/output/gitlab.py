"""The format ``gitlab``: the JSON of GitLab's code quality report. Allowed and known findings are left out."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .report import Report

_SEVERITIES = {"fault": "critical", "advice": "minor"}


def render(report: Report) -> str:
    """A list of issues, one per finding that is new."""
    issues = [
        {
            "type": "issue",
            "check_name": finding.rule,
            "description": f"{finding.rule}: {finding.message}",
            "content": {"body": finding.fix},
            "categories": ["Bug Risk" if finding.severity == "fault" else "Performance"],
            "fingerprint": f"{finding.fingerprint}-{finding.line or 0}",
            "severity": _SEVERITIES[finding.severity],
            "location": {
                "path": (finding.path or "unknown").replace(os.sep, "/"),
                "lines": {"begin": max(1, finding.line or 1)},
            },
        }
        for finding in (item.finding for item in report.shown)
    ]
    return json.dumps(issues, indent=1) + "\n"
