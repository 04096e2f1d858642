"""Programs with one place broken: a term dropped, a condition turned around, a number off by one."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np

_EXCHANGED = {"any": "all", "all": "any", "min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum"}
_SMALL = 4  # a constant below it is an axis, a place or a count


@dataclass(frozen=True)
class Mutant:
    """A changed program: the line of the change, what it is, and the source.

    ``statement`` is the first line of the innermost statement around it in a function; 0 where it is in none.
    """

    line: int
    statement: int
    said: str
    source: str


def mutants(source: str, sample: int | None = None, seed: int = 0) -> Iterator[Mutant]:
    """Yield changed programs, all or so many that are drawn at random."""
    tree = ast.parse(source)
    statements = _statements(tree)
    places = _places(tree)
    for place, what in places if sample is None else _drawn(places, sample, seed):
        copy = deepcopy(tree)
        changed = list(ast.walk(copy))[place]
        line = getattr(changed, "lineno", 0)
        said = _change(changed, what)
        if said and _still_compiles(copy):
            yield Mutant(line, statements[place], said, ast.unparse(copy))


def _drawn(places: Sequence[tuple[int, int]], sample: int, seed: int) -> list[tuple[int, int]]:
    if sample >= len(places):
        return list(places)
    chosen = np.random.default_rng(seed).choice(len(places), sample, replace=False)
    return [places[each] for each in sorted(chosen)]


def _places(tree: ast.Module) -> list[tuple[int, int]]:
    """Return what can be broken: places in the order of ``ast.walk``, and a way to break each."""
    nodes = list(ast.walk(tree))
    annotations = {id(part) for node in nodes for each in _annotations(node) for part in ast.walk(each)}
    return [
        (place, what)
        for place, node in enumerate(nodes)
        if id(node) not in annotations
        for what in range(_changes(node))
    ]


def _statements(tree: ast.Module) -> list[int]:
    """Return for each node, in the order of ``ast.walk``, the first line of the statement in a function around it."""
    lines: dict[int, int] = {}
    inside = {id(each) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for each in node.body}
    for node in ast.walk(tree):  # parents come before their children
        own = isinstance(node, ast.stmt) and (id(node) in inside or bool(lines.get(id(node))))
        line = lines[id(node)] = node.lineno if own else lines.get(id(node), 0)
        lines.update((id(child), line) for child in ast.iter_child_nodes(node))
    return [lines[id(node)] for node in ast.walk(tree)]


def _annotations(node: ast.AST) -> list[ast.expr]:
    """Return the types that a node declares, which nothing reads when it runs."""
    found = [getattr(node, "annotation", None), getattr(node, "returns", None)]
    return [each for each in found if isinstance(each, ast.expr)]


def _changes(node: ast.AST) -> int:
    """Return in how many ways a node can be broken."""
    if isinstance(node, ast.BoolOp):
        return len(node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.BitAnd, ast.BitOr)):
        return 2
    if isinstance(node, ast.Constant):
        return int(type(node.value) is int and abs(node.value) < _SMALL)
    if isinstance(node, (ast.Attribute, ast.Name)):
        return int((node.attr if isinstance(node, ast.Attribute) else node.id) in _EXCHANGED)
    return int(
        isinstance(node, (ast.If, ast.IfExp)) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
    )


def _change(node: ast.AST, what: int) -> str:
    """Break a node in place, and say how."""
    if isinstance(node, ast.BoolOp):
        return f"dropped: {ast.unparse(node.values.pop(what))}"
    if isinstance(node, ast.BinOp):
        dropped, kept = (node.left, node.right) if what == 0 else (node.right, node.left)
        said = f"dropped: {ast.unparse(dropped)}"
        node.left, node.right, node.op = deepcopy(kept), deepcopy(kept), ast.BitAnd()
        return said
    if isinstance(node, (ast.If, ast.IfExp)):
        said = f"turned around: {ast.unparse(node.test)}"
        node.test = ast.UnaryOp(ast.Not(), node.test)
        return said
    if isinstance(node, ast.Expr):
        said = f"dropped: {ast.unparse(node)}"
        node.value = ast.Constant(None)
        return said
    if isinstance(node, ast.Constant):
        node.value += 1
        return f"off by one: {node.value}"
    if isinstance(node, ast.Attribute):
        node.attr = _EXCHANGED[node.attr]
        return f"exchanged: {node.attr}"
    if isinstance(node, ast.Name):
        node.id = _EXCHANGED[node.id]
        return f"exchanged: {node.id}"
    return ""


def _still_compiles(tree: ast.AST) -> bool:
    try:
        compile(ast.unparse(ast.fix_missing_locations(tree)), "mutant", "exec")
    except (SyntaxError, ValueError):
        return False
    return True
