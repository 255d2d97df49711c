"""Counts per file and function, and where sessions come from."""

from __future__ import annotations

import ast
from collections import Counter
from typing import TYPE_CHECKING

from .result import FileCount, FunctionCount, Source
from .tree import Function, Module, dotted
from .values import Engine, Maker, Registry, Session
from .vocabulary import OPERATIONS

if TYPE_CHECKING:
    from .infer import Inference
    from .use import Opening, Operation, Usage


def file_count(usage: Usage, module: Module) -> FileCount | None:
    """What a module does with sessions; None where it does nothing."""
    found = FileCount(module.path, module.source.lines)
    sync: Counter[str] = Counter()
    asynchronous: Counter[str] = Counter()
    for function in module.functions:
        uses = usage.of(function)
        operations = [each for each in uses.operations if each.method in OPERATIONS]
        if not operations and not uses.openings:
            continue
        for each in operations:
            (asynchronous if each.session.asynchronous else sync)[each.method] += 1
        async_openings = sum(each.session.asynchronous for each in uses.openings)
        found.async_openings += async_openings
        found.sync_openings += len(uses.openings) - async_openings
        found.functions.append(_function_count(function, operations, uses.openings))
    found.sync_operations, found.async_operations = dict(sorted(sync.items())), dict(sorted(asynchronous.items()))
    found.sync_in_async = sum(each.sync_in_async for each in found.functions)
    return found if found.functions else None


def _function_count(function: Function, operations: list[Operation], openings: list[Opening]) -> FunctionCount:
    blocking = sum(not each.session.asynchronous for each in operations) if function.is_async else 0
    line = getattr(function.node, "lineno", 1)
    names = dict(sorted(Counter(each.method for each in operations).items()))
    return FunctionCount(function.name, line, function.is_async, len(openings), names, blocking)


_KINDS = {Maker: "sessionmaker", Engine: "engine", Registry: "registry"}


def sources_of(inference: Inference, module: Module) -> list[Source]:
    """The sessionmakers, engines and registries that a module makes, and its functions that provide sessions."""
    found = []
    for function in module.functions:
        names = _names(inference, function)
        for step in inference.body(function).calls:
            value = inference.value(step.node, function) if isinstance(step.node, ast.Call) else None
            kind = _KINDS.get(type(value))
            if kind is not None and isinstance(value, Maker | Engine | Registry) and value.place is step.node:
                name = names.get(step.node, function.name)
                found.append(Source(kind, name, module.path, step.line, value.asynchronous))
        provided = _provided(inference, function)
        if provided is not None:
            kind = "dependency" if inference.body(function).is_generator else "provider"
            line = getattr(function.node, "lineno", 1)
            found.append(Source(kind, function.name, module.path, line, provided.asynchronous))
    return found


def _names(inference: Inference, function: Function) -> dict[ast.AST, str]:
    """What the calls of a function are assigned to."""
    found: dict[ast.AST, str] = {}
    for name, bindings in inference.body(function).bindings.items():
        for binding in bindings:
            if isinstance(binding.expr, ast.Call):
                found[binding.expr] = name
    for where, node in function.module.assignments:
        if where is function and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            found[node.value] = dotted(target) or function.name
    return found


def _provided(inference: Inference, function: Function) -> Session | None:
    """The session that a function makes and hands out."""
    if not function.is_def:
        return None
    generator = inference.body(function).is_generator
    value = inference.yielded(function) if generator else inference.returned(function)
    if not isinstance(value, Session) or not value.sure:
        return None
    return value if value.how in ("call", "with", "registry", "global", "attribute") else None
