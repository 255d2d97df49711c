"""Configuration: defaults < ``[tool.sessionwatch]`` < environment < keyword arguments.

Each effective value remembers where it came from, for ``watch.status()`` and ``sessionwatch config``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .model import LEVELS, MODES, ConfigError, Finding, Level, Mode, Options, Rule, Setting

ENVIRONMENT = {
    "mode": "SESSIONWATCH_MODE",
    "rules": "SESSIONWATCH_RULES",
    "settings": "SESSIONWATCH_SETTINGS",
    "output": "SESSIONWATCH_OUTPUT",
    "baseline": "SESSIONWATCH_BASELINE",
    "source": "SESSIONWATCH_SOURCE",
    "through": "SESSIONWATCH_THROUGH",
}

_INTERNAL = ("SESSIONWATCH_RUN", "SESSIONWATCH_INTERNAL_ERRORS", "SESSIONWATCH_CACHE", "SESSIONWATCH_REQUIRE_SERVICES")
_INTERNAL_PREFIX = "SESSIONWATCH_TEST"  # of this project's own tests

OFF: Mode = "off"  # nothing is watched: no hook, no thread
ALL = "all"  # every rule at once; a rule that is named in the same place has its own level
_WITH_OFF: tuple[Mode, ...] = (*MODES, OFF)
_TRUE, _FALSE = ("true", "yes", "1", "on"), ("false", "no", "0", "off")

_MOST = 1_000_000  # of what is kept in memory: room is made for all of it

GENERAL: dict[str, Setting] = {
    "history.sessions": Setting(4096, "closed sessions whose story is kept", least=1, most=_MOST),
    "history.loads": Setting(4096, "queries whose place is kept", least=1, most=_MOST),
    "history.findings": Setting(10_000, "different findings that are kept; more are only counted", least=1, most=_MOST),
    "breaker.share": Setting(
        0.01,
        "share of a processor that stories of findings may cost over ten seconds in telemetry; then a minute without",
    ),
    "telemetry.models": Setting(False, "models and attributes as attributes of the metric of lazy loads"),
    "telemetry.spans": Setting(True, "a span per session, where the span around it is sampled"),
    "telemetry.logging": Setting(True, "findings go to `logging` too where OpenTelemetry has a logger provider"),
    "telemetry.models_cap": Setting(200, "pairs of model and attribute on a metric; the rest become 'other'", least=0),
}

_PATHS = (str, os.PathLike)
_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "rules": ((Mapping,), "a table of RULE = LEVEL"),
    "settings": ((Mapping,), "a table of NAME = VALUE"),
    "output": (_PATHS, "a path"),
    "baseline": (_PATHS, "a path"),
    "source": ((*_PATHS, list, tuple), "a folder, or a list of folders"),
}


@dataclass(slots=True)
class Config:
    """Effective configuration. ``origins`` maps each name to where its value came from."""

    mode: Mode = "log"
    target: Any = None
    levels: dict[str, Level] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    on_finding: Callable[[Finding], object] | None = None
    output: str | None = None
    baseline: str | None = None
    source: tuple[str, ...] = ()
    through: tuple[str, ...] = ()  # globs of files that only pass calls on, relative to ``root``
    root: str = ""  # the project's: fingerprints and the baseline name files as they are seen from there
    origins: dict[str, str] = field(default_factory=dict)

    def rule_settings(self, slug: str) -> Options:
        """The settings of one rule, without the rule's name in front."""
        prefix = slug + "."
        return Options((name[len(prefix) :], value) for name, value in self.settings.items() if name.startswith(prefix))


def load(
    rules: Iterable[Rule],
    *,
    keywords: Mapping[str, Any] | None = None,
    keywords_from: str = "install()",
    environ: Mapping[str, str] | None = None,
    start: str | os.PathLike[str] | None = None,
    mode_by_default: tuple[Mode, str] | None = None,
) -> Config:
    """Merge every source into a `Config`.

    ``keywords`` are those of `sessionwatch.install`; None means "not given". ``keywords_from`` names them in
    messages and origins. ``start`` is the folder from which the nearest ``pyproject.toml`` is looked for
    (default: the working directory); the project's root is that file's folder, or ``start`` where there is none.
    ``mode_by_default``: the mode where none
    of the layers has one, and who says so.

    Raises `ConfigError` for an unknown mode, rule, level or setting, with the nearest valid name.
    """
    known = {rule.slug: rule for rule in rules}
    layers = [
        _from_pyproject(Path(start) if start else Path.cwd()),
        _from_environment(os.environ if environ is None else environ),
        _from_keywords(keywords or {}, keywords_from),
    ]
    config = Config()
    for name in ("mode", "output", "baseline", "source", "through"):
        config.origins[name] = "default"
    if mode_by_default is not None:
        config.mode, config.origins["mode"] = mode_by_default
    levels: dict[str, tuple[Level, str]] = {}
    options = {**GENERAL, **_rule_options(known.values())}
    values = {name: (option.default, "default") for name, option in options.items()}
    for origin, layer in layers:
        _apply_plain(config, origin, layer)
        for slug, level in _all_first(layer.get("rules") or {}, known):
            _check_rule(slug, list(known), origin)
            levels[slug] = (_check_level(slug, level, origin), origin)
        for name, value in (layer.get("settings") or {}).items():
            values[name] = (_check_setting(name, value, options, origin), origin)
    if layers[1][1].get("mode") == OFF:  # the switch for whoever runs the program, whatever its code says
        config.mode, config.origins["mode"] = OFF, "environment"
    for slug, rule in known.items():
        if config.mode == OFF:
            levels[slug] = ("off", "mode off")
        level, origin = levels.get(slug, (rule.level_in(config.mode), f"default of mode {config.mode}"))
        if config.mode == "telemetry" and level == "raise":
            level, origin = "log", f"{origin} (telemetry never raises)"
        config.levels[slug] = level
        config.origins[f"rules.{slug}"] = origin
    for name, (value, origin) in values.items():
        if origin == "default" and config.mode in options[name].defaults:
            value, origin = options[name].defaults[config.mode], f"default of mode {config.mode}"
        config.settings[name] = value
        config.origins[f"settings.{name}"] = origin
    return config


def nearest(name: str, valid: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` or an empty string."""
    import difflib  # a program without mistakes starts without it

    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def strange_variables(environ: Mapping[str, str] | None = None) -> list[str]:
    """A sentence on each variable that has our prefix and that nothing reads.

    None in a program that ``sessionwatch run`` has started: it has said so already.
    """
    environ = os.environ if environ is None else environ
    names = [name for name in environ if name.startswith("SESSIONWATCH_") and name not in ENVIRONMENT.values()]
    if not names or "SESSIONWATCH_RUN" in environ:
        return []
    return [
        f"no setting is read from the environment variable {name}.{nearest(name, ENVIRONMENT.values())}"
        for name in sorted(names)
        if name not in _INTERNAL and not name.startswith(_INTERNAL_PREFIX)
    ]


def check_mode(mode: object, origin: str = "") -> Mode:
    """``mode`` itself, or `ConfigError` with the nearest valid name."""
    for valid in _WITH_OFF:
        if mode == valid:
            return valid
    where = f" ({origin})" if origin else ""
    names = ", ".join(_WITH_OFF)
    raise ConfigError(f"unknown mode {mode!r}{where}: choose one of {names}.{nearest(str(mode), _WITH_OFF)}")


def _check_types(layer: Mapping[str, Any], origin: str) -> None:
    if layer.get("on_finding") is not None and not callable(layer["on_finding"]):
        raise ConfigError(f"on_finding takes a function, not {layer['on_finding']!r} ({origin})")
    globs = layer.get("through")
    listed = isinstance(globs, list | tuple) and all(isinstance(glob, str) for glob in globs)
    if globs is not None and not listed:
        raise ConfigError(f"through takes a list of strings, not {globs!r} ({origin})")
    for name, (kinds, wanted) in _TYPES.items():
        value = layer.get(name)
        parts = value if isinstance(value, list | tuple) else []
        if value is not None and not (isinstance(value, kinds) and all(isinstance(part, _PATHS) for part in parts)):
            raise ConfigError(f"{name} takes {wanted}, not {value!r} ({origin})")


def _apply_plain(config: Config, origin: str, layer: Mapping[str, Any]) -> None:
    if layer.get("mode") is not None:
        config.mode = check_mode(layer["mode"], origin)
        config.origins["mode"] = origin
    for name in ("output", "baseline"):
        if layer.get(name) is not None:
            setattr(config, name, os.fspath(layer[name]))
            config.origins[name] = origin
    if layer.get("source"):
        config.source = tuple(os.path.abspath(part) for part in layer["source"])
        config.origins["source"] = origin
    if layer.get("through") is not None:
        config.through = tuple(layer["through"])
        config.origins["through"] = origin
    config.root = layer.get("root", config.root)
    for name in ("target", "on_finding"):
        if layer.get(name) is not None:
            setattr(config, name, layer[name])
            config.origins[name] = origin


def _all_first(levels: Mapping[str, Any], known: Iterable[str]) -> Iterable[tuple[str, Any]]:
    """The levels of one place, those of ``all`` spelled out before the others."""
    if ALL in levels:
        yield from ((slug, levels[ALL]) for slug in known)
    yield from ((slug, level) for slug, level in levels.items() if slug != ALL)


def _rule_options(rules: Iterable[Rule]) -> dict[str, Setting]:
    return {f"{rule.slug}.{name}": option for rule in rules for name, option in rule.settings.items()}


def _check_rule(slug: object, valid: list[str], origin: str) -> None:
    if slug not in valid:
        raise ConfigError(f"unknown rule {slug!r} ({origin}).{nearest(str(slug), valid)}")


def _check_level(slug: str, level: object, origin: str) -> Level:
    if level is False:  # YAML-minded people and TOML write off as false
        return "off"
    for valid in LEVELS:
        if level == valid:
            return valid
    raise ConfigError(
        f"rule {slug!r} can't be set to {level!r} ({origin}): choose one of {', '.join(LEVELS)}."
        f"{nearest(str(level), LEVELS)}"
    )


def _check_setting(name: str, value: Any, options: dict[str, Setting], origin: str) -> Any:
    if name not in options:
        raise ConfigError(f"unknown setting {name!r} ({origin}).{nearest(name, options)}")
    option = options[name]
    try:
        converted = _convert(value, option)
    except (ValueError, TypeError, OverflowError) as error:
        raise ConfigError(f"setting {name!r} takes {option.takes}, not {value!r} ({origin})") from error
    return converted


def _convert(value: Any, option: Setting) -> Any:
    kind = type(option.default)
    if option.choices:
        if value not in option.choices:
            raise ValueError(value)
        return value
    if kind is bool:
        if isinstance(value, bool):
            return value
        word = str(value).lower()
        if word not in (*_TRUE, *_FALSE):
            raise ValueError(value)
        return word in _TRUE
    if isinstance(value, bool):
        raise ValueError(value)
    converted = kind(value)
    if isinstance(value, float) and converted != value:  # 2.5 is no int
        raise ValueError(value)
    if option.most is not None and not float(converted) <= option.most:
        raise ValueError(value)
    if option.least is not None and not float(converted) >= option.least:  # nan is not, either
        raise ValueError(value)
    return converted


def _from_pyproject(start: Path) -> tuple[str, dict[str, Any]]:
    for folder in (start, *start.parents):
        path = folder / "pyproject.toml"
        if path.is_file():
            break
    else:
        return "pyproject.toml", {"root": str(start)}
    import tomllib  # many programs have no such file

    try:
        tools = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}") from error
    if not isinstance(tools, Mapping):
        raise ConfigError(f"tool takes a table, not {tools!r} ({path})")
    table = tools.get("sessionwatch", {})
    if not isinstance(table, Mapping):
        raise ConfigError(f"tool.sessionwatch takes a table, not {table!r} ({path})")
    _check_types(table, str(path))
    valid = (*ENVIRONMENT, "pytest")
    for name in table:
        if name not in valid:
            raise ConfigError(f"unknown setting {name!r} in [tool.sessionwatch] of {path}.{nearest(name, valid)}")
    layer = dict(table)
    if isinstance(layer.get("source"), str):
        layer["source"] = [layer["source"]]
    if layer.get("source"):
        layer["source"] = [str(path.parent / part) for part in layer["source"]]
    for name in ("output", "baseline"):  # relative to the file that names them, wherever the program starts
        if layer.get(name):
            layer[name] = str(path.parent / layer[name])
    layer["settings"] = flatten(layer.get("settings") or {})
    layer["root"] = str(path.parent)
    return f"{path}", layer


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` and ``{"a.b": 1}`` are the same setting."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def _from_environment(environ: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    layer: dict[str, Any] = {}
    for name, variable in ENVIRONMENT.items():
        value = environ.get(variable, "").strip()
        if not value:
            continue
        if name in ("rules", "settings"):
            layer[name] = parse_pairs(value, variable)
        elif name in ("source", "through"):
            layer[name] = value.split(os.pathsep)
        else:
            layer[name] = value
    return "environment", layer


def parse_pairs(text: str, where: str) -> dict[str, str]:
    """``"a=b, c=d"`` as a dictionary; `ConfigError` names ``where`` for anything else."""
    pairs: dict[str, str] = {}
    for part in text.replace("\n", ",").split(","):
        if not part.strip():
            continue
        name, equals, value = part.partition("=")
        if not equals or not value.strip():
            raise ConfigError(f"{where}: expected NAME=VALUE, got {part.strip()!r}")
        pairs[name.strip()] = value.strip()
    return pairs


def _from_keywords(keywords: Mapping[str, Any], origin: str) -> tuple[str, dict[str, Any]]:
    _check_types(keywords, origin)
    layer = {name: value for name, value in keywords.items() if value is not None}
    if isinstance(layer.get("source"), str):
        layer["source"] = [layer["source"]]
    if layer.get("settings"):
        layer["settings"] = flatten(layer["settings"])
    return origin, layer
