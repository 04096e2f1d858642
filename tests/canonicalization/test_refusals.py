"""What only looks like a pattern, or whose inner tensors somebody else reads, is not taken for one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.model.loading import load
from onnxsqueeze.pipeline.frontend import canonical_graph
from tests.support.patterns.graphs import fused, model, names
from tests.support.patterns.spellings import (
    CENTRED,
    GELU,
    GUARDED_SOFTMAX,
    LAYER_NORMALIZATION,
    RMS_NORMALIZATION,
    SWISH,
    VARIANCE,
)

TEXT = LAYER_NORMALIZATION[0][2]
WHOLE = {
    "layer": TEXT,
    "rms": RMS_NORMALIZATION[1][2],
    "erf": GELU[0][1],
    "tanh": GELU[4][1],
    "swish": SWISH[0][1],
    "quick": SWISH[2][1],
    "softmax": GUARDED_SOFTMAX[0][1],
}
FLOAT = TensorProto.FLOAT
INNER = [(name, line.split(" = ")[0]) for name, text in WHOLE.items() for line in text.split(") ")[:-1]]


def _spans(proto: Any, inner: str) -> bool:
    """Whether a fused node hides a tensor."""
    return any(inner in node.group.inner for node in fused(proto))


@pytest.mark.parametrize(("name", "inner"), INNER, ids=["-".join(pair) for pair in INNER])
def test_read_from_elsewhere(name: str, inner: str) -> None:
    """A tensor inside is read by another node, is a graph output, or is read from inside a subgraph."""
    assert _spans(model(WHOLE[name]), inner)
    read = model(f"{WHOLE[name]} w = Cast<to=1>({inner}) z = Expand(w, wide)", outputs=("y", "z"), more=_WIDE)
    assert not _spans(read, inner)
    shown = model(WHOLE[name])
    shown.graph.output.append(_value(inner, TensorProto.BOOL if name == "softmax" and inner == "n" else FLOAT))
    assert not _spans(shown, inner)
    captured = model(WHOLE[name])
    branch = helper.make_graph([helper.make_node("Identity", [inner], ["w"])], "g", [], [_value("w")])
    captured.graph.node.append(helper.make_node("If", ["flag"], ["z"], then_branch=branch, else_branch=branch))
    captured.graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    captured.graph.output.append(_value("z"))
    assert not _spans(captured, inner)


_WIDE = {"wide": np.array([2, 3, 6])}


def _value(name: str, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, ["p", "q", "r"])


def test_what_is_left_of_a_layer_normalization_may_still_be_fused() -> None:
    """Somebody reads the normalized tensor: it is the output of a smaller group."""
    (node,) = fused(model(TEXT + " z = Neg(n)", outputs=("y", "z")))
    assert (node.op, node.inputs, node.outputs) == ("LayerNormalization", ("x", "", ""), ("n",))
    (node,) = fused(model(TEXT + " z = Neg(a)", outputs=("y", "z")))
    assert (node.op, node.inputs, node.outputs) == ("LayerNormalization", ("x", "g", ""), ("a",))


def test_scale_computed_at_run_time_stays_outside() -> None:
    text = f"h = Sigmoid(k) {TEXT.replace('Mul(n, g)', 'Mul(n, h)')}"
    (node,) = fused(model(text, extra_inputs="float[6] k"))
    assert (node.inputs, node.outputs) == (("x", "", ""), ("n",))


def test_scale_that_a_caller_may_replace_stays_outside() -> None:
    proto = model(TEXT)
    proto.graph.input.append(helper.make_tensor_value_info("g", TensorProto.FLOAT, [6]))
    (node,) = fused(proto)
    assert (node.inputs, node.outputs) == (("x", "", ""), ("n",))


@pytest.mark.parametrize(
    ("text", "more"),
    [
        (TEXT, {"eps": np.full(6, 1e-5)}),
        (TEXT, {"eps": np.full((1, 1), 1e-5)}),
        (TEXT, {"two": 2.5}),
        (TEXT, {"two": 2.000001}),
        (TEXT, {"two": np.full(6, 2.0)}),
        (TEXT.replace("Add(v, eps)", "Sub(v, eps)"), {}),
        (TEXT.replace("ReduceMean<axes=[-1]>(s)", "ReduceSum(s, last)"), {}),
        (TEXT.replace("Sub(x, m)", "Sub(x, b)").replace("m = ReduceMean<axes=[-1]>(x) ", ""), {"two": 3.0}),
        (GELU[0][1], {"root_two": 1.4142}),
        (GELU[0][1], {"half": 0.25}),
        (GELU[0][1].replace("Mul(x, p)", "Mul(b, p)"), {}),
        (GELU[4][1], {"cubic": 0.0447}),
        (GELU[4][1], {"three": 2.0}),
        (SWISH[0][1].replace("Mul(x, s)", "Mul(b, s)"), {}),
        (SWISH[2][1], {"factor": np.full(6, 1.7)}),
        (GUARDED_SOFTMAX[0][1], {"zero": 1.0}),
        (GUARDED_SOFTMAX[0][1].replace("Where(n, zero, s)", "Where(n, s, zero)"), {}),
        (GUARDED_SOFTMAX[0][1].replace("IsNaN(s)", "IsNaN(x)"), {}),
    ],
)
def test_something_else(text: str, more: dict[str, Any]) -> None:
    assert names(model(text, more=more)) == []


def test_means_over_two_axes_are_no_layer_normalization() -> None:
    """What is left is the root mean square of a difference."""
    text = TEXT.replace("ReduceMean<axes=[-1]>(s)", "ReduceMean<axes=[-2]>(s)")
    assert names(model(text)) == ["ChannelRMSNormalization"]


def test_older_softmax_over_all_axes_from_one_on() -> None:
    text = GUARDED_SOFTMAX[1][1]
    assert names(model(text, opset=13)) == ["GuardedSoftmax"]
    assert names(model(text, opset=12)) == []


@pytest.mark.parametrize("change", [("Sub(x, m)", "Sub(m, x)"), ("[-1]>(x)", "[-2]>(x)")])
def test_not_centred_by_its_mean(change: tuple[str, str]) -> None:
    """What is divided is normalized all the same, but it is no LayerNormalization of x."""
    (node,) = fused(model(TEXT.replace(*change)))
    assert (node.op, node.inputs) == ("RMSNormalization", ("d", "g"))


def test_channels_first_needs_a_rule_of_its_own() -> None:
    text = (CENTRED + VARIANCE).replace("[-1]", "[1]") + "n = Div(d, r) a = Mul(n, g_channel) y = Add(a, b_channel)"
    assert "LayerNormalization" not in names(model(text, shape="2,4,5,6"))
    assert "RMSNormalization" not in names(model(text, shape="2,4,5,6"))


def test_scale_along_another_axis_stays_outside() -> None:
    proto = model(TEXT.replace("Mul(n, g)", "Mul(n, g_channel)"), shape="2,4,5,6")
    (node,) = fused(proto)
    assert (node.inputs, node.outputs) == (("x", "", ""), ("n",))


def test_scale_that_makes_the_tensor_larger() -> None:
    """The output's shape is not taken from the input then."""
    proto = model(LAYER_NORMALIZATION[9][2] + " z = Neg(y)", outputs=("z",))
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 1
    graph = canonical_graph(load(proto))
    assert [node.op for node in graph.nodes] == ["LayerNormalization", "Neg"]
    assert Analysis(graph).context.shapes.get("y", (2, 3, 6)) == (2, 3, 6)


def test_of_a_constant() -> None:
    assert names(model("s = Sigmoid(b) c = Mul(b, s) y = Add(x, c)")) == []


def test_casts_that_change_the_type() -> None:
    """The output would not be of the input's type; what stands between the Casts is fused."""
    text = "c = Cast<to=11>(x) s = Mul(c, c) v = ReduceMean<axes=[-1]>(s) e = Add(eps, v) r = Sqrt(e) k = Div(c, r)"
    proto = model(f"{text} y = Cast<to=1>(k)", more={"eps": np.array(1e-5)}, kind=np.float64)
    (node,) = fused(proto)
    assert (node.inputs, node.outputs) == (("x", ""), ("y",))
    proto.graph.node[-1].attribute[0].i = TensorProto.FLOAT16
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    (node,) = fused(proto)
    assert (node.inputs, node.outputs) == (("c", ""), ("k",))


@pytest.mark.parametrize("name", WHOLE)
def test_domain_of_patterns_used_by_a_model(name: str) -> None:
    """A model that uses the domain for operators of its own is left alone."""
    proto = model(WHOLE[name])
    proto.opset_import.append(helper.make_opsetid("onnxsqueeze.pattern", 1))
    assert names(proto) == []
