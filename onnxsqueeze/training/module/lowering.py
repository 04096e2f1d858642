"""Fewer and faster calls: a product with a transposed weight and the sum with a bias are one linear map."""

from __future__ import annotations

from typing import Any

import torch
import torch.fx
import torch.nn.functional as F

from onnxsqueeze.training.lowerings.gemm import weighted

SHAPE = "shape"
"""Where placeholders of weights and constants carry their shape in ``meta``."""


def lower(graph: torch.fx.Graph) -> None:
    """Rewrite a graph in place; what it returns stays what it was."""
    for node in list(graph.nodes):
        if _calls(node, weighted):
            _product(graph, node)
    for node in list(graph.nodes):
        if _calls(node, torch.add):
            _biased(graph, node)
    for node in reversed(list(graph.nodes)):
        if node.op not in ("placeholder", "output") and not node.users:
            graph.erase_node(node)


def _product(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    """``x @ W`` is F.linear with the transpose of W, which is what W is a transpose of in most files."""
    x, weight = node.args[:2]
    assert isinstance(weight, torch.fx.Node)
    with graph.inserting_before(node):
        rows: Any = weight.args[0] if _swaps(weight) else graph.call_function(torch.transpose, (weight, 0, 1))
        _replace(node, graph.call_function(F.linear, (x, rows)))


def _swaps(node: Any) -> bool:
    return _calls(node, torch.transpose) or (_calls(node, torch.permute) and list(node.args[1]) == [1, 0])


def _biased(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    """The sum of a product that nothing else reads and a vector as long as its rows."""
    for place in (0, 1):
        product, bias = node.args[place], node.args[1 - place]
        plain = _calls(product, F.linear) and len(product.args) == 2 and len(product.users) == 1  # type: ignore[union-attr]
        if plain and isinstance(bias, torch.fx.Node) and bias.meta.get(SHAPE) == (_columns(product.args[1]),):  # type: ignore[union-attr]
            with graph.inserting_before(node):
                _replace(node, graph.call_function(F.linear, (*product.args, bias)))  # type: ignore[union-attr]
            return


def _columns(weight: Any) -> int | None:
    """Return how many columns a product has, by its weight [columns, rows]."""
    source, axis = (weight.args[0], 1) if _swaps(weight) else (weight, 0)
    shape = source.meta.get(SHAPE) if isinstance(source, torch.fx.Node) else None
    return None if shape is None else int(shape[axis])


def _calls(node: Any, function: Any) -> bool:
    return isinstance(node, torch.fx.Node) and node.op == "call_function" and node.target is function


def _replace(node: torch.fx.Node, new: torch.fx.Node) -> None:
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)
