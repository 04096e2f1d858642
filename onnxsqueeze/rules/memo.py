"""What rules work out once and remember, for one node, one tensor or all of a graph, and views of nodes among that.

What is remembered belongs to one `Context`: each analysis of a graph begins with none. It is kept under the function
itself, so that functions of one name do not meet, and it has the type that the function returns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Applies, Context, Refusal

Rest = ParamSpec("Rest")
T = TypeVar("T")
View = TypeVar("View")


def per_node(function: Callable[Concatenate[Node, Context, Rest], T]) -> Callable[Concatenate[Node, Context, Rest], T]:
    """Let a function of a node be computed once for each node and for each choice of its further arguments.

    Those must be hashable, and are to be given the same way by all callers: by place or by name.
    """

    @wraps(function)
    def remembered(node: Node, context: Context, /, *rest: Rest.args, **named: Rest.kwargs) -> T:
        found, key = context.memo(function), (node.index, *rest, *named.items())
        if key not in found:
            found[key] = function(node, context, *rest, **named)
        return found[key]

    return remembered


def per_tensor(function: Callable[Concatenate[Context, str, Rest], T]) -> Callable[Concatenate[Context, str, Rest], T]:
    """Let a function of a tensor be computed once for each name; see `per_node` for its further arguments."""

    @wraps(function)
    def remembered(context: Context, name: str, /, *rest: Rest.args, **named: Rest.kwargs) -> T:
        found, key = context.memo(function), (name, *rest, *named.items())
        if key not in found:
            found[key] = function(context, name, *rest, **named)
        return found[key]

    return remembered


def per_context(function: Callable[[Context], T]) -> Callable[[Context], T]:
    """Let a function be computed once for each context, such as what all norms of a graph share."""

    @wraps(function)
    def remembered(context: Context) -> T:
        found = context.memo(function)
        if () not in found:
            found[()] = function(context)
        return found[()]

    return remembered


def refusal_of(view: Callable[[Node, Context], View | Refusal]) -> Applies:
    """Return the `applies` of a rule that holds for a node wherever it can be viewed in some way."""

    def applies(node: Node, context: Context) -> Refusal | None:
        found = view(node, context)
        return found if isinstance(found, Refusal) else None

    return applies


def view_or_error(view: Callable[[Node, Context], View | Refusal]) -> Callable[[Node, Context], View]:
    """Return the function that gives the view of a node to which a rule applies.

    It raises a RuntimeError where there is none: no other callback is asked about a node that ``applies`` refused.
    """

    def viewed(node: Node, context: Context) -> View:
        found = view(node, context)
        if isinstance(found, Refusal):
            raise RuntimeError(f"no view of {node.label}, a node that was refused: {found.reason.name} {found.detail}")
        return found

    return viewed
