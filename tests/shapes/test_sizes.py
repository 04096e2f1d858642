"""Sizes that a graph computes from shapes which change: followed where that is right, else held at the original's."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper

from onnxsqueeze.abstract.symbolic import retyped, rounded, symbol
from tests.support.planted.checks import assert_equal_outputs, minimize, operators, size

CHANNELS = 8
LIVE = [0, 2, 3, 5, 6, 7]  # three of each half
SMALLEST = len(LIVE) * 3 + 2 * len(LIVE)  # weights of the two convolutions around what is tested
FACTORS = {"dynamic": 0.7, "static": 1.0}  # for sizes; static ones are declared
SHAPES = {"dynamic": ("N,3,H,W", "float[N,2,h,w] y"), "static": ("2,3,8,8", "float[2,2,8,8] y")}
BATCH = {"batch": ("N,3,8,8", "float[N,2,8,8] y")}


def network(nodes: str, shapes: str = "dynamic", more: str = "", **constants: Any) -> onnx.ModelProto:
    """Return ``x = Conv(image)``, then nodes that make ``z``, then ``y = Conv(z)``, which reads the LIVE channels.

    Args:
        nodes: in onnx's text form. shapes: of input and output. more: outputs. constants: initializers by name.
    """
    random = np.random.default_rng(len(nodes))
    second = np.zeros((2, CHANNELS, 1, 1), np.float32)
    second[:, LIVE] = random.standard_normal((2, len(LIVE), 1, 1))
    weights = {"first": random.standard_normal((CHANNELS, 3, 1, 1)).astype(np.float32), "second": second}
    image, output = (SHAPES | BATCH)[shapes]
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 18]> sizes (float[{image}] image) => ({output}{more})
        {{ x = Conv(image, first) {nodes} y = Conv(z, second) }}"""
    )
    for name, value in (weights | constants).items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    onnx.checker.check_model(model, full_check=True)
    return model


def minimized(model: onnx.ModelProto, more: int = 0) -> onnx.ModelProto:
    """Minimize, assert equal outputs and the smallest number of weights (and ``more`` of other layers)."""
    smaller = minimize(model).model
    assert_equal_outputs(model, smaller)
    assert size(smaller) == SMALLEST + more
    return smaller


def stored(model: onnx.ModelProto, name: str) -> list[int]:
    """Return a stored tensor's entries."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    values: list[int] = numpy_helper.to_array(tensors[name]).tolist()
    return values


# -- sizes that data is computed with stay those of the original ---------------------------------------------------


@pytest.mark.parametrize("shapes", SHAPES)
def test_division_by_the_channel_count_sees_the_original_count(shapes: str) -> None:
    model = minimized(network("s = Shape(x) c = Gather(s, one) f = Cast<to=1>(c) z = Div(x, f)", shapes, one=1))
    assert not operators(model).keys() & {"Shape", "Where"}  # the count is known, so that it becomes a constant


def test_division_by_a_dynamic_multiple_of_the_channel_count_sees_the_original_count() -> None:
    nodes = "s = Shape(x) c = Gather(s, one) h = Gather(s, two) m = Mul(c, h) f = Cast<to=1>(m) z = Div(x, f)"
    assert operators(minimized(network(nodes, one=1, two=2)))["Where"] == 1  # sets the one entry back


def test_division_by_the_number_of_elements_sees_the_original_number() -> None:
    model = minimized(network("n = Size(x) f = Cast<to=1>(n) z = Div(x, f)", "static"))
    assert "Size" not in operators(model)


@pytest.mark.parametrize("shapes", SHAPES)
def test_shape_that_is_an_output_stays(shapes: str) -> None:
    minimized(network("s = Shape(x) z = Identity(x)", shapes, ", int64[4] s"))


@pytest.mark.parametrize("shapes", SHAPES)
def test_size_that_a_subgraph_reads_stays(shapes: str) -> None:
    nodes = """s = Shape(x) c = Gather(s, one) z = Relu(x) f = If(yes)
        <then_branch = a () => (int64 p) { p = Identity(c) }, else_branch = b () => (int64 q) { q = Neg(c) }>"""
    minimized(network(nodes, shapes, ", int64 f", one=1, yes=np.array(True)))


@pytest.mark.parametrize("shapes", SHAPES)
def test_several_sizes_taken_from_a_shape_at_once_stay(shapes: str) -> None:
    nodes = "s = Shape(x) n, c, h, w = Split<axis=0, num_outputs=4>(s) f = Cast<to=1>(c) z = Div(x, f)"
    minimized(network(nodes, shapes, ", int64[1] c"))


def test_only_the_shape_that_misleads_is_set_back() -> None:
    nodes = """r = Relu(x) s = Shape(x) c = Gather(s, one) h = Gather(s, two) m = Mul(c, h) f = Cast<to=1>(m)
        t = Shape(r) g = GlobalAveragePool(r) e = Expand(g, t) z = Div(e, f)"""
    model = minimized(network(nodes, one=1, two=2))
    assert operators(model)["Where"] == 1
    assert next(node for node in model.graph.node if node.op_type == "Expand").input[1] == "t"
    assert next(node for node in model.graph.node if node.output[0] == "t").op_type == "Shape"


def dense_layers() -> dict[str, npt.NDArray[np.float32]]:
    """Return weights of two convolutions of which nothing can go."""
    random = np.random.default_rng(0)
    shapes = {"w2": (CHANNELS, 3, 1, 1), "w3": (2, CHANNELS, 1, 1)}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def test_request_for_another_tensor_that_stays_as_it_is_stays_too() -> None:
    """The reshaped tensor loses nothing, but takes its sizes from one that does."""
    nodes = "s = Shape(x) o = Conv(image, w2) a = Relu(o) b = Reshape(a, s) v = Conv(b, w3) z = Relu(x)"
    minimized(network(nodes, more=", float[N,2,k,l] v", **dense_layers()), more=5 * CHANNELS)


def test_layer_of_which_only_the_channel_count_is_used_disappears() -> None:
    nodes = "d = Conv(x, w) s = Shape(d) c = Gather(s, one) f = Cast<to=1>(c) z = Div(x, f)"
    model = minimized(network(nodes, one=1, w=np.ones((5, CHANNELS, 1, 1), np.float32)))
    assert operators(model) == {"Conv": 2, "Cast": 1, "Div": 1}


# -- requested shapes follow, and are put right where they do not ----------------------------------------------------


@pytest.mark.parametrize("shapes", SHAPES)
def test_expand_to_the_shape_of_the_data_needs_no_other_node(shapes: str) -> None:
    nodes = "g = GlobalAveragePool(x) s = Shape(x) e = Expand(g, s) r = Sigmoid(e) z = Mul(x, r)"
    model = network(nodes, shapes)
    assert operators(minimized(model)) == operators(model)


@pytest.mark.parametrize("shapes", SHAPES)
def test_reshape_to_groups_of_a_computed_size_needs_no_other_node(shapes: str) -> None:
    nodes = """s = Shape(x) n, c, h, w = Split<axis=0, num_outputs=4>(s) g = Div(c, two)
        t = Concat<axis=0>(n, two, g, h, w) a = Reshape(x, t) r = Relu(a) z = Reshape(r, s)"""
    model = network(nodes, shapes, two=np.array([2]))
    assert operators(minimized(model)) == operators(model)


def test_reshape_to_a_computed_number_of_groups_keeps_that_number() -> None:
    """Four channels a group become three, and not 6 / 4 groups."""
    nodes = """s = Shape(x) n, c, h, w = Split<axis=0, num_outputs=4>(s) g = Div(c, four)
        t = Concat<axis=0>(n, g, four, h, w) a = Reshape(x, t) r = Relu(a) z = Reshape(r, s)"""
    assert "Where" not in operators(minimized(network(nodes, four=np.array([4]))))


def test_part_of_a_shape_and_what_the_rest_leaves() -> None:
    nodes = "s = Shape<end=2>(x) t = Concat<axis=0>(s, m) a = Reshape(x, t) r = Relu(a) u = Shape(x) z = Reshape(r, u)"
    model = network(nodes, m=np.array([-1]))
    smaller = minimized(model)
    assert operators(smaller) == operators(model)
    assert stored(smaller, "m") == [-1]


def test_channel_count_stored_in_a_computed_request_changes_in_place() -> None:
    nodes = "s = Shape<start=-2>(x) t = Concat<axis=0>(zero, count, s) r = Relu(x) z = Reshape(r, t)"
    model = network(nodes, zero=np.array([0]), count=np.array([CHANNELS]))
    smaller = minimized(model)
    assert operators(smaller) == operators(model)
    assert (stored(smaller, "zero"), stored(smaller, "count")) == ([0], [len(LIVE)])


def test_request_of_two_readers_that_agree_changes_in_place() -> None:
    nodes = """s = Shape<end=1>(x) t = Concat<axis=0>(s, count, m) a = Reshape(x, t) r = Relu(x) b = Reshape(r, t)
        c = Add(a, b) u = Shape(x) z = Reshape(c, u)"""
    model = network(nodes, count=np.array([CHANNELS]), m=np.array([-1]))
    smaller = minimized(model)
    assert operators(smaller) == operators(model)
    assert stored(smaller, "count") == [len(LIVE)]


def test_request_of_two_readers_that_disagree_changes_for_one_of_them() -> None:
    nodes = """s = Shape(image) n, c, h, w = Split<axis=0, num_outputs=4>(s) t = Concat<axis=0>(n, count, w, h)
        r = Relu(x) z = Reshape(r, t) o = Conv(image, w2) b = Reshape(o, t) v = Conv(b, w3)"""
    model = network(nodes, more=", float[N,2,k,l] v", count=np.array([CHANNELS]), **dense_layers())
    smaller = minimized(model, more=5 * CHANNELS)
    assert operators(smaller)["Where"] == 1
    assert stored(smaller, "count") == [CHANNELS]


@pytest.mark.parametrize(("first", "second", "expected"), [
    ([0, 8, -1], [2, 0, 8, 8], ([0, 6, -1], [2, 0, 8, 8])),
    ([4, 4, 64], [2, -1, 8, 8], ([4, 3, 64], [2, -1, 8, 8])),
    ([2, 8, 64], [2, 8, 8, -1], ([2, 6, 64], [2, 6, 8, -1])),
])  # fmt: skip
def test_stored_request_keeps_what_it_copies_and_leaves_open(first: Any, second: Any, expected: Any) -> None:
    """0 copies the input's length and -1 is what remains, both of which follow by themselves."""
    nodes = "a = Reshape(x, t) r = Relu(a) z = Reshape(r, u)"
    smaller = minimized(network(nodes, "static", t=np.array(first), u=np.array(second)))
    assert (stored(smaller, "t"), stored(smaller, "u")) == expected


def test_constant_of_the_shape_of_the_data_is_folded() -> None:
    nodes = "s = Shape(x) o = ConstantOfShape<value = float[1] {1.5}>(s) z = Mul(x, o)"
    assert operators(minimized(network(nodes), more=1)) == {"Conv": 2, "Mul": 1}


def test_constant_that_a_request_names_twice_changes_where_it_should() -> None:
    """Four channels of each of four heads, of which two go, are called by one stored number."""
    nodes = """wide = Conv(x, w2) s = Shape(wide) n, c, h, w = Split<axis=0, num_outputs=4>(s) l = Mul(h, w)
        t = Concat<axis=0>(n, four, four, l) a = Reshape(wide, t) r = Relu(a) b = Reshape(r, s) z = Conv(b, w3)"""
    first, third = np.ones((16, CHANNELS, 1, 1), np.float32), np.ones((CHANNELS, 16, 1, 1), np.float32)
    third[:, 1::2] = 0
    more = 2 * 3 + 8 * 8 + len(LIVE) * 8  # the first convolution's other two rows, and the two between
    smaller = minimized(network(nodes, four=np.array([4]), w2=first, w3=third), more=more)
    assert "Where" not in operators(smaller)
    request = next(node for node in smaller.graph.node if node.op_type == "Concat").input
    assert [stored(smaller, name) for name in request[1:3]] == [[4], [2]]


# -- elements of a computed shape that nothing asks for ------------------------------------------------------------

HEADS = """z = Relu(x) p = Transpose<perm=[1, 0, 2, 3]>(image) s = Shape(image) n = Gather(s, zero) m = Mul(n, four)
    t = Concat<axis=0>(three, m, sixteen) v = Concat<axis=0>(three, m, four, four)"""
"""``t`` is [3, 4 * N, 16], of which ``m`` stays for the sake of ``v``; nothing leaves ``p``, as long as that."""
OUT = ", float[3,K,4,4] o"
SIZES = {name: np.array([value]) for name, value in {"zero": 0, "three": 3, "four": 4, "sixteen": 16}.items()}


def test_known_entries_chosen_from_a_computed_shape_stay_known() -> None:
    """Entries that nothing asks for leave, since what Where makes of them is known: it cannot choose them any more."""
    nodes = f"{HEADS} u = Where(open, least, t) a = Reshape(p, u) o = Reshape(a, v)"
    chosen = {"open": np.array([False, True, False]), "least": np.array([0, -1, 0])}
    assert "Where" not in operators(minimized(network(nodes, "batch", OUT, **SIZES, **chosen)))


@pytest.mark.parametrize(
    "read", ["e = Gather(t, zero)", "e = Slice(t, zero, one)", "l = Gather(t, ends) e = ReduceProd<keepdims=0>(l)"]
)
def test_known_entry_read_from_a_computed_shape_stays_known(read: str) -> None:
    nodes = f"{HEADS} {read} f = Cast<to=1>(e) a = Reshape(p, v) o = Div(a, f)"
    minimized(network(nodes, "batch", OUT, **SIZES, one=np.array([1]), ends=np.array([0, 2])))


def test_known_piece_of_a_computed_shape_stays_whole() -> None:
    """Of its two entries another reader asks for the second, so that the first one alone would leave."""
    nodes = f"""{HEADS} k = Concat<axis=0>(four, most, m) known, last = Split<axis=0>(k, cuts) f = Cast<to=1>(known)
        q = Slice(k, one, three) i = Reshape(p, q) h = Mul(last, three)
        a = Reshape(i, pairs) o = Div(a, f)"""
    more = {"one": [1], "most": [48], "cuts": [2, 1], "pairs": [3, -1, 8, 2]}
    given = SIZES | {name: np.array(value) for name, value in more.items()}
    minimized(network(nodes, "batch", ", float[3,K,8,2] o, int64[1] h", **given))


@pytest.mark.parametrize("allowzero", [0, 1])
def test_request_for_one_open_size_is_stored(allowzero: int) -> None:
    """One of four heads goes: a request that is to be put right, with one dynamic size, needs no other node."""
    nodes = f"""s = Shape(x) n = Gather(s, zero) m = Mul(n, four) t = Concat<axis=0>(m, two, eight, eight)
        a = Reshape<allowzero={allowzero}>(x, t) r = Relu(a) z = Reshape(r, whole)"""
    given = {"zero": [0], "two": [2], "four": [4], "eight": [8], "whole": [-1, CHANNELS, 8, 8]}
    second = np.ones((2, CHANNELS, 1, 1), np.float32) * (np.arange(CHANNELS) < len(LIVE)).reshape(-1, 1, 1)
    model = network(nodes, "batch", second=second, **{name: np.array(value) for name, value in given.items()})
    assert "Where" not in operators(minimized(model))


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("rounding", ["Floor", "Ceil", "Round"])
def test_sizes_multiplied_in_floating_point(rounding: str, shapes: str) -> None:
    """What exporters write for a scale factor."""
    nodes = f"""s = Shape(x) f = Cast<to=1>(s) m = Mul(f, factors) l = {rounding}(m) t = Cast<to=7>(l)
        u = Resize<mode="nearest">(x, , , t) z = MaxPool<kernel_shape=[2, 2], strides=[1, 1], pads=[0, 0, 1, 1]>(u)"""
    model = network(nodes, shapes, factors=np.array([1, 1, FACTORS[shapes], FACTORS[shapes]], np.float32))
    smaller = minimized(model, more=4)
    assert operators(smaller) == operators(model)


def test_width_computed_from_the_channel_count_stays() -> None:
    nodes = """s = Shape(x) c = Gather(s, one) f = Cast<to=1>(c) m = Mul(f, factor) l = Cast<to=7>(m)
        t = Concat<axis=0>(head, l, l) z = Resize<mode="nearest">(x, , , t)"""
    model = network(nodes, "static", one=np.array([1]), factor=np.array(1, np.float32), head=np.array([2, CHANNELS]))
    minimized(model, more=0)


# -- symbolic sizes in floating point ----------------------------------------------------------------------------------


def test_fractions_of_sizes_are_told_from_whole_numbers() -> None:
    height, width = (retyped(symbol(name), True) for name in "HW")
    half = height * 0.5
    assert not half.whole
    assert half * 2.0 != height
    assert retyped(half, False) != half
    assert retyped(half * 2.0, False) != retyped(half, False) * 2
    assert rounded(half, np.floor, "Floor").whole
    assert rounded(half, np.floor, "Floor") != rounded(half, np.ceil, "Ceil")
    assert not (height / width).whole
    assert (symbol("H") // symbol("W")).whole  # type: ignore[union-attr]


def test_exact_floating_point_arithmetic_keeps_sizes_equal() -> None:
    height = retyped(symbol("H"), True)
    assert retyped(height * 2.0, False) == symbol("H") * 2
    assert retyped(height * 6.0 / 3.0, False) == symbol("H") * 2
    assert retyped(height * 2.0 + 1.0, False) == symbol("H") * 2 + 1
    assert height * 0.5 == height * 0.5
    assert rounded(height * 2.0, np.floor, "Floor") == height * 2.0
    assert (retyped(7, True), retyped(7.9, False), rounded(7.9, np.floor, "Floor")) == (7.0, 7, 7.0)
