"""Layers that narrow reads, as their source says: notifications of writes know nothing of what they do.

It is told from how most people write such a layer, and only where hardly anything else could be meant:

- It leaves models out by what is in them, `[todo for todo in await next() if not todo["hidden"]]`. What a client asks
  for, such as `req.channel` or `req.options`, may be looked at.
- It decides by who asks, such as `req.user`. A layer that only passes on what is below it, as for a log, does not; nor
  does a `before` layer that refuses, as it also decides who may listen.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Collection
from typing import Any

from bbio.stack.stack import PACKAGE, Layer, Stack

# What of a request says who asks, and what says what is asked for.
WHO_ASKS = frozenset({"user", "session", "cookies", "socket", "state"})
ASKED_FOR = frozenset({"channel", "options", "model", "id"})
# Calls that take something out of what is below, or that answer, and those that change a query.
ANSWERS = frozenset({"clear", "end", "pop", "popitem", "remove"})
CHANGES_QUERY = frozenset({"setdefault", "update"})


def narrows_reads(layer: Layer) -> bool:
    """Return whether a layer leaves something out of reads, as far as its source tells.

    Parameters:
        layer: the layer; those of bbio itself do no such thing.
    """
    if "read" not in layer.methods or layer.where.startswith(PACKAGE):
        return False
    nodes = _nodes(layer.function)
    of_request = {node.attr for node in nodes if _is_of(node, "req") and isinstance(node.ctx, ast.Load)}
    knows_who_asks = not WHO_ASKS.isdisjoint(of_request)
    if layer.kind == "before":
        return knows_who_asks and "options" in of_request and any(map(_changes_query, nodes))
    if layer.kind not in ("use", "handler", "after"):
        return False
    if any(map(_leaves_out, nodes)):
        return True
    if not knows_who_asks:
        return False
    if layer.kind == "handler" and not layer.takes_next:
        return True
    return _is_answer_of_its_own(nodes, refuses="method" not in of_request)


def is_refused(stack: Stack) -> bool:
    """Return whether a sync method is never carried out: a `before` layer or the handler does nothing but raise.

    Parameters:
        stack: the stack of the method.
    """
    handlers = [layer for layer in stack.layers if layer.kind == "handler"]
    guards = [layer for layer in stack.layers if layer.kind == "before"]
    return any(map(_only_raises, [*guards, *handlers[:1]]))


def _only_raises(layer: Layer) -> bool:
    statements = [node for node in _nodes(layer.function) if isinstance(node, ast.stmt)]
    return [type(node) for node in statements if not _is_text(node)][1:2] == [ast.Raise]


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _nodes(function: Callable[..., Any]) -> list[Any]:
    """Return all nodes of the syntax of a function, from the top; none where its source is not at hand."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    except (OSError, TypeError, SyntaxError):
        return []
    return list(ast.walk(tree))[1:]


def _is_of(node: Any, name: str) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name


def _leaves_out(node: Any) -> bool:
    """Return whether a node is a comprehension, or `filter(...)`, with a condition that is not what is asked for."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "filter" and node.args:
        conditions = node.args[:1]
    elif isinstance(node, (ast.ListComp, ast.GeneratorExp)):
        conditions = [condition for each in node.generators for condition in each.ifs]
    else:
        return False
    named: list[Any] = [part for condition in conditions for part in ast.walk(condition)]
    return bool(conditions) and not any(_is_of(part, "req") and part.attr in ASKED_FOR for part in named)


def _changes_query(node: Any) -> bool:
    if isinstance(node, (ast.Subscript, ast.Attribute)) and isinstance(node.ctx, ast.Store):
        return isinstance(node, ast.Subscript) or node.attr == "options"
    return _is_call_of(node, CHANGES_QUERY)


def _is_set(node: Any, name: str) -> bool:
    return _is_of(node, name) and isinstance(node.ctx, ast.Store)


def _is_call_of(node: Any, names: Collection[str]) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in names


def _is_answer_of_its_own(nodes: list[Any], *, refuses: bool) -> bool:
    """Return whether a layer does something else than to pass on what is below it.

    Parameters:
        nodes: those of its syntax.
        refuses: whether a refusal counts; it may be one of writes alone.
    """
    passed_on: dict[str, bool] = {}
    for node in nodes:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    passed_on[target.id] = passed_on.get(target.id, True) and _is_next(node.value)
    for node in nodes:
        if isinstance(node, ast.Return) and node.value is not None and not _is_next(node.value):
            if not (isinstance(node.value, ast.Name) and passed_on.get(node.value.id)):
                return True
        elif isinstance(node, ast.Raise):
            if node.exc is not None and refuses:
                return True
        elif isinstance(node, ast.Delete) or _is_call_of(node, ANSWERS) or _is_set(node, "res"):
            return True
    options = any(_is_of(node, "req") and node.attr == "options" for node in nodes)
    return options and any(map(_changes_query, nodes))


def _is_next(value: Any) -> bool:
    """Return whether a value is what is below the layer."""
    if isinstance(value, ast.Await):
        value = value.value
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "next"
