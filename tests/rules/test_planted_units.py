"""Units at random places along each axis in front of each operator: those that nobody misses leave, and no others.

Which are missed is measured, by moving one unit after the other and looking at the output: nothing here knows what an
operator computes, but along which axes it ties the elements together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from tests.support.planted.checks import SINGLE, deviation, loaded, minimize, weights

Array = npt.NDArray[Any]
READ = 13  # numbers of which units are made, and a size of nothing else
MOVED = 50.0  # by more than a ReLU hides
IMAGE, THIN = (2, 6, 4, 6), (2, 1, 6, 1)
VECTOR = np.float32([0.5, 1.5, 0.7, 1.2, 0.9, 1.1])


FULL = np.random.default_rng(0).standard_normal((6, 6)).astype(np.float32)
TWO = np.arange(144).reshape(1, 6, 4, 6) % 2


class Case(NamedTuple):
    """Nodes that make ``y`` of ``x``.

    Attributes:
        body: the nodes. constants: what they read. shape: of ``x``. tied: its axes along which all stay.
        along: the axes along which units are planted; all, where it is empty. constant: how many of them are.
    """

    body: str
    constants: dict[str, Any] = {}
    tied: Sequence[int] = ()
    shape: Sequence[int] = IMAGE
    along: Sequence[int] = ()
    constant: float = 0.3


CASES = [
    Case("y = Identity(x)"),
    Case("y = Slice(x, s, e, a)", {"s": [1], "e": [5], "a": [1]}),
    Case("y = Slice(x, s, e, a, t)", {"s": [-1, 0], "e": [-9, 5], "a": [1, -1], "t": [-1, 2]}),
    Case("y = Compress <axis = 1> (x, c)", {"c": np.array([True, False, True, True, False, True])}),
    Case("y = Compress <axis = 3> (x, c)", {"c": np.array([True, False, True, True])}),
    Case("y = Gather <axis = 1> (x, i)", {"i": [0, 2, 5, 4]}),
    Case("y = Gather <axis = -1> (x, i)", {"i": [-1, 2, -6, 4]}),
    Case("y = Transpose <perm = [1, 3, 0, 2]> (x)"),
    Case("y = Squeeze(x, a)", {"a": [1, -1]}, shape=THIN),
    Case("y = Unsqueeze(x, a)", {"a": [1, -1]}),
    Case("y = Expand(x, s)", {"s": [7, 2, 4, 6, 5]}, shape=THIN),
    Case("y = Tile(x, s)", {"s": [1, 1, 3, 1]}),
    Case("y = Pad(x, s)", {"s": [0, 1, 0, 0, 0, 2, 0, 0]}),
    Case("y = Pad(x, s)", {"s": [0, 0, 0, 2, 0, 0, 0, 0]}),
    Case("y = Pad(x, s, u)", {"s": [0, 0, 0, 0, 0, 0, 0, 1], "u": np.float32(0.5)}, along=[3]),
    Case("y = Pad(x, s)", {"s": [0, 0, 0, -1, 0, 0, 0, 1]}, tied=[3]),
    Case('y = Pad <mode = "reflect"> (x, s)', {"s": [0, 0, 1, 0, 0, 0, 2, 0]}, tied=[2]),
    Case("y = ReverseSequence <batch_axis = 0, time_axis = 1> (x, n)", {"n": [2, 5]}, tied=[0, 1]),
    Case("y = ReduceMean <keepdims = 0> (x, a)", {"a": [2]}),
    Case("y = ReduceSum (x, a)", {"a": [0, -2]}),
    Case("y = ReduceMax <keepdims = 0> (x, a)", {"a": [-2]}),
    Case("p, q = Split <axis = 1> (x, s)  y = Concat <axis = 1> (q, x, p)", {"s": [2, 4]}),
    Case("y = Trilu <upper = 0> (x, k)", {"k": 1}, tied=[2, 3]),
    Case("y = CenterCropPad (x, s)", {"s": [2, 6, 6, 6]}, tied=[2]),
    Case('y = Resize <mode = "nearest"> (x, , f)', {"f": np.float32([1, 1, 2, 1])}, tied=[2, 3]),
    Case("y = GatherND (x, i)", {"i": [[0], [1], [0]]}, tied=[0]),
    Case("y = GatherElements <axis = 2> (x, i)", {"i": np.tile([[3], [0], [1]], (2, 6, 1, 6))}, tied=[2]),
    Case(
        "y = ScatterND (x, i, u)",
        {"i": [[0, 1], [1, 4]], "u": np.ones((2, 4, 6), np.float32)},
        tied=[0, 1],
        along=[0, 1],
    ),
    Case("y = CumSum (x, a)", {"a": 2}, tied=[2]),
    Case("y = MaxPool <kernel_shape = [2, 2]> (x)", tied=[2, 3]),
    Case("y = AveragePool <kernel_shape = [1, 2]> (x)", tied=[2, 3]),
    Case("y = Conv (x, k, b)", {"k": FULL[..., None, None], "b": VECTOR}, along=[0, 1]),
    Case("y = Conv <group = 6> (x, k)", {"k": VECTOR.reshape(6, 1, 1, 1)}, tied=[2, 3], along=[1, 2, 3]),
    Case("y = MatMul (x, k)", {"k": FULL}),
    Case("y = MatMul (k, x)", {"k": FULL[:4, :4]}),
    Case("y = Mul (x, k)", {"k": VECTOR.reshape(6, 1, 1)}, along=[1]),
    Case("p = Mul (k, x)  y = Add (l, p)", {"k": VECTOR, "l": VECTOR}, along=[3]),
    Case("p = Sub (k, x)  y = Div (p, l)", {"k": VECTOR[:1], "l": VECTOR[1]}),
    Case("y = PRelu (x, k)", {"k": VECTOR.reshape(6, 1, 1)}),
    Case("p = Softplus (x)  q = Sqrt (p)  y = Neg (q)"),
    Case("y = Max (x, l)", {"l": VECTOR[:1]}),
    Case("y = Reshape(x, s)", {"s": [2, 3, 2, 4, 6]}, along=[1], constant=0),
    Case(
        "p = Reshape(x, s)  y = Transpose <perm = [3, 2, 0, 1, 4]> (p)", {"s": [2, 3, 2, 4, 6]}, along=[1], constant=0
    ),
    Case("y = Reshape(x, s)", {"s": [2, 24, 6]}, along=[1, 2], constant=0),
    Case("y = Compress <axis = 0> (x, c)", {"c": np.array([True, False])}, along=[0]),
    Case("y = Gather <axis = 0> (x, i)", {"i": [1]}, along=[0]),
    Case("y = Slice(x, s, e, a)", {"s": [1], "e": [9], "a": [0]}, along=[0]),
    Case("y = CumSum (x, a)", {"a": 0}, tied=[0], along=[0]),
    Case("p, q = TopK <axis = 0> (x, k)  y = Add (p, p)", {"k": [1]}, tied=[0], along=[0]),
    Case("y = GatherElements <axis = 0> (x, i)", {"i": np.arange(288).reshape(IMAGE) % 2}, tied=[0], along=[0]),
    Case(
        "y = ScatterElements <axis = 0> (x, i, u)", {"i": TWO, "u": np.ones(TWO.shape, np.float32)}, tied=[0], along=[0]
    ),
    Case("y = Softmax <axis = 0> (x)", tied=[0], along=[0]),
    Case("y = ReduceMin (x, a)", {"a": [0]}, along=[0]),
    Case("y = BatchNormalization (x, k, k, k, k)", {"k": VECTOR}, along=[1]),
]


class Network:
    """Units along an axis of ``x``, what makes ``y`` of that, and a product that reads half of an axis of ``y``.

    Of the units some are constants, 0 or more; the others have weights.
    """

    def __init__(self, case: Case, axis: int) -> None:
        self.body, self.constants = case.body, case.constants
        self.random, self.units = np.random.default_rng(axis), case.shape[axis]
        self.swap = _swapped(len(case.shape), axis)
        self.shape = [*(case.shape[place] for place in self.swap[:-1]), READ]
        self.weight = self.random.standard_normal((READ, self.units))
        self.bias = self.random.uniform(0.5, 1, self.units)
        self.constant = self.random.random(self.units) < case.constant
        self.weight[:, self.constant] = 0
        self.bias[self.constant & (self.random.random(self.units) < 0.5)] = 0
        self.feeds = {"v": self.random.standard_normal(self.shape).astype(np.float32)}

    def model(self, out: str, ending: str = "", sizes: Sequence[int] = (), **more: Array) -> onnx.ModelProto:
        """Return the network that hands something out, of these sizes if they are known."""
        head = f"v0 = MatMul(v, w) v1 = Add(v0, d) v2 = Relu(v1) x = Transpose <perm = {self.swap}> (v2)"
        dims = ",".join(map(str, self.shape))
        model = parser.parse_model(f"""<ir_version: 10, opset_import: ["": 18]>
            planted (float[{dims}] v) => (float {out}) {{ {head} {self.body} {ending} }}""")
        made = model.graph.output[0].type.tensor_type
        made.ClearField("shape")
        for size in sizes:
            made.shape.dim.add().dim_value = size
        for name, value in ({"w": np.float32(self.weight), "d": np.float32(self.bias)} | self.constants | more).items():
            array = np.asarray(value)
            array = array.astype(np.int64) if array.dtype.kind == "i" else array
            model.graph.initializer.append(
                numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
            )
        return model

    def reading(self, axis: int, sizes: Sequence[int]) -> onnx.ModelProto:
        """Return the network that reads half of the places along an axis of ``y``, which has these sizes."""
        swap, matrix = _swapped(len(sizes), axis), self.random.standard_normal((sizes[axis], 3))
        matrix[self.random.permutation(sizes[axis])[: sizes[axis] // 2]] = 0
        ending = f"z0 = Transpose <perm = {swap}> (y) z = MatMul(z0, m)"
        return self.model("z", ending, [*(sizes[place] for place in swap[:-1]), 3], m=np.float32(matrix))

    def missed(self, model: onnx.ModelProto) -> int:
        """Return how many units have to stay: those that vary, or all that an output has places of their own for."""
        moving = onnx.ModelProto.FromString(model.SerializeToString())
        del moving.graph.initializer[1]
        moving.graph.input.append(helper.make_tensor_value_info("d", TensorProto.FLOAT, [self.units]))
        compute = loaded(moving)
        plain, *moved = (
            compute({**self.feeds, "d": (self.bias + MOVED * place).astype(np.float32)})[0]
            for place in (np.zeros(self.units), *np.eye(self.units))
        )
        reach = [plain != other for other in moved]
        apart = not (np.sum(reach, axis=0) > 1).any()
        return max(
            1, sum(bool(share.any() and (apart or not own)) for share, own in zip(reach, self.constant, strict=True))
        )


def _swapped(rank: int, axis: int) -> list[int]:
    swap = list(range(rank))
    swap[axis], swap[-1] = swap[-1], swap[axis]
    return swap


def left(model: onnx.ModelProto) -> int:
    """Return how many units are still made."""
    return sum(shape[1] for shape in weights(model) if len(shape) == 2 and shape[0] == READ)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.body)
def test_units_that_nobody_misses_leave(case: Case) -> None:
    """Whatever axis of the output is read."""
    for axis in case.along or range(len(case.shape)):
        network = Network(case, axis)
        (y,) = loaded(network.model("y"))(network.feeds)
        for read in range(y.ndim):
            model = network.reading(read, y.shape)
            result = minimize(model, narrowing=False).model
            assert deviation(loaded(model)(network.feeds), loaded(result)(network.feeds)) <= SINGLE
            expected = network.units if axis in case.tied else network.missed(model)
            assert left(result) == expected, (axis, read)
