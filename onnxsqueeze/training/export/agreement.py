"""Whether an exported model computes what the module computes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor, nn

from onnxsqueeze.model.model import Model
from onnxsqueeze.training.export.calling import Flat
from onnxsqueeze.verification.difference import Difference, Tolerance, default_tolerance, difference
from onnxsqueeze.verification.float64 import by_onnxruntime, by_reference, in_float64
from onnxsqueeze.verification.model_source import Source
from onnxsqueeze.verification.sessions import RefusedError, Session
from onnxsqueeze.verification.widen_types import widened

__all__ = ["disagreement"]

_SAME = 1e-6
"""Relative deviation of two evaluations in float64, of which one has constants such as epsilons rounded to float32."""

_MOST_DOUBLED = 50_000_000
"""Up to so many parameters a module is run in float64 as well, to measure what rounding does to its outputs."""


def disagreement(model: Model, flat: Flat, cases: Sequence[Sequence[Tensor]]) -> str:
    """Run a module and its exported form on the same inputs.

    The allowance is that of `onnxsqueeze.verify`: by how much rounding moves an output, measured against float64. Where
    they are further apart, float64 decides: a norm over what hardly varies turns rounding into anything.

    Args:
        model: the exported form.
        flat: the module, in evaluation mode.
        cases: the inputs of each run.

    Returns:
        What is wrong, in half a sentence; "" where the two agree.
    """
    source = Source(model)
    inputs = [value.name for value in source.inputs]
    outputs = [value.name for value in model.skeleton.graph.output]
    half = TensorProto.BFLOAT16 in source.float_types  # in which onnxruntime has few operators for the CPU
    try:
        loaded = Source(widened(model, {TensorProto.BFLOAT16}, TensorProto.FLOAT)) if half else source
        session = Session(loaded, optimized=True)
        for tensors in cases:
            expected = [_array(tensor) for tensor in _run(flat, tensors)]
            precise = _in_double(flat, tensors)
            found = session.run(dict(zip(inputs, map(_array, tensors), strict=True)))
            for index, name in enumerate(outputs):
                said = _problem(source, expected[index], found[name], precise[index] if precise else None)
                if said and not (precise and _same_in_double(model, tensors, index, precise[index])):
                    return f"its output {name} {said}"
    except RefusedError as error:
        return f"onnxruntime does not run it: {error}"
    return ""


def _problem(source: Source, expected: Any, found: Any, precise: Any) -> str:
    apart = difference(expected, found)
    rounding = difference(precise, expected) if precise is not None else Difference()
    yardstick = 0.0 if rounding.problem or rounding.exact else rounding.relative(max(rounding.scale, 1e-30))
    allowed = default_tolerance(source.float_types, yardstick, measured=precise is not None)
    if Tolerance(allowed, 1e-30).allows(apart, apart.scale):
        return ""
    if apart.problem:
        return f"is something else: {apart.problem}"
    if apart.exact:
        return f"differs in {apart.mismatches} elements"
    return f"deviates by {apart.relative(apart.scale):.1e} of its scale (allowed {allowed:.1e})"


def _same_in_double(model: Model, tensors: Sequence[Tensor], index: int, precise: Any) -> bool:
    """Whether an output of the exported form is what the module's is where nothing is rounded to float32."""
    feeds = dict(zip([value.name for value in Source(model).inputs], map(_array, tensors), strict=True))
    for evaluated in (by_onnxruntime, by_reference):
        try:
            found = list(evaluated(in_float64(model))(feeds).values())[index]
        except RefusedError:  # it has no code for float64
            continue
        apart = difference(precise, found)
        return not apart.problem and not apart.exact and apart.relative(apart.scale) <= _SAME
    return False


def _run(flat: Flat, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    with torch.no_grad():
        found: Sequence[Tensor] = flat(*tensors)
    return found


def _in_double(flat: Flat, tensors: Sequence[Tensor]) -> list[Any] | None:
    """Return the outputs in float64, None where that is too much or does not work."""
    if sum(parameter.numel() for parameter in flat.parameters()) > _MOST_DOUBLED:
        return None
    try:
        wide: nn.Module = copy.deepcopy(flat).double()
        given = [tensor.double() if tensor.is_floating_point() else tensor for tensor in tensors]
        with torch.no_grad():
            return [_array(tensor) for tensor in wide(*given)]
    except Exception:  # a module may insist on a type in whatever way
        return None


def _array(tensor: Tensor) -> Any:
    """Return a tensor as an array; numpy has no bfloat16, every element of which is a float32."""
    plain = tensor.detach().cpu()
    return np.array((plain.float() if plain.dtype == torch.bfloat16 else plain).numpy())
