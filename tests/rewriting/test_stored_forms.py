"""Whatever form a weight is stored in, it is sliced in that form, and no file grows."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxsqueeze as sq
from tests.support.extent import part
from tests.support.planted.checks import assert_equal_outputs, deviation, draw, run
from tests.support.planted.stored_forms import FORMS, Stored, node, stored

Array = npt.NDArray[Any]


def network(*widths: int, off: float = 0.4, seed: int = 0) -> onnx.ModelProto:
    """Return dense layers of which a part of the hidden units is dead, at random places."""
    random = np.random.default_rng(seed)
    nodes, tensors, x = [], {}, "x"
    for place, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
        weight = random.standard_normal((before, after)) / np.sqrt(before)
        if place < len(widths) - 2:
            weight[:, random.permutation(after)[: int(after * off)]] = 0
        tensors[f"w{place}"] = weight.astype(np.float32)
        nodes += [node("MatMul", [x, f"w{place}"], f"h{place}"), node("Relu", [f"h{place}"], f"r{place}")]
        x = f"r{place}"
    nodes.pop()
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width])
        for name, width in (("x", widths[0]), (f"h{len(widths) - 2}", widths[-1]))
    ]
    kept = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def left(model: onnx.ModelProto) -> Counter[tuple[int, tuple[int, ...]]]:
    """Count the stored matrices by type and sorted shape."""
    found = [tensor for tensor in model.graph.initializer if tensor.data_type != TensorProto.INT64]
    found += [entry.attribute[0].t for entry in model.graph.node if entry.op_type == "Constant"]
    shapes = [(t.data_type, tuple(sorted(d for d in t.dims if d > 1))) for t in found]
    return Counter(entry for entry in shapes if len(entry[1]) > 1)


TYPES = {"as_node": 1, "masked": 1, "bytes_scaled": TensorProto.INT8}


@pytest.mark.parametrize("form", FORMS)
def test_dead_units_leave(form: str) -> None:
    """Each matrix comes back in the type that it was stored in, at the size that it needs."""
    model = stored(network(24, 40, 40, 30), FORMS[form])
    result = sq.minimize(model, round_to=1, verify=False)
    kind = TYPES.get(form, TensorProto.FLOAT16)
    shapes = [(24, 24), (24, 24), (24, 30)]
    if form == "half_in_two":
        assert {entry[0] for entry in left(result.model)} == {kind}
        assert sum(np.prod(entry[1]) * count for entry, count in left(result.model).items()) == 24 * 78
    else:
        assert left(result.model) == Counter((kind, shape) for shape in shapes)
    assert_equal_outputs(model, result.model, double=False)
    onnx.checker.check_model(result.model, full_check=True)
    assert result.report.bytes_after < result.report.bytes_before


@pytest.mark.parametrize("off", [0.05, 0.2, 0.9])
@pytest.mark.parametrize("form", FORMS)
def test_no_file_grows(form: str, off: float) -> None:
    """Not by a byte, also where little goes."""
    model = stored(network(24, 40, 40, 30, off=off, seed=3), FORMS[form])
    result = sq.minimize(model, verify=False)
    assert len(result.model.SerializeToString()) <= len(model.SerializeToString())
    assert_equal_outputs(model, result.model, double=False)


def test_what_is_stored_is_the_original_bits() -> None:
    model = stored(network(24, 40, 30), FORMS["bytes_scaled"])
    minimized = sq.minimize(model, round_to=1, verify=False).model
    before, after = ({t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (model, minimized))
    kept = np.any(before["w0.q"] != 0, axis=0)
    np.testing.assert_array_equal(after["w0.q"], before["w0.q"][:, kept])
    np.testing.assert_array_equal(after["w1.q"], before["w1.q"][kept])


def random_expression(random: np.random.Generator, name: str, array: Array) -> Stored:
    """Return nodes that compute about such a weight, of narrower constants as it happens; zeros stay zeros."""
    nodes: list[onnx.NodeProto] = []
    read = {f"{name}.0": array.astype(random.choice([np.float16, np.float32]))}
    x, count = f"{name}.0", 0

    def add(op: str, *others: str, **attributes: Any) -> None:
        nonlocal x, count
        count += 1
        nodes.append(node(op, [x, *others], f"{name}.{count}", **attributes))
        x = f"{name}.{count}"

    def hold(value: Array) -> str:
        read[f"{name}.c{len(read)}"] = value
        return f"{name}.c{len(read) - 1}"

    wide = read[x].dtype == np.float32
    if not wide:
        add("Cast", to=1)
    for _ in range(random.integers(1, 6)):
        match random.integers(8):
            case 0:
                add("Transpose", perm=[1, 0])
                add("Tanh")
                add("Transpose", perm=[1, 0])
            case 1:
                add("Mul", hold(random.uniform(0.5, 2, (1, array.shape[1])).astype(np.float32)))
            case 2:
                add("Div", hold(random.uniform(0.5, 2, (array.shape[0], 1)).astype(np.float32)))
            case 3:
                add("Reshape", hold(np.array([-1, 1, array.shape[1]])))
                add("Squeeze", hold(np.array([1])))
            case 4:
                add("ReduceL2", hold(np.array([1])), keepdims=1)
                norm, x = x, nodes[-1].input[0]
                add("Div", norm)
            case 5:
                first, second = hold(np.array([3, array.shape[0] - 3])), f"{name}.rest{count}"
                nodes.append(helper.make_node("Split", [x, first], [f"{second}a", f"{second}b"], axis=0))
                x = f"{second}a"
                add("Concat", f"{second}b", axis=0)
            case 6:
                add("Clip", hold(np.float32(-0.4)), hold(np.float32(0.4)))
            case _:
                add("Expand", hold(np.array(array.shape)))
    nodes[-1].output[0] = name
    return nodes, read


@pytest.mark.parametrize("seed", range(part(24)))
def test_random_expressions_of_constants(seed: int) -> None:
    """Whatever stands in front of the weights, all dead units go, the outputs are equal and the file does not grow."""
    random = np.random.default_rng(seed)
    model = stored(network(16, 48, 40, 8, seed=seed), lambda name, array: random_expression(random, name, array))
    minimized = sq.minimize(model, round_to=1, verify=False).model
    assert len(minimized.SerializeToString()) <= len(model.SerializeToString())
    feeds = draw(model, 3, 0)
    assert deviation(run(model, feeds, False), run(minimized, feeds, False)) < 2e-5
    widths = {tuple(array.shape) for array in hidden(minimized, feeds)}
    assert widths == {(3, 29), (3, 24)}


def hidden(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    """Return what stands behind each Relu."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    names = [entry.output[0] for entry in model.graph.node if entry.op_type == "Relu"]
    wide.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    return run(wide, feeds, False)[1:]


def test_random_numbers_are_no_constants() -> None:
    """They follow from constants alone, and are others each time."""
    model = network(16, 48, 8)
    random = node("RandomNormalLike", ["w0"], "noise", seed=1.0)
    added = node("Add", ["w0", "noise"], "w")
    model.graph.node.insert(0, added)
    model.graph.node.insert(0, random)
    model.graph.node[2].input[1] = "w"
    result = sq.minimize(model, verify=False)
    assert result.model.graph.node == model.graph.node
    assert result.report.weights_after == result.report.weights_before


def test_what_cannot_be_sliced_and_would_grow_is_gathered() -> None:
    """A cumulative sum of a few bytes makes the weight: its columns are picked from it, and nothing is written out."""
    model = network(32, 64, 64)
    small = np.sign(numpy_helper.to_array(model.graph.initializer[0])).astype(np.int8)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(small, "q"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0), "axis"))
    model.graph.node.insert(0, node("CumSum", ["c", "axis"], "w0"))
    model.graph.node.insert(0, node("Cast", ["q"], "c", to=1))
    minimized = sq.minimize(model, round_to=1, verify=False).model
    kept = int(np.any(small, axis=0).sum())
    assert len(minimized.SerializeToString()) < len(model.SerializeToString())
    assert [tuple(array.shape) for array in hidden(minimized, draw(model, 3, 0))] == [(3, kept)]
    assert_equal_outputs(model, minimized, double=False)


def test_a_constant_without_inputs_is_stored_as_well() -> None:
    """Its value is written narrower, not gathered from. Here it is a list of numbers in a Constant node."""
    model = network(32, 64, 64)
    scale = np.random.default_rng(0).uniform(1, 2, 64)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["list"], value_floats=scale.tolist()))
    model.graph.node.insert(3, node("Mul", ["r0", "list"], "scaled"))
    model.graph.node[4].input[0] = "scaled"
    minimized = sq.minimize(model, round_to=1, verify=False).model
    assert not any(entry.op_type == "Gather" for entry in minimized.graph.node)
    assert [tuple(array.shape) for array in hidden(minimized, draw(model, 3, 0))] == [(3, 39)]
    assert_equal_outputs(model, minimized, double=False)


@pytest.mark.parametrize("depth", [30, 200])
@pytest.mark.parametrize("target", ["summand", "weight"])
def test_paths_through_what_computes_a_constant_multiply(target: str, depth: int) -> None:
    """Each step reads the one before twice, so that there are 2 ** depth paths; none is walked by itself."""
    random = np.random.default_rng(1)
    first = random.standard_normal((8, 6)).astype(np.float32)
    first[:, [1, 4]] = 0
    start = random.standard_normal((6, 6) if target == "weight" else 6).astype(np.float32)
    tensors = {"w": first, "c": start, "last": random.standard_normal((6, 5)).astype(np.float32)}
    nodes, name = [node("MatMul", ["x", "w"], "h")], "c"
    for step in range(depth):
        nodes += [node("Neg", [name], f"n{step}"), node("Max", [name, f"n{step}"], f"c{step}")]
        name = f"c{step}"
    nodes.append(node("MatMul" if target == "weight" else "Mul", ["h", name], "s"))
    nodes += [node("Relu", ["s"], "r"), node("MatMul", ["r", "last"], "y")]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", width]) for n, width in (("x", 8), ("y", 5))]
    kept = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", values[:1], values[1:], kept),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    result = sq.minimize(model, round_to=1, verify=False)
    assert (TensorProto.FLOAT, (4, 8)) in left(result.model)
    assert_equal_outputs(model, result.model, double=False)
