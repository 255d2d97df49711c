"""What the rules need: the limits from which on something is worth an event, and what this SQLAlchemy lacks."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from .. import rules
from ..hooks import installing
from ..hooks.private import VERSION
from ..model import Limits
from ..record.events import Counted
from ..saying import say

if TYPE_CHECKING:
    from ..config import Config
    from ..hooks.context import Table


def limits(config: Config) -> Limits:
    """Those that follow from the rules' settings."""
    found = Limits()
    for rule in rules.ALL:
        if rule.limits is not None:
            found = rule.limits(found, config.rule_settings(rule.slug), config.levels[rule.slug])
    return found


class Lacks:
    """What can't work with this SQLAlchemy: ``rules``, by the slug, each with the name that is missing.

    ``table``: the hooks that there are.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self.rules: dict[str, str] = {}
        self.counting: str | None = None  # what telemetry would need, where it can't count

    def switch_off(self, config: Config) -> list[str]:
        """Set the rules that can't work to ``off``; returns those that were on."""
        needs = {rule.slug: rule.events + rule.parts for rule in rules.ALL}
        without = installing.missing(self._table, [Counted, *(kind for kinds in needs.values() for kind in kinds)])
        self.rules = {slug: without[kind] for slug, kinds in needs.items() for kind in kinds if kind in without}
        self.counting = without.get(Counted)
        off = [slug for slug in self.rules if config.levels[slug] != "off"]
        for slug in off:
            config.levels[slug] = "off"
            config.origins[f"rules.{slug}"] = f"SQLAlchemy {VERSION} has no {self.rules[slug]}, which the rule needs"
        return off

    def tell(self, config: Config, off: list[str]) -> None:
        """Say once what is off because of SQLAlchemy: these rules, and the counting."""
        lacks = [self.rules[slug] for slug in off]
        if self.counting is not None and config.mode == "telemetry":
            lacks.append(self.counting)
            off = [*off, "what telemetry counts"]
        if off:
            names = ", ".join(dict.fromkeys(lacks))
            told = "sessionwatch: SQLAlchemy %s has no %s as sessionwatch knows it; switched off: %s"
            say(logging.WARNING, told, VERSION, names, ", ".join(off))

    def status(self) -> dict[str, str]:
        """Why telemetry does not count, where it can't."""
        if self.counting is None:
            return {}
        return {"counting": f"off: SQLAlchemy {VERSION} has no {self.counting}, which counting needs"}
