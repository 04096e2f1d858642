"""The torch lowering of each operator: one function on a `NodeCall`, found by operator and opset as its rule is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from onnxsqueeze.errors import UsageError
from onnxsqueeze.graph.graph import ONNX_DOMAIN, Node
from onnxsqueeze.rules.contract import OpRule
from onnxsqueeze.training.lowerings.node_call import NodeCall, leaf

__all__ = ["NodeCall", "Lowering", "Result", "lowering", "lowering_for", "lowering_of", "lowerings", "leaf"]

Result = Tensor | tuple[Tensor | None, ...]
"""One tensor, or one for each of the node's outputs (None, or nothing, for those that are not supported)."""

Compute = Callable[[NodeCall], Result]


@dataclass(frozen=True)
class Lowering:
    """How one operator is computed in torch.

    Attributes:
        op, domain: the operator. since, until: the opset versions (inclusive) at which the lowering holds.
        compute: the outputs from the operands, in functions that torch.fx can trace.
        fixed: positions of inputs that say how to compute (scales, bounds): initializers there are not trained.
        statistics: positions of inputs that are moving averages of what the node sees: kept as buffers, not trained.
    """

    op: str
    domain: str
    since: int
    until: int
    compute: Compute
    fixed: tuple[int, ...] = ()
    statistics: tuple[int, ...] = ()


_FORMS: dict[tuple[str, str], list[Lowering]] = {}


def lowering(
    *ops: str,
    domain: str = ONNX_DOMAIN,
    since: int = 0,
    until: int = 1 << 30,
    fixed: tuple[int, ...] = (),
    statistics: tuple[int, ...] = (),
) -> Callable[[Compute], Compute]:
    """Register a function as the lowering of operators; see `Lowering`.

    Raises:
        ValueError: when there is a lowering of one of them for one of the opset versions already.
    """

    def registered(compute: Compute) -> Compute:
        for op in ops:
            others = _FORMS.setdefault((domain, op), [])
            if any(since <= other.until and other.since <= until for other in others):
                raise ValueError(f"two lowerings for {op} at one opset version")
            others.append(Lowering(op, domain, since, until, compute, fixed, statistics))
        return compute

    return registered


def find_form(node: Node) -> Lowering | None:
    """Return the lowering of a node's operator at its opset version, None if there is none."""
    candidates = _FORMS.get((node.domain, node.op), ())
    return next((found for found in candidates if found.since <= node.version <= found.until), None)


def lowering_for(node: Node) -> Lowering:
    """Return the lowering of a node's operator at its opset version.

    Raises:
        UsageError: when there is none.
    """
    found = find_form(node)
    if found is None:
        raise UsageError(
            f"node '{node.label}': there is no torch lowering of {node.operator} (opset {node.version}), so this file "
            f"cannot be trained; export the network without it, or register one by "
            "onnxsqueeze.training.lowerings.lowering"
        )
    return found


def lowering_of(rule: OpRule) -> list[Lowering]:
    """Return the lowerings of a rule's operator, for all opset versions that they share."""
    candidates = _FORMS.get((rule.domain, rule.op), ())
    return [found for found in candidates if rule.since <= found.until and found.since <= rule.until]


def lowerings() -> list[Lowering]:
    """Return all registered lowerings, by operator."""
    return [found for key in sorted(_FORMS) for found in _FORMS[key]]
