"""What is allowed in the source: the line's own comment, and ``allow()`` as a block or decorator around it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..record.allowances import parse_comment
from .tree import Module, dotted

if TYPE_CHECKING:
    from .infer import Inference


@dataclass(frozen=True, slots=True)
class Span:
    """Lines that an ``allow()`` covers."""

    first: int
    last: int
    slugs: frozenset[str]
    reason: str


class Allowances:
    """Those of one module."""

    def __init__(self, inference: Inference, module: Module) -> None:
        self._lines = module.source_lines()
        self._spans = list(_spans(inference, module)) if "allow(" in module.source.text else []

    def reason(self, line: int, slug: str) -> str | None:
        """Why an anti-pattern that leads to this rule is allowed at a line; None where it is not."""
        parsed = parse_comment(self._lines[line - 1]) if 0 < line <= len(self._lines) else None
        if parsed is not None and slug in parsed[0] and parsed[1]:
            return parsed[1]
        for span in self._spans:
            if span.first <= line <= span.last and slug in span.slugs:
                return span.reason
        return None


def _spans(inference: Inference, module: Module) -> list[Span]:
    found = []
    for function in module.functions:
        node = function.node
        for decorator in getattr(node, "decorator_list", ()):
            found += _span(inference, module, decorator, node)
        for step in inference.body(function).withs:
            if isinstance(step.node, ast.withitem):
                found += _span(inference, module, step.node.context_expr, step.parent)
    return found


def _span(inference: Inference, module: Module, node: ast.expr, around: ast.AST) -> list[Span]:
    if not isinstance(node, ast.Call) or (dotted(node.func) or "").rpartition(".")[2] != "allow":
        return []
    reason = next((word.value for word in node.keywords if word.arg == "reason"), None)
    told = reason.value if isinstance(reason, ast.Constant) and isinstance(reason.value, str) else "not written here"
    slugs = frozenset(filter(None, (_text(inference, module, each) for each in node.args)))
    first, last = getattr(around, "lineno", 0), getattr(around, "end_lineno", 0)
    return [Span(first, last, slugs, told)] if slugs else []


def _text(inference: Inference, module: Module, node: ast.expr) -> str | None:
    """A string, or a module's constant that holds one."""
    if isinstance(node, ast.Name):
        bindings = inference.body(module.code).bindings.get(node.id, ())
        node = bindings[-1].expr if bindings and isinstance(bindings[-1].expr, ast.expr) else node
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
