"""What If, Loop and Scan do with their bodies, whoever evaluates these."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, helper

from onnxsqueeze.verification.sessions import RefusedError, Values

Body = Generator[Any, Any, Values]
"""The evaluation of a body in progress; it returns what the body makes, by name."""

Evaluation = Callable[[GraphProto, int, Values], Body]
"""Evaluates a body, in an iteration, given what stands at its inputs."""

_SCAN = 9  # before this opset, Scan had a batch axis and lengths
_ENDLESS = 1 << 62


class UnknownBodyError(Exception):
    """What a node makes of its bodies is not known here."""


def run_body(node: NodeProto, opset: int, inputs: Values, evaluate: Evaluation) -> Body:
    """Evaluate the bodies of a node as often as they run and return what the node makes, by name.

    Args:
        node: the node. opset: of the standard operators. inputs: what it reads, by name. evaluate: evaluates a body.

    Raises:
        UnknownBodyError: before anything is evaluated, for a node of another kind.
        RefusedError: where what a body makes does not fit together.
    """
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    if node.domain not in ("", "ai.onnx"):
        raise UnknownBodyError
    if node.op_type == "If":
        return (yield from _branch(node, attributes, inputs, evaluate))
    if node.op_type == "Loop":
        return (yield from _loop(node, attributes["body"], inputs, evaluate))
    if node.op_type == "Scan" and opset >= _SCAN:
        return (yield from _scan(node, attributes, inputs, evaluate))
    raise UnknownBodyError


def _branch(node: NodeProto, attributes: dict[str, Any], inputs: Values, evaluate: Evaluation) -> Body:
    chosen = bool(np.ravel(inputs[node.input[0]])[0])
    graph = attributes["then_branch" if chosen else "else_branch"]
    made = yield from evaluate(graph, int(chosen), {})
    return _named(node, [made[value.name] for value in graph.output])


def _loop(node: NodeProto, graph: GraphProto, inputs: Values, evaluate: Evaluation) -> Body:
    most, going, *first = [*node.input, "", ""][: max(2, len(node.input))]
    limit = int(np.ravel(inputs[most])[0]) if most else _ENDLESS
    condition = inputs[going] if going else np.array(True)
    carried = [inputs[name] for name in first]
    names, outputs = [value.name for value in graph.input], [value.name for value in graph.output]
    stacks: list[list[Any]] = [[] for _ in outputs[1 + len(carried) :]]
    number = 0
    if stacks and (limit <= 0 or not np.ravel(condition)[0]):
        raise UnknownBodyError  # what shape nothing has
    while number < limit and bool(np.ravel(condition)[0]):
        given = [np.array(number, np.int64), condition, *carried]
        made = yield from evaluate(graph, number, dict(zip(names, given, strict=True)))
        condition, *rest = [made[name] for name in outputs]
        carried = rest[: len(carried)]
        for stack, value in zip(stacks, rest[len(carried) :], strict=True):
            stack.append(value)
        number += 1
    return _named(node, [*carried, *(_stacked(stack, 0) for stack in stacks)])


def _scan(node: NodeProto, attributes: dict[str, Any], inputs: Values, evaluate: Evaluation) -> Body:
    graph, count = attributes["body"], int(attributes["num_scan_inputs"])
    given = [inputs[name] for name in node.input]
    states, scanned = given[: len(given) - count], given[len(given) - count :]
    axes = attributes.get("scan_input_axes", [0] * count)
    backwards = attributes.get("scan_input_directions", [0] * count)
    scanned = [np.moveaxis(each, axis, 0) for each, axis in zip(scanned, axes, strict=True)]
    scanned = [each[::-1] if back else each for each, back in zip(scanned, backwards, strict=True)]
    names, outputs = [value.name for value in graph.input], [value.name for value in graph.output]
    stacks: list[list[Any]] = [[] for _ in outputs[len(states) :]]
    if stacks and not len(scanned[0]):
        raise UnknownBodyError
    for number in range(len(scanned[0])):
        slices = [np.ascontiguousarray(each[number]) for each in scanned]
        made = yield from evaluate(graph, number, dict(zip(names, [*states, *slices], strict=True)))
        found = [made[name] for name in outputs]
        states = found[: len(states)]
        for stack, value in zip(stacks, found[len(states) :], strict=True):
            stack.append(value)
    axes = attributes.get("scan_output_axes", [0] * len(stacks))
    reverse = attributes.get("scan_output_directions", [0] * len(stacks))
    ends = [_stacked(stack[::-1] if back else stack, at) for stack, at, back in zip(stacks, axes, reverse, strict=True)]
    return _named(node, [*states, *ends])


def _stacked(values: list[Any], axis: int) -> Any:
    try:
        return np.stack([np.asarray(value) for value in values], axis)
    except ValueError:
        raise RefusedError("what a body makes has another shape in each iteration") from None


def _named(node: NodeProto, values: list[Any]) -> Values:
    return {name: value for name, value in zip(node.output, values, strict=False) if name}
