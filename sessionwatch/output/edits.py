"""Edits that are certain: made from a finding's fix and the source that it points to.

Three kinds: the loader option that a query lacks, an ``await`` that a commit lacks, and a ``with`` around a session
that is never closed. Anything that leaves a doubt is no edit: a query that is built elsewhere, a name that the module
does not have, a file that has changed since.
"""

from __future__ import annotations

import ast
import difflib
import os
import re
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..syntax import parse
from .causes import changes

if TYPE_CHECKING:
    from ..model import Finding

_OPTION = re.compile(r"\.options\((?P<chain>.+)\)(?:,\n|$)|options=\[(?P<list>.+)\](?:,\n|$)", re.MULTILINE)
_WITH = re.compile(r"`(?P<keyword>(?:async )?with) ")
_AWAIT = re.compile(r"\bawait [\w.]+\.commit\(\)")
_LOADERS = ("selectinload", "joinedload", "undefer", "selectin_polymorphic")


@dataclass(frozen=True, slots=True)
class Change:
    """Lines ``first`` to ``last`` (from 1, ``last`` is not replaced any more) become ``lines``.

    Where only ``text`` is inserted into one line, at the byte ``column``, others may be inserted there as well.
    """

    first: int
    last: int
    lines: tuple[str, ...]
    column: int | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Edit:
    """What to change in one file; the first change is the one that the finding is about."""

    path: str  # absolute
    shown_path: str
    changes: tuple[Change, ...]

    @property
    def line(self) -> int:
        return self.changes[0].first

    @property
    def new(self) -> str:
        """The first new line."""
        return self.changes[0].lines[0]


def edit(finding: Finding) -> Edit | None:
    """The certain edit that ends a finding; None where there is none."""
    site = changes(finding)
    if site is None or not site.path.endswith(".py") or not site.path.isprintable():
        return None
    source = _read(site.path, finding.time)
    if source is None:
        return None
    tree = parse(source)
    if tree is None:
        return None
    try:
        module = _Module(source, tree)
        made = module.option(finding.fix, site.line) or module.scope(finding.fix, site.line)
        made = made or module.awaited(finding.fix, _opened(finding, site.path))
    except (SyntaxError, ValueError, RecursionError):
        return None
    return Edit(os.path.abspath(site.path), site.shown_path, made) if made else None


def _opened(finding: Finding, path: str) -> int:
    """The line of a file that opened the session; 0 where that is another file's."""
    sites = [item.site for item in finding.evidence if item.label == "opened"]
    return next((site.line for site in sites if site is not None and site.path == path), 0)


def _read(path: str, since: float) -> str | None:
    """A source file that has not changed since the finding was made."""
    try:
        if since and os.stat(path).st_mtime > since:
            return None
        with tokenize.open(path) as file:
            return file.read()
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None


class _Module:
    def __init__(self, source: str, tree: ast.Module) -> None:
        self.lines = source.splitlines()
        self.tree = tree
        self.bound = set(_bound(self.tree))

    # -- a loader option --------------------------------------------------------------------------------

    def option(self, fix: str, line: int) -> tuple[Change, ...]:
        """The option that a fix names, given to the one query of the statement at a line."""
        match = _OPTION.search(fix)
        if match is None:
            return ()
        chain = match["chain"] or match["list"]
        tree = parse(chain, "eval")
        if tree is None:  # more than an option stands there
            return ()
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        loaders = sorted(name for name in names if name in _LOADERS)
        models = names - set(loaders)
        query = self._query(line, models, by_get=match["list"] is not None)
        if query is None or not models <= self.bound:
            return ()
        text = f", options=[{chain}]" if match["list"] is not None else f".options({chain})"
        change = self._inserted(query, text, inside=match["list"] is not None)
        missing = [name for name in loaders if name not in self.bound]
        return (change, *self._imports(missing)) if change is not None else ()

    def _query(self, line: int, models: set[str], by_get: bool) -> ast.Call | None:
        statement = _statement(self.tree, line)
        if statement is None:
            return None
        wanted = ("get", "get_one") if by_get else ("select", "query")
        calls = [
            node
            for node in ast.walk(statement)
            if isinstance(node, ast.Call) and _called(node) in wanted and node.args and _name(node.args[0]) in models
        ]
        if by_get:
            calls = [call for call in calls if not any(keyword.arg == "options" for keyword in call.keywords)]
        return calls[0] if len(calls) == 1 else None

    def _inserted(self, call: ast.Call, text: str, inside: bool) -> Change | None:
        number, column = call.end_lineno, call.end_col_offset
        if number is None or column is None:
            return None
        line = self.lines[number - 1].encode()
        at = column - 1 if inside else column
        if inside and line[:at].rstrip().endswith(b","):
            text = text.removeprefix(",").lstrip()
        return _insertion(number, line, at, text)

    def _imports(self, names: list[str]) -> Iterator[Change]:
        """The loaders that the module does not import yet."""
        if not names:
            return
        top = [node for node in self.tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        for node in top:
            if isinstance(node, ast.ImportFrom) and node.module == "sqlalchemy.orm" and node.lineno == node.end_lineno:
                line = self.lines[node.lineno - 1]
                if "(" not in line and "#" not in line and ";" not in line:
                    for name in names:
                        yield _insertion(node.lineno, line.encode(), len(line.rstrip().encode()), f", {name}")
                    return
        after = max((node.end_lineno or 0 for node in top), default=0)
        if not after and self.tree.body and isinstance(self.tree.body[0], ast.Expr):
            after = self.tree.body[0].end_lineno or 0
        yield Change(after + 1, after + 1, (f"from sqlalchemy.orm import {', '.join(names)}",))

    # -- an await ---------------------------------------------------------------------------------------

    def awaited(self, fix: str, line: int) -> tuple[Change, ...]:
        """The ``await`` of the one commit, or rollback, in the block at a line that opens the session."""
        if not _AWAIT.search(fix):
            return ()
        blocks = [node for node in ast.walk(self.tree) if isinstance(node, ast.AsyncWith) and node.lineno == line]
        if len(blocks) != 1:
            return ()
        inside = [node for statement in blocks[0].body for node in ast.walk(statement)]
        names = {_name(item.optional_vars) for item in blocks[0].items if item.optional_vars is not None}
        ends = [node for node in inside if isinstance(node, ast.Call) and _ends(node, names)]
        loose = [node.value for node in inside if isinstance(node, ast.Expr) and node.value in ends]
        functions = [node for node in inside if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)]
        if functions or len(ends) != 1 or len(loose) != 1:
            return ()
        call = loose[0]
        return (_insertion(call.lineno, self.lines[call.lineno - 1].encode(), call.col_offset, "await "),)

    # -- a session's scope ------------------------------------------------------------------------------

    def scope(self, fix: str, line: int) -> tuple[Change, ...]:
        """A ``with`` around what a session is used for, where nothing that it gave leaves the block."""
        match = _WITH.search(fix)
        if match is None or not fix.startswith("close it where it is made"):
            return ()
        found = _block(self.tree, line)
        if found is None:
            return ()
        function, block, place = found
        made = block[place]
        if not isinstance(made, ast.Assign) or not isinstance(made.value, ast.Call) or made.lineno != made.end_lineno:
            return ()
        name = _name(made.targets[0]) if len(made.targets) == 1 else None
        rest = block[place + 1 :]
        if name is None or not rest or not self._stays(function, name, rest, match["keyword"]):
            return ()
        first, last = made.lineno, rest[-1].end_lineno or made.lineno
        indent = self.lines[first - 1][: made.col_offset]
        call = ast.get_source_segment("\n".join(self.lines), made.value)
        if not call or indent.strip():
            return ()
        body = [f"    {text}" if text.strip() else text for text in self.lines[first:last]]
        return (Change(first, last + 1, (f"{indent}{match['keyword']} {call} as {name}:", *body)),)

    def _stays(self, function: ast.AST, name: str, rest: list[ast.stmt], keyword: str) -> bool:
        """Whether the session, and what it brought, stays in the block, and its lines may be indented."""
        if keyword.startswith("async") != isinstance(function, ast.AsyncFunctionDef):
            return False
        last = rest[-1].end_lineno or 0
        for node in ast.walk(function):
            if isinstance(node, ast.Global | ast.Nonlocal | ast.Yield | ast.YieldFrom | ast.Lambda | ast.GeneratorExp):
                return False
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node is not function:
                return False
            if isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
                return False
            if isinstance(node, ast.Name) and node.id == name and node.lineno > last:
                return False
        passed = [node for statement in rest for node in ast.walk(statement)]
        used = [node for node in passed if isinstance(node, ast.Name) and node.id == name]
        receivers = [node.value for node in passed if isinstance(node, ast.Attribute)]
        texts = [node for node in passed if isinstance(node, ast.Constant | ast.JoinedStr)]
        one_line = all(node.lineno == node.end_lineno for node in texts)
        return one_line and all(node in receivers for node in used)


def _insertion(number: int, line: bytes, column: int, text: str) -> Change:
    return Change(number, number + 1, ((line[:column] + text.encode() + line[column:]).decode(),), column, text)


def _bound(tree: ast.Module) -> Iterator[str]:
    """The names that a module's own code binds."""
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (item.asname or item.name for item in node.names)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _statement(tree: ast.Module, line: int) -> ast.stmt | None:
    """The innermost simple statement, or the header of a compound one, that has a line."""
    found: ast.stmt | None = None
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or 0):
            found = node if found is None or node.lineno >= found.lineno else found
    body = getattr(found, "body", None)
    if isinstance(body, list) and body:
        header = [child for child in ast.iter_child_nodes(found) if isinstance(child, ast.expr)]  # type: ignore[arg-type]
        inner = [item.iter for item in [found] if isinstance(item, ast.For | ast.AsyncFor)] or header
        return ast.Expr(inner[0]) if len(inner) == 1 else None
    return found


def _block(tree: ast.Module, line: int) -> tuple[ast.AST, list[ast.stmt], int] | None:
    """The function, the block and the place in it of the statement at a line."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                for field in ("body", "orelse", "finalbody"):
                    block = getattr(node, field, None)
                    if isinstance(block, list):
                        for place, statement in enumerate(block):
                            if isinstance(statement, ast.Assign) and statement.lineno == line:
                                return function, block, place
    return None


def _ends(call: ast.Call, names: set[str | None]) -> bool:
    """Whether this is ``session.commit()`` or ``session.rollback()`` of one of these names."""
    function = call.func
    return (
        isinstance(function, ast.Attribute)
        and function.attr in ("commit", "rollback")
        and _name(function.value) in names - {None}
    )


def _called(call: ast.Call) -> str | None:
    return call.func.attr if isinstance(call.func, ast.Attribute) else _name(call.func)


def _name(node: ast.AST) -> str | None:
    return node.id if isinstance(node, ast.Name) else None


# -- all of a report's ----------------------------------------------------------------------------------


def patched(edits: Iterable[Edit]) -> dict[str, tuple[str, str, list[str]]]:
    """By absolute path: the shown path, the source, and its lines with all edits that do not touch the same lines."""
    files: dict[str, tuple[str, list[Change]]] = {}
    for item in edits:
        _, taken = files.setdefault(item.path, (item.shown_path, []))
        new = [change for change in item.changes if change not in taken]
        if not any(_overlap(change, other) for change in new for other in taken):
            taken += new
    return {path: (shown, *_applied(path, taken)) for path, (shown, taken) in files.items()}


def _overlap(one: Change, other: Change) -> bool:
    if one.column is not None and other.column is not None:
        return False
    return one.first < max(other.last, other.first + 1) and other.first < max(one.last, one.first + 1)


def _applied(path: str, changes: list[Change]) -> tuple[str, list[str]]:
    with tokenize.open(path) as file:
        source = file.read()
    lines = source.splitlines()
    from_the_end = sorted(enumerate(changes), key=lambda item: (-item[1].first, -(item[1].column or 0), -item[0]))
    for _, change in from_the_end:
        if change.column is None:
            lines[change.first - 1 : change.last - 1] = change.lines
        else:
            line = lines[change.first - 1].encode()
            lines[change.first - 1] = _insertion(change.first, line, change.column, change.text).lines[0]
    return source, lines


def diff(edits: Iterable[Edit]) -> str:
    """A unified diff that ``git apply`` and ``patch -p1`` take."""
    parts: list[str] = []
    for shown, source, lines in patched(edits).values():
        name = shown.replace(os.sep, "/").lstrip("/")
        old = source.splitlines(keepends=True)
        new = [f"{line}\n" for line in lines]
        if old and not old[-1].endswith("\n"):
            new[-1] = new[-1].removesuffix("\n")
        for line in difflib.unified_diff(old, new, f"a/{name}", f"b/{name}"):
            parts.append(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n")
    return "".join(parts)
