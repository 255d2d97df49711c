"""The one installation of this process: made, replaced, handed back, and told of forks."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from .. import config, rules
from ..model import ConfigError, Mode
from ..output import sinks
from ..record.recording import Recording
from ..saying import held_back, say
from ..telemetry.metrics import forked_without
from ..units.scope import process_ends
from . import baseline
from .watch import Watch, import_first

_lock = threading.RLock()
_current: Watch | None = None
_begins: Watch | None = None  # the one that is being put in its place at the moment
_fork_hook_installed = False
_warned: set[str] = set()
_after_forks = False  # multiprocessing tells us of them, here and in all children


def install(
    *,
    log: bool = True,
    gives_way: bool = False,
    providers: Mapping[str, Any] | None = None,
    mode_by_default: tuple[Mode, str] | None = None,
    recording: str | None = None,
    **keywords: Any,
) -> Watch:
    """Install, or return what is installed already. See `sessionwatch.install`.

    ``gives_way``: for `sessionwatch run` and OpenTelemetry's instrumentor, which must not change what an
    installation of the program's own does. That one takes its place, with its subscribers, and hands it back when
    it is uninstalled. ``mode_by_default``: for where no mode is configured, and who says so. ``recording``: a file for
    what sessions do, for the formats that show it.
    """
    settings = config.load(rules.ALL, keywords=keywords, mode_by_default=mode_by_default)
    missing = baseline.notice(settings.baseline)
    if log:
        _warn(([missing] if missing else []) + config.strange_variables())
    import_first(settings.mode)  # without the lock
    if _current is not None and _current.gives_way:
        _current.drain()
    with held_back(), _lock:
        before = _begins or _current
        if before is not None and (before is _begins or not before.gives_way):
            _compare(before, settings, keywords)
            watch = before
        else:
            kept = Recording(sinks.appending(recording)) if recording is not None else None
            watch = _made(settings, before, log=log, gives_way=gives_way, providers=providers, recording=kept)
            _put(watch, before)
        return watch


def _warn(lines: list[str]) -> None:
    """Once in a process, however often it installs."""
    for line in lines:
        if line not in _warned:
            _warned.add(line)
            say(logging.WARNING, "%s", line)


def _made(
    settings: config.Config,
    before: Watch | None,
    *,
    log: bool,
    gives_way: bool,
    providers: Mapping[str, Any] | None = None,
    recording: Recording | None = None,
) -> Watch:
    """A new installation, which takes the place of the one ``before`` and counts on in its store."""
    store = None
    if before is not None:
        providers, store = providers or before.providers, before.store
    watch = Watch(
        settings,
        log=log,
        gives_way=gives_way,
        providers=providers,
        recording=recording,
        store=store,
        uninstall=remove,
        toggle=toggle,
    )
    watch.replaced = before
    return watch


def _put(watch: Watch, before: Watch | None) -> None:
    """Make ``watch`` the installation, in the place and with the subscribers of the one ``before`` it."""
    global _begins, _current, _fork_hook_installed
    _begins = watch
    try:
        if before is not None:
            before.uninstall()
        watch.start(before)
        if not _fork_hook_installed and hasattr(os, "register_at_fork"):
            os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork)
            _fork_hook_installed = True
            _at_end_of_child(after_fork=False)  # this is one
        _current = watch
    finally:
        _begins = None


def remove(watch: Watch) -> None:
    """Undo this installation; the one that gave way to it is made again."""
    global _current
    if watch.installed:
        watch.drain()  # sinks are called without the lock
    with held_back(), _lock:
        if not watch.installed:
            return
        watch.stop()
        if _current is watch:
            _current = None
        if watch.replaced is not None and _begins is None:
            before = watch.replaced
            again = _made(before.config, before, log=before.log, gives_way=True)
            again.replaced = before.replaced
            _put(again, before)


def toggle(watch: Watch, on: bool) -> None:
    """Pause an installation, or resume it."""
    if not on:
        watch.drain()
    with held_back(), _lock:
        watch.switch(on)


def uninstall() -> None:
    """Undo the installation, if there is one."""
    if _current is not None:
        _current.uninstall()


def withdraw(watch: Watch) -> None:
    """Undo an installation that gives way, also where another one has taken its place, or handed it back."""
    now = _current
    if now is not None and now.config is watch.config:
        now.uninstall()
    elif now is not None and now.replaced is not None and now.replaced.config is watch.config:
        now.replaced = now.replaced.replaced


def current() -> Watch | None:
    """The installation, if there is one."""
    return _current


def _before_fork() -> None:
    """No thread of ours is there when the program forks: it could hold a lock that the child needs."""
    if _current is not None:
        _current.watchdog.stop()
        _current.telemetry.before_fork()


def _after_fork_in_parent() -> None:
    if _current is not None:
        _current.telemetry.forked(child=False)


def _after_fork() -> None:
    global _begins, _lock
    _lock, _begins = threading.RLock(), None  # a thread that the child does not have may have been at work
    if _current is not None:
        _current.forked()
    else:
        forked_without()
    _at_end_of_child(after_fork=True)


def _at_end_of_child(after_fork: bool) -> None:
    """The children of `multiprocessing` end without atexit, but run their finalizers.

    Those that are registered before it has had its own turn after the fork are forgotten. A fork server's child has
    that turn only after it has imported the program, which may be what installs us.
    """
    global _after_forks
    util = sys.modules.get("multiprocessing.util")
    if util is None or (after_fork and _after_forks):
        return
    if after_fork or _of_fork_server():
        util.register_after_fork(_child_ends, _finalize)
        _after_forks = True
    elif sys.modules["multiprocessing.process"].parent_process() is not None:
        _finalize(_child_ends)


def _of_fork_server() -> bool:
    """Whether this is such a child, before its turn. Private: nothing public tells it from a child of spawn."""
    server = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    inherited = getattr(server, "_inherited_fds", None)
    return inherited is not None and sys.modules["multiprocessing.process"].parent_process() is None


def _finalize(end: Callable[[], None]) -> None:
    sys.modules["multiprocessing.util"].Finalize(None, end, exitpriority=-1000)  # after all others


def _child_ends() -> None:
    process_ends(over=True)


def _compare(watch: Watch, settings: config.Config, keywords: dict[str, Any]) -> None:
    """Say which of the given settings differ from those in force."""
    differing = []
    for name, value in keywords.items():
        if value is None or name == "root":  # who came first has said where the project is
            continue
        if name in ("rules", "settings"):
            old, new = (watch.config.levels, settings.levels) if name == "rules" else _settings(watch.config, settings)
            names = [key for key in config.flatten(value) if key in new and old.get(key) != new[key]]
            differing += [f"{key} (is {old.get(key)!r}, asked for {new[key]!r})" for key in names]
        elif getattr(watch.config, name) != getattr(settings, name):
            differing.append(f"{name} (is {getattr(watch.config, name)!r}, asked for {getattr(settings, name)!r})")
    if not differing:
        return
    message = f"sessionwatch is installed already, with other settings: {'; '.join(differing)}"
    if watch.log:
        raise ConfigError(message + ". Call uninstall() first, or install once.")
    say(logging.INFO, "%s", message)  # pytest came first; the program must not fail for it


def _settings(old: config.Config, new: config.Config) -> tuple[dict[str, Any], dict[str, Any]]:
    return old.settings, new.settings
