"""What was fused is written back as it came, but for the constants that a rule changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxsqueeze as sq
from onnxsqueeze.graph.graph import PATTERN_DOMAIN
from onnxsqueeze.model.loading import load, to_proto
from onnxsqueeze.pipeline.frontend import analyse, canonical_graph
from onnxsqueeze.planning.fixpoint import make_plan
from onnxsqueeze.rewriting.apply import apply
from onnxsqueeze.rewriting.editor import Editor
from tests.support.builders import Tensor
from tests.support.patterns.graphs import fused, model
from tests.support.patterns.spellings import (
    GELU,
    GUARDED_SOFTMAX,
    LAYER_NORMALIZATION,
    RESPONSE_NORMALIZATION,
    RMS_NORMALIZATION,
    SWISH,
)
from tests.support.planted.checks import assert_recovers, assert_untouched_contract, deviation, draw, run
from tests.support.planted.layers import Twin

TEXTS = [
    *(row[2] for row in (*LAYER_NORMALIZATION, *RMS_NORMALIZATION)),
    *(row[1] for row in (*GELU, *SWISH, *GUARDED_SOFTMAX)),
    *RESPONSE_NORMALIZATION,
]


def _editor(proto: onnx.ModelProto) -> Editor:
    analysis = analyse(load(proto))
    return Editor(analysis, make_plan(analysis))


def _finished(editor: Editor) -> onnx.ModelProto:
    skeleton, arrays, _ = editor.finish()
    whole = to_proto(replace(editor.context.graph.model, constants={}))  # what was in Constant nodes included
    stored = {tensor.name: tensor for tensor in whole.graph.initializer}
    stored |= {name: numpy_helper.from_array(array, name) for name, array in arrays.items()}
    skeleton.graph.initializer.extend(stored.values())
    onnx.checker.check_model(skeleton, full_check=True)
    return skeleton


@pytest.mark.parametrize("as_nodes", [False, True], ids=["initializers", "nodes"])
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_untouched(text: str, as_nodes: bool) -> None:
    """To the byte, between other nodes, with shapes declared for what is inside."""
    proto = onnx.shape_inference.infer_shapes(
        model(f"{text} beside = Neg(x) z = Add(beside, y)", as_nodes=as_nodes, outputs=("z",))
    )
    for node in proto.graph.node:
        node.metadata_props.add(key="line", value=node.name)
    proto.graph.node.insert(len(proto.graph.node) // 2, proto.graph.node.pop(-2))
    analysis = analyse(load(proto))
    assert sum(node.group is not None for node in analysis.graph.nodes) == 1
    written, _ = apply(analysis, make_plan(analysis))
    assert _encoded(written.skeleton.graph.node) == _encoded(proto.graph.node)
    assert _encoded(written.skeleton.graph.value_info) == _encoded(proto.graph.value_info)
    assert list(written.skeleton.opset_import) == list(proto.opset_import)
    assert list(written.initializers) == [tensor.name for tensor in proto.graph.initializer]


def _encoded(messages: object) -> list[bytes]:
    return [message.SerializeToString(deterministic=True) for message in messages]  # type: ignore[attr-defined]


@pytest.mark.parametrize("as_nodes", [False, True], ids=["initializers", "nodes"])
@pytest.mark.parametrize("scalars", [(), (1,)], ids=["scalar", "vector"])
def test_changed_constants(as_nodes: bool, scalars: tuple[int, ...]) -> None:
    """New constants take the places of the old ones in their types and shapes; the nodes stay what they were."""
    proto = model(LAYER_NORMALIZATION[0][2], as_nodes=as_nodes, scalars=scalars)
    editor = _editor(proto)
    (node,) = (node for node in editor.context.graph.nodes if node.group is not None)
    editor.set_constant(node, 1, np.full(6, 3.0, np.float32))
    editor.set_attribute(node, "epsilon", 0.25)
    changed = _finished(editor)
    kept = [entry for entry in proto.graph.node if entry.op_type != "Constant"]
    nodes = [entry for entry in changed.graph.node if entry.op_type != "Constant"]
    assert [(entry.op_type, entry.name, *entry.output) for entry in nodes] == [
        (entry.op_type, entry.name, *entry.output) for entry in kept
    ]
    expected = model(LAYER_NORMALIZATION[0][2], scalars=scalars, more={"g": np.full(6, 3.0), "eps": 0.25})
    feeds = draw(proto, 2, 3)
    assert deviation(run(expected, feeds), run(changed, feeds)) == 0
    epsilon = {tensor.name: tensor for tensor in changed.graph.initializer}[nodes[4].input[1]]
    assert tuple(epsilon.dims) == scalars


def test_constants_shared_with_another_group() -> None:
    """Only the group that was edited reads the new constants."""
    second = LAYER_NORMALIZATION[0][2].replace("(x", "(w").replace(", x", ", w")
    for name in ("m", "d", "s", "v", "e", "r", "n", "a"):
        second = (
            second.replace(f"{name} =", f"{name}2 =")
            .replace(f"({name},", f"({name}2,")
            .replace(f"({name})", f"({name}2)")
        )
        second = second.replace(f", {name})", f", {name}2)")
    proto = model(LAYER_NORMALIZATION[0][2].replace("y =", "w =") + " " + second)
    editor = _editor(proto)
    first, other = (node for node in editor.context.graph.nodes if node.group is not None)
    assert first.inputs[1:] == other.inputs[1:] == ("g", "b")
    editor.set_attribute(first, "epsilon", 0.25)
    editor.set_constant(other, 2, np.zeros(6, np.float32))
    changed = _finished(editor)
    by_output = {entry.output[0]: entry for entry in changed.graph.node}
    assert by_output["e2"].input[1] == "eps" and by_output["e"].input[1] != "eps"
    assert by_output["w"].input[1] == "b" and by_output["y"].input[1] != "b"


def test_replaced() -> None:
    """A group that became another operator leaves nothing behind but its name and what was said of its last node."""
    proto = onnx.shape_inference.infer_shapes(model(LAYER_NORMALIZATION[0][2]))
    editor = _editor(proto)
    (node,) = (node for node in editor.context.graph.nodes if node.group is not None)
    assert (node.label, node.operator) == ("node_8", "LayerNormalization")
    editor.replace(node, "LayerNormalization", ["x", "g", "b"], axis=-1, epsilon=node.attributes["epsilon"])
    (written,) = _finished(editor).graph.node
    assert (written.op_type, written.domain, written.name) == ("LayerNormalization", "", "node_8")
    assert written.doc_string == "line 8"


def test_input_that_no_node_reads() -> None:
    proto = model(LAYER_NORMALIZATION[8][2])
    editor = _editor(proto)
    (node,) = (node for node in editor.context.graph.nodes if node.group is not None)
    editor.set_constant(node, 2, np.ones(6, np.float32))
    with pytest.raises(ValueError, match="another input"):
        editor.finish()


def test_name_of_a_tensor_inside_is_not_given_again() -> None:
    """The old epsilon is still read elsewhere, so that the new one needs a name."""
    proto = model(LAYER_NORMALIZATION[0][2] + " z = Add(y, eps)", outputs=("z",))
    for node in proto.graph.node:
        for names in (node.input, node.output):
            names[:] = ["eps.squeezed" if name == "d" else name for name in names]
    editor = _editor(proto)
    (node,) = (node for node in editor.context.graph.nodes if node.group is not None)
    editor.set_attribute(node, "epsilon", 0.25)
    changed = _finished(editor)
    (name,) = {tensor.name for tensor in changed.graph.initializer} - {
        tensor.name for tensor in proto.graph.initializer
    }
    assert name != "eps.squeezed"


def test_node_added_behind() -> None:
    proto = model(LAYER_NORMALIZATION[0][2])
    editor = _editor(proto)
    (node,) = (node for node in editor.context.graph.nodes if node.group is not None)
    editor.insert_after(node, "Neg", [None])
    changed = _finished(editor)
    assert [entry.op_type for entry in changed.graph.node][-2:] == ["Add", "Neg"]
    feeds = draw(proto, 2, 3)
    assert deviation([-output for output in run(proto, feeds)], run(changed, feeds)) == 0


@pytest.mark.parametrize("pattern", ["e", "*"])
def test_keep_a_tensor_inside(pattern: str) -> None:
    proto = model(LAYER_NORMALIZATION[0][2])
    assert all(node.group is None for node in canonical_graph(load(proto), [pattern]).nodes)
    assert sq.inspect(proto, keep=[pattern]).nodes_before == len(proto.graph.node)


def test_nodes_are_counted_as_the_file_has_them() -> None:
    proto = model(LAYER_NORMALIZATION[0][2])
    report = sq.inspect(proto)
    assert (report.nodes_before, report.nodes_after) == (9, 9)


def _gelu(twin: Twin, x: Tensor) -> Tensor:
    root, one, half = (twin.parameter(value) for value in (np.sqrt(2), 1.0, 0.5))
    gate = twin.op("Add", twin.op("Erf", twin.op("Div", x, root)), one)
    return twin.op("Mul", twin.op("Mul", x, gate), half)


def _tanh_gelu(twin: Twin, x: Tensor) -> Tensor:
    three, cubic, slope, one, half = (twin.parameter(v) for v in (3.0, 0.044715, np.sqrt(2 / np.pi), 1.0, 0.5))
    inside = twin.op("Add", x, twin.op("Mul", cubic, twin.op("Pow", x, three)))
    gate = twin.op("Add", twin.op("Tanh", twin.op("Mul", slope, inside)), one)
    return twin.op("Mul", twin.op("Mul", half, x), gate)


def _silu(twin: Twin, x: Tensor) -> Tensor:
    return twin.op("Mul", x, twin.op("Sigmoid", x))


@pytest.mark.parametrize("opset", [11, 17, 21])
@pytest.mark.parametrize("activation", [_gelu, _tanh_gelu, _silu])
def test_hidden_units_leave(activation: Callable[[Twin, Tensor], Tensor], opset: int) -> None:
    """Dead and constant units go; the activation is still spelt as it was, and what is declared of it is true."""
    twin = Twin(seed=opset, opset=opset)
    x = activation(twin, twin.matmul(twin.input("N", 5, 12, axis=2), twin.units(live=7, dead=4, const=3)))
    pair = twin.pair(twin.matmul(x, twin.units(live=4)))
    assert len(fused(pair.wide)) == 1
    left = assert_recovers(pair)
    assert [node.op_type for node in left.graph.node] == [node.op_type for node in pair.wide.graph.node]
    inferred = onnx.shape_inference.infer_shapes(pair.wide)
    result = sq.minimize(inferred, round_to=1, verify=True)
    assert_untouched_contract(inferred, result, inferred.SerializeToString(deterministic=True))
    assert all(entry.domain != PATTERN_DOMAIN for entry in result.model.opset_import)


@pytest.mark.parametrize("rms", [False, True], ids=["layer", "rms"])
def test_normalized_constants_leave(rms: bool) -> None:
    """An RMSNormalization is spelt as before with another epsilon; nothing is declared of tensors that are gone."""
    row = RMS_NORMALIZATION[0] if rms else LAYER_NORMALIZATION[0]
    random = np.random.default_rng(0)
    width, varying = 256, random.permutation(256)[:64]
    weight = np.zeros((6, width))
    weight[:, varying] = random.standard_normal((6, 64))
    vectors = {name: random.standard_normal(width) for name in ("b0", "g", "b")}
    more = {"w": weight, "w2": random.standard_normal((width, 6)), **vectors}
    text = row[2].replace("(x", "(h").replace(", x)", ", h)")
    proto = model(f"h0 = MatMul(x, w) h = Add(h0, b0) {text} z = MatMul(y, w2)", opset=13, more=more, outputs=("z",))
    proto = onnx.shape_inference.infer_shapes(proto)
    result = sq.minimize(proto, round_to=1)
    assert result.report.ratio > 3
    made = {name for node in result.model.graph.node for name in node.output}
    assert {value.name for value in result.model.graph.value_info} <= made
    if rms:
        before = [(node.op_type, node.name) for node in proto.graph.node]
        assert [(node.op_type, node.name) for node in result.model.graph.node] == before


def test_parts_of_a_pattern_in_a_subgraph() -> None:
    """A group whose input a subgraph reads too is fused, and the subgraph still finds its name."""
    branch = helper.make_graph([helper.make_node("Neg", ["x"], ["w"])], "g", [], [_value("w")])
    proto = model(SWISH[0][1], extra_inputs="bool flag")
    proto.graph.node.append(helper.make_node("If", ["flag"], ["z"], then_branch=branch, else_branch=branch))
    proto.graph.output.append(_value("z"))
    assert len(fused(proto)) == 1
    analysis = analyse(load(proto))
    written, _ = apply(analysis, make_plan(analysis))
    assert _encoded(written.skeleton.graph.node) == _encoded(proto.graph.node)


def _value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["p", "q", "r"])
