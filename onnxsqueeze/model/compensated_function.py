"""CompensatedLayerNorm as a model-local function: it stays recognisable, so that it can be narrowed once more."""

from __future__ import annotations

from dataclasses import replace

import onnx

from onnxsqueeze.errors import InvalidModelError
from onnxsqueeze.model.local_functions import define
from onnxsqueeze.model.model import Model

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
  {typed}
  scaled = Mul (typed, Scale)
  Y = Add (scaled, B)
}}
"""
FIRST_OPSET = 15  # that of CastLike; a function may not import a later one than the model does
_EARLIEST = 12  # that of constants that are a float or an int


def compensated_layer_norm(opset: int, kind: int = onnx.TensorProto.FLOAT) -> onnx.FunctionProto:
    """Return the function for a model that imports this version of the standard operators.

    ``Y = Scale (X - mean) / sqrt(variance + epsilon) + B`` along the last axis of X [..., P], Scale and B [P], with
    mean and variance taken over ``width`` channels: the P present ones and ``width - P`` constants with the sum
    ``sum`` and the sum of squared deviations from their mean ``squared_deviations``. Computed in float32.

    From opset 15 it follows the type of X. Before, a function could not, and takes X of the element type ``kind``.
    """
    typed = "CastLike (unit, X)" if opset >= FIRST_OPSET else f"Cast <to: int = {kind}> (unit)"
    if opset < 18:
        means = [f"{to} = ReduceMean <axes: ints = [-1], keepdims: int = 1> ({of})" for to, of in _MEANS]
    else:
        means = [f"{to} = ReduceMean <keepdims: int = 1> ({of}, last)" for to, of in _MEANS]
    text = _BODY.format(
        domain=DOMAIN, name=NAME, opset=opset, mean_of_x=means[0], mean_of_squares=means[1], typed=f"typed = {typed}"
    )
    function: onnx.FunctionProto = onnx.parser.parse_function(text)
    function.doc_string = "LayerNormalization whose mean and variance count channels that are constant and were removed"
    return function


def with_definition(model: Model) -> Model:
    """Return a model that defines the function if it calls it; the argument if nothing is missing.

    Raises:
        InvalidModelError: when the model imports standard operators of which the function cannot be made.
    """
    skeleton = model.skeleton
    calls = [node for node in skeleton.graph.node if node.domain == DOMAIN and node.op_type == NAME]
    if not calls or any((entry.domain, entry.name) == (DOMAIN, NAME) for entry in skeleton.functions):
        return model
    opset = next((entry.version for entry in skeleton.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < _EARLIEST:
        raise InvalidModelError(f"opset {opset} is too old for {NAME}; export with {_EARLIEST} or later")
    completed = onnx.ModelProto()
    completed.CopyFrom(skeleton)
    scale = model.initializers.get(calls[0].input[1])
    kind = onnx.TensorProto.FLOAT if scale is None else scale.header.data_type
    define(completed, [compensated_layer_norm(opset, kind)])
    return replace(model, skeleton=completed)


_MEANS = (("present_mean", "x"), ("mean_square", "squares"))
