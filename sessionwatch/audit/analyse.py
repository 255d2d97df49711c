"""One audit from beginning to end: find, parse, look at each file, count, put together."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from . import patterns, source
from .allowed import Allowances
from .counts import file_count, sources_of
from .infer import Inference
from .result import Audit, Entry, FileCount, Source, Unparsed
from .tree import Module, Tree
from .use import Usage

PARALLEL = 30_000  # lines from which a second process is worth its start
Progress = Callable[[str, int, int], None]  # what is done, how many are done, of how many


@dataclass(slots=True)
class Looked:
    """What was found in one module."""

    entries: list[Entry] = field(default_factory=list)
    count: FileCount | None = None
    sources: list[Source] = field(default_factory=list)
    failed: Unparsed | None = None


@dataclass(slots=True)
class Project:
    """A parsed tree, with the answers that were found so far."""

    tree: Tree
    inference: Inference
    usage: Usage


def audit(root: str, progress: Progress | None = None, workers: int | None = None) -> Audit:
    """Audit a file or folder. ``workers``: processes at most (default: as many as there are processors).

    Raises `sessionwatch.ConfigError` where there is no such file or folder, or no Python in it.
    """
    found = source.find(root)
    result = Audit(root, scanned=len(found))
    sources = []
    for number, (path, name) in enumerate(found, 1):
        each = source.read(path, name)
        result.lines += each.lines
        if each.error is not None:
            result.unparsed.append(Unparsed(each.path, each.error))
        if each.tree is not None:
            sources.append(each)
        if progress is not None:
            progress("read", number, len(found))
    with _deep_trees():
        for looked in _look_at_all(_project(sources), progress, workers):
            result.entries += looked.entries
            result.sources += looked.sources
            result.files += [looked.count] if looked.count is not None else []
            result.unparsed += [looked.failed] if looked.failed is not None else []
    result.sort()
    return result


@contextmanager
def _deep_trees() -> Iterator[None]:
    """A syntax tree may be as deep as the longest expression of a project."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, 10_000))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def _project(sources: list[source.Source]) -> Project:
    tree = Tree(sources)
    inference = Inference(tree)
    return Project(tree, inference, Usage(inference))


def look(project: Project, module: Module) -> Looked:
    """One module; an error of ours is told beside what was found until then, and raises in our own tests."""
    found = Looked()
    try:
        _look(project, module, found)
    except Exception as error:
        if os.environ.get("SESSIONWATCH_TESTING"):
            raise
        found.failed = Unparsed(module.path, f"can't be looked at to its end: {type(error).__name__}: {error}")
    return found


def _look(project: Project, module: Module, found: Looked) -> None:
    """A module's counts, where its sessions come from, and its anti-patterns."""
    found.count = file_count(project.usage, module)
    found.sources = sources_of(project.inference, module)
    allowances = Allowances(project.inference, module)
    seen: set[tuple[str, int, str]] = set()
    for function in module.functions:
        scope = patterns.Scope(project.inference, project.usage, function, project.usage.of(function))
        for pattern in patterns.ALL:
            for hit in pattern.find(scope):
                slug = (hit.rule or pattern.rule).slug
                if (slug, hit.line, hit.message) not in seen:
                    seen.add((slug, hit.line, hit.message))
                    sure = "certain" if hit.certain else "likely"
                    place = (module.path, hit.line, function.name)
                    allowed = allowances.reason(hit.line, slug)
                    found.entries.append(Entry(pattern.name, slug, *place, sure, hit.message, allowed))
    if found.count is None and found.entries:
        found.count = FileCount(module.path, module.source.lines)


# -- over several processes ---------------------------------------------------------------------------------

_shared: Project | None = None  # inherited by forked workers


def _look_at_all(project: Project, progress: Progress | None, workers: int | None) -> Iterator[Looked]:
    global _shared
    names = sorted(project.tree.modules)
    lines = sum(module.source.lines for module in project.tree.modules.values())
    count = min(workers or os.cpu_count() or 1, 8)
    if count < 2 or lines < PARALLEL or "fork" not in multiprocessing.get_all_start_methods():
        done = (look(project, project.tree.modules[name]) for name in names)
        yield from _told(done, progress, len(names))
        return
    _shared = project
    try:
        with ProcessPoolExecutor(count, multiprocessing.get_context("fork")) as pool:
            yield from _told(pool.map(_look_at, names, chunksize=8), progress, len(names))
    finally:
        _shared = None


def _look_at(name: str) -> Looked:
    assert _shared is not None
    return look(_shared, _shared.tree.modules[name])


def _told(done: Iterator[Looked], progress: Progress | None, total: int) -> Iterator[Looked]:
    for number, looked in enumerate(done, 1):
        if progress is not None:
            progress("looked at", number, total)
        yield looked
