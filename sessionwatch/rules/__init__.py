"""The rules, one file each. `ALL` is the table that registers them."""

from __future__ import annotations

from ..config import nearest  # the package's configuration; `config` below is a rule
from ..model import LEVELS, MODES, ConfigError, Rule
from . import (
    blocking_io,
    boundary,
    config,
    cross_process,
    cross_session,
    cross_task,
    detached_access,
    detached_touch,
    detached_write,
    discarded_writes,
    foreign_loop,
    implicit_io,
    late_commit,
    long_session,
    lost_writes,
    n_plus_one,
    reattach,
    session_leak,
    shared_connection,
    split_unit_of_work,
    swallowed_error,
    untracked_mutation,
    use_after_close,
)

ALL: tuple[Rule, ...] = (
    detached_access.RULE,
    detached_touch.RULE,
    detached_write.RULE,
    lost_writes.RULE,
    session_leak.RULE,
    use_after_close.RULE,
    cross_task.RULE,
    cross_session.RULE,
    reattach.RULE,
    implicit_io.RULE,
    n_plus_one.RULE,
    blocking_io.RULE,
    split_unit_of_work.RULE,
    long_session.RULE,
    shared_connection.RULE,
    late_commit.RULE,
    discarded_writes.RULE,
    swallowed_error.RULE,
    cross_process.RULE,
    foreign_loop.RULE,
    untracked_mutation.RULE,
    boundary.RULE,
    config.RULE,
)


def handling(kind: type) -> tuple[Rule, ...]:
    """The rules that handle events of a type."""
    return tuple(rule for rule in ALL if kind in rule.events)


def slugs_by_event() -> dict[type, tuple[str, ...]]:
    """The slugs of the rules that handle each type of event."""
    return {kind: tuple(rule.slug for rule in handling(kind)) for rule in ALL for kind in rule.events}


def find(slug: str) -> Rule:
    """The rule of that name. Raises `sessionwatch.ConfigError` with the nearest valid name."""
    for rule in ALL:
        if rule.slug == slug:
            return rule
    raise ConfigError(f"unknown rule {slug!r}.{nearest(slug, [rule.slug for rule in ALL])}")


def explain(slug: str) -> str:
    """The rule's page, as Markdown, with its levels and settings. Raises `sessionwatch.ConfigError` if unknown."""
    rule = find(slug)
    return f"# {rule.slug}\n\n{rule.summary}\n\n{rule.page.strip()}\n\n{settings_of(rule)}"


def settings_of(rule: Rule) -> str:
    """The end of a rule's page: its level in each mode, where it raises, and what can be set."""
    levels = ", ".join(f"`{rule.level_in(mode)}` in mode {mode}" for mode in MODES)
    table = ["[tool.sessionwatch.rules]", f'{rule.slug} = "{rule.level_in("log")}"  # {", ".join(LEVELS)}']
    told = []
    for name, setting in rule.settings.items():
        others = "".join(f", in mode {mode} {value}" for mode, value in setting.defaults.items())
        told.append(f"- `{rule.slug}.{name}`: {setting.takes}, default {setting.default}{others}\n  ({setting.help})")
    if told:
        table += ["", "[tool.sessionwatch.settings]"]
        table += [f"{rule.slug}.{name} = {_toml(setting.default)}" for name, setting in rule.settings.items()]
    lines = ["## Levels and settings", f"{rule.severity.capitalize()}: {levels}.", f"Raised: {rule.safe_point}."]
    return "\n".join([*lines, *([""] if told else ()), *told, "", "```toml", *table, "```", ""])


def _toml(value: bool | float | str) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()
