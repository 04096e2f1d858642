"""CompensatedLayerNorm as a model-local function: it stays recognisable, so that it can be narrowed once more."""

from __future__ import annotations

from dataclasses import replace

import onnx

from onnxsqueeze.functions import define
from onnxsqueeze.loading import Model

DOMAIN = "onnxsqueeze"
NAME = "CompensatedLayerNorm"

_BODY = """
<domain: "{domain}", opset_import: ["" : {opset}]>
{name} <width: int, epsilon: float, sum: float, squared_deviations: float> (X, Scale, B) => (Y)
{{
  one = Constant <value_float: float = 1.0> ()
  epsilon_value = Constant <value_float: float = @epsilon> ()
  removed_sum = Constant <value_float: float = @sum> ()
  removed_deviations = Constant <value_float: float = @squared_deviations> ()
  width_value = Constant <value_int: int = @width> ()
  width_float = Cast <to: int = 1> (width_value)
  shape = Shape (X)
  last = Constant <value_ints: ints = [-1]> ()
  present_value = Gather (shape, last)
  present = Cast <to: int = 1> (present_value)
  share = Div (present, width_float)
  rest = Sub (one, share)
  count = Sub (width_float, present)
  least = Max (count, one)
  removed_mean = Div (removed_sum, least)
  removed_variance = Div (removed_deviations, least)
  x = Cast <to: int = 1> (X)
  {mean_of_x}
  part = Mul (present_mean, share)
  removed_part = Mul (removed_mean, rest)
  mean = Add (part, removed_part)
  centred = Sub (x, mean)
  squares = Mul (centred, centred)
  {mean_of_squares}
  inside = Mul (mean_square, share)
  gap = Sub (mean, removed_mean)
  gap_square = Mul (gap, gap)
  between = Add (gap_square, removed_variance)
  outside = Mul (between, rest)
  variance = Add (inside, outside)
  positive = Add (variance, epsilon_value)
  deviation = Sqrt (positive)
  unit = Div (centred, deviation)
  typed = CastLike (unit, X)
  scaled = Mul (typed, Scale)
  Y = Add (scaled, B)
}}
"""
FIRST_OPSET = 15  # that of CastLike; a function may not import a later one than the model does


def compensated_layer_norm(opset: int) -> onnx.FunctionProto:
    """Return the function for a model that imports this version of the standard operators.

    ``Y = Scale (X - mean) / sqrt(variance + epsilon) + B`` along the last axis of X [..., P], Scale and B [P], with
    mean and variance taken over ``width`` channels: the P present ones and ``width - P`` constants with the sum
    ``sum`` and the sum of squared deviations from their mean ``squared_deviations``. Computed in float32.
    """
    opset = max(opset, FIRST_OPSET)
    if opset < 18:
        means = [f"{to} = ReduceMean <axes: ints = [-1], keepdims: int = 1> ({of})" for to, of in _MEANS]
    else:
        means = [f"{to} = ReduceMean <keepdims: int = 1> ({of}, last)" for to, of in _MEANS]
    text = _BODY.format(domain=DOMAIN, name=NAME, opset=opset, mean_of_x=means[0], mean_of_squares=means[1])
    function: onnx.FunctionProto = onnx.parser.parse_function(text)
    function.doc_string = "LayerNormalization whose mean and variance count channels that are constant and were removed"
    return function


def with_definition(model: Model) -> Model:
    """Return a model that defines the function if it calls it; the argument if nothing is missing."""
    skeleton = model.skeleton
    called = any(node.domain == DOMAIN and node.op_type == NAME for node in skeleton.graph.node)
    if not called or any((entry.domain, entry.name) == (DOMAIN, NAME) for entry in skeleton.functions):
        return model
    opset = next((entry.version for entry in skeleton.opset_import if entry.domain in ("", "ai.onnx")), 0)
    completed = onnx.ModelProto()
    completed.CopyFrom(skeleton)
    define(completed, [compensated_layer_norm(opset)])
    return replace(model, skeleton=completed)


_MEANS = (("present_mean", "x"), ("mean_square", "squares"))
