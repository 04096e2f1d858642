"""GELU as onnxruntime's optimizers write it: Gelu, its approximations FastGelu and QuickGelu, of com.microsoft.

A bias that is added first is taken apart before (`canonicalization.lowering`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnxsqueeze.abstract.curves import ElementwiseFunction, elementwise_function_of
from onnxsqueeze.abstract.symbolic import Shape
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.operators.elementwise.activations import elementwise_rule
from onnxsqueeze.rules.contract import Context, OpRule, Refusal
from onnxsqueeze.rules.registry import register

_DOMAIN = "com.microsoft"
_SLOPE = 1.702  # QuickGelu's default


def _infer(node: Node, context: Context) -> Sequence[Shape | None]:
    """Shaped as the input; onnx has no schema for these operators."""
    return [context.shapes.get(node.inputs[0])]


def _applies(node: Node, context: Context) -> Refusal | None:
    return Refusal(Reason.UNKNOWN_OPERATOR, f"{node.operator} with a bias") if node.input(1) else None


def _rule(op: str, curve: ElementwiseFunction) -> OpRule:
    return replace(elementwise_rule(op, curve), domain=_DOMAIN, infer=_infer, applies=_applies)


register(
    _rule("Gelu", elementwise_function_of("Gelu")),
    _rule("FastGelu", replace(elementwise_function_of("Gelu"), parameters=(("approximate", "tanh"),))),
    _rule("QuickGelu", replace(elementwise_function_of("Swish"), parameters=(("alpha", _SLOPE),))),
)
