"""Every key of the configuration: what it takes, its default, its environment variable, and what it is for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field

from .. import config, rules
from ..model import LEVELS, MODES, Setting

Value = bool | int | float | str | None

_MODE = ", ".join((*MODES, config.OFF))
# name: what it takes, its default, what it is for
PLAIN: dict[str, tuple[str, Value, str]] = {
    "mode": (f"one of {_MODE}", "log", "how much is watched, and how it is told; off: nothing is hooked"),
    "rules": ("table of RULE = LEVEL", None, "levels by rule; `all` sets every rule that is not named"),
    "settings": ("table of NAME = VALUE", None, "settings by their full names, which are listed below"),
    "output": ("path", None, "a file that findings are appended to, one JSON object a line"),
    "baseline": ("path", None, "a file with the findings that are known: only new ones count"),
    "source": ("list of folders", None, "code of the program's own that is installed as libraries are"),
    "through": ("list of globs", None, "files that only pass calls on: findings point to the caller outside of them"),
}


@dataclass(frozen=True, slots=True)
class Key:
    """One key. ``name`` is the one in ``pyproject.toml``, below ``[tool.sessionwatch]``.

    ``defaults``: by mode, where a mode has its own. ``example``: the variable, as it sets this key.
    """

    name: str
    takes: str
    default: Value
    variable: str
    example: str
    help: str
    defaults: Mapping[str, Value] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def keys() -> Iterator[Key]:
    """All of them: the plain ones, the level of each rule, each setting."""
    for name, (takes, default, told) in PLAIN.items():
        yield Key(name, takes, default, config.ENVIRONMENT[name], _EXAMPLES[name], told)
    for rule in rules.ALL:
        levels: dict[str, Value] = {mode: rule.level_in(mode) for mode in MODES}
        name, variable = f"rules.{rule.slug}", config.ENVIRONMENT["rules"]
        takes = f"one of {', '.join(LEVELS)}"
        yield Key(name, takes, levels["log"], variable, f"{rule.slug}=off", rule.summary, levels)
    settings = [*config.GENERAL.items()]
    settings += [(f"{rule.slug}.{name}", setting) for rule in rules.ALL for name, setting in rule.settings.items()]
    for name, setting in settings:
        example = f"{name}={_another(setting)}"
        variable = config.ENVIRONMENT["settings"]
        yield Key(
            f"settings.{name}", setting.takes, setting.default, variable, example, setting.help, {**setting.defaults}
        )


_EXAMPLES = {
    "mode": "strict",
    "rules": "n-plus-one=off,detached-touch=log",
    "settings": "long-session.seconds=10",
    "output": "findings.jsonl",
    "baseline": "sessionwatch-baseline.json",
    "source": "vendored/app:plugins",
    "through": "app/db.py:app/repositories/base.py",
}


def _another(setting: Setting) -> str:
    """A value that is not the default."""
    if setting.choices:
        return next(choice for choice in setting.choices if choice != setting.default)
    if isinstance(setting.default, bool):
        return str(not setting.default).lower()
    assert not isinstance(setting.default, str)
    return f"{2 * setting.default or 10:g}"
