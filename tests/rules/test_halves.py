"""Each operator of onnx's own node tests behind units that are constant, and in front of what reads a part of it.

The units lie along any axis of any input; what comes out must be what the dense network gives.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import onnxsqueeze as sq
from tests.end_to_end.backend.cases import Case
from tests.rules.microsoft_nodes import LACKING
from tests.rules.test_values import ALL, by_operator, expected

Array = npt.NDArray[Any]


class Halves:
    """The model of a test, changed.

    Attributes:
        model: the model. feeds: its inputs.
    """

    def __init__(self, case: Case, random: np.random.Generator) -> None:
        """Put units in front of some inputs, make constants of others, and read a part of each output."""
        self.model, self.feeds = onnx.ModelProto(), dict(case.runs[0].feeds)
        self.model.CopyFrom(case.model)
        self._random, self._front = random, []
        self._version = next((entry.version for entry in case.model.opset_import if not entry.domain), 0)
        (node,) = self.model.graph.node
        for name, value in list(self.feeds.items()):
            if isinstance(value, np.ndarray) and value.size > 1:
                self._in_front(node, name, value)
        behind = list(self._parts(case))
        del self.model.graph.node[:]
        self.model.graph.node.extend([*self._front, node, *behind])
        others = [name for name, value in self.feeds.items() if isinstance(value, np.ndarray)][1:]
        share = random.choice([0.5, 1])
        alone = case.suite == "microsoft"  # where onnxruntime may die of scales that it does not know
        single = [name for name in others if alone and case.runs[0].feeds[name].size == 1]
        self._store([name for name in others if random.random() < share or name in single])

    def _in_front(self, node: onnx.NodeProto, name: str, value: Array) -> None:
        """Put units in front of an input, and encode them if it is one of codes."""
        if value.dtype in (np.float32, np.float64):
            if not np.isfinite(value).all():
                return
            made = f"{name}.units"
            self._units(name, value)
        elif value.dtype in (np.int8, np.uint8) and value.ndim > 1 and self._version >= 13:
            made = f"{name}.codes"
            self.feeds[name] = value.astype(np.float32)
            for given in self.model.graph.input:
                if given.name == name:
                    given.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
            self._units(name, self.feeds[name])
            self._add_stored({f"{name}.one": np.asarray(1, np.float32), f"{name}.zero": np.zeros((), value.dtype)})
            encoded = [f"{name}.units", f"{name}.one", f"{name}.zero"]
            self._front.append(helper.make_node("QuantizeLinear", encoded, [made]))
        else:
            return
        node.input[:] = [made if entry == name else entry for entry in node.input]

    def _units(self, name: str, value: Array) -> None:
        """Multiply by a diagonal matrix along an axis: some units are what they were, some zero, some a constant."""
        axis = self._axis(value.shape)
        length = value.shape[axis]
        constant = self._random.random(length) < 0.4
        constant[int(self._random.integers(length))] = False
        some = np.moveaxis(value, axis, -1).reshape(-1, length)[0]  # a value that the operator is made for
        bias = np.where(constant & (self._random.random(length) < 0.7), some, 0).astype(value.dtype)
        order = [*(place for place in range(value.ndim) if place != axis), axis]
        weights = {f"{name}.w": np.diag(~constant).astype(value.dtype), f"{name}.b": bias}
        self._add_stored(weights)
        self._front += [
            helper.make_node("Transpose", [name], [f"{name}.moved"], perm=order),
            helper.make_node("MatMul", [f"{name}.moved", f"{name}.w"], [f"{name}.product"]),
            helper.make_node("Add", [f"{name}.product", f"{name}.b"], [f"{name}.sum"]),
            helper.make_node("Transpose", [f"{name}.sum"], [f"{name}.units"], perm=np.argsort(order).tolist()),
        ]

    def _parts(self, case: Case) -> Iterator[onnx.NodeProto]:
        """Yield what reads half of an axis of each output."""
        kinds = {value.name: value.type.tensor_type.elem_type for value in self.model.graph.output}
        del self.model.graph.output[:]
        for name, value in expected(case):
            if value.dtype.kind in "fiub" and value.size > 1:
                axis = self._axis(value.shape)
                half = max(1, value.shape[axis] // 2)
                read = np.sort(self._random.permutation(value.shape[axis])[:half]).astype(np.int64)
                self._add_stored({f"{name}.places": read})
                shape = [half if place == axis else size for place, size in enumerate(value.shape)]
                self.model.graph.output.append(helper.make_tensor_value_info(f"{name}.part", kinds[name], shape))
                yield helper.make_node("Gather", [name, f"{name}.places"], [f"{name}.part"], axis=axis)

    def _axis(self, shape: Sequence[int]) -> int:
        return int(self._random.choice([axis for axis, size in enumerate(shape) if size > 1]))

    def _store(self, names: Sequence[str]) -> None:
        """Make initializers of inputs."""
        self._add_stored({name: self.feeds.pop(name) for name in names})
        staying = [value for value in self.model.graph.input if value.name not in names]
        del self.model.graph.input[:]
        self.model.graph.input.extend(staying)

    def _add_stored(self, arrays: dict[str, Array]) -> None:
        self.model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
        if self.model.ir_version < 4:  # initializers were inputs
            self.model.ir_version = 4

    def outputs(self, model: onnx.ModelProto) -> list[Array]:
        """Run a model as its nodes say."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session.run(None, {name: value for name, value in self.feeds.items() if value is not None})


def changed(op: str) -> Iterator[tuple[Case, Halves]]:
    """Yield what onnxruntime runs of the tests of an operator."""
    for case in by_operator()[op]:
        alone = any(not entry.domain for entry in case.model.opset_import)
        bodies = any(attribute.HasField("g") for attribute in case.model.graph.node[0].attribute)
        if alone and not bodies and any(value.size > 1 for _, value in expected(case)):
            yield case, Halves(case, np.random.default_rng(zlib.crc32(case.name.encode())))


@pytest.mark.parametrize("op", ALL)
def test_outputs_are_what_they_were(op: str) -> None:
    wrong = []
    for case, halves in changed(op):
        try:
            before = halves.outputs(halves.model)
        except LACKING:
            continue
        small = sq.minimize(halves.model, round_to=1, verify=False).model
        for one, other in zip(before, halves.outputs(small), strict=True):
            # onnxruntime sums in another order where there is less to sum
            close = {"rtol": max(case.rtol, 1e-4), "atol": max(case.atol, 1e-5)}
            if one.shape != other.shape or not np.allclose(one, other, **close, equal_nan=True):
                wrong.append(case.name)
    assert not wrong


def test_units_leave() -> None:
    """Most operators let some of their units go: else the other tests would see nothing."""
    found = set()
    for op in ALL[::4]:
        for _, halves in changed(op):
            try:
                report = sq.minimize(halves.model, round_to=1, verify=False).report
            except sq.SqueezeError:
                continue
            if report.weights_after < report.weights_before:
                found.add(op)
                break
    assert len(found) > 20
