"""Scores by relative positions, as Transformer-XL and Conformer shift them: a column of zeros, and two reshapes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import onnxsqueeze as sq

HEADS, DIM = 4, 3
WIDTH = HEADS * DIM
ZEROS = {
    "filled": "z = ConstantOfShape (zshape)",
    "expanded": "nought = Constant <value = float {0.0}> () z = Expand (nought, zshape)",
}
SCALARS = {"filled": 0, "expanded": 1}


def network(zeros: str, dead: list[int]) -> onnx.ModelProto:
    """Attention over x [b, t, WIDTH] with positions [1, 2t-1, WIDTH]; the values of dead heads are zeros."""
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]> relative
        (float[b,t,{WIDTH}] x, float[1,l,{WIDTH}] pos) => (float[b,t,{WIDTH}] y) {{
        split = Constant <value_ints = [0, 0, {HEADS}, {DIM}]> () merge = Constant <value_ints = [0, 0, -1]> ()
        n0 = Constant <value_ints = [0]> () n1 = Constant <value_ints = [1]> () n2 = Constant <value_ints = [2]> ()
        n3 = Constant <value_ints = [3]> () n4 = Constant <value_ints = [4]> () big = Constant <value_ints = [99999]> ()
        q0 = MatMul (x, wq) q1 = Reshape (q0, split) q = Transpose <perm = [0, 2, 1, 3]> (q1)
        k0 = MatMul (x, wk) k1 = Reshape (k0, split) k = Transpose <perm = [0, 2, 3, 1]> (k1)
        v0 = MatMul (x, wv) v1 = Reshape (v0, split) v = Transpose <perm = [0, 2, 1, 3]> (v1)
        p0 = MatMul (pos, wp) p1 = Reshape (p0, split) p = Transpose <perm = [0, 2, 3, 1]> (p1)
        bd = MatMul (q, p) size = Shape (bd)
        front = Slice (size, n0, n3) zshape = Concat <axis = 0> (front, n1)
        {ZEROS[zeros]}
        wide = Concat <axis = 3> (z, bd)
        first = Slice (size, n0, n2) time = Slice (size, n2, n3) length = Slice (size, n3, n4)
        longer = Add (length, n1) turned = Concat <axis = 0> (first, longer, time)
        r = Reshape (wide, turned) s = Slice (r, n1, big, n2) shifted = Reshape (s, size)
        near = Slice (shifted, n0, time, n3)
        ac = MatMul (q, k) scores = Add (ac, near) a = Softmax <axis = -1> (scores)
        o0 = MatMul (a, v) o1 = Transpose <perm = [0, 2, 1, 3]> (o0) o = Reshape (o1, merge) y = MatMul (o, wo) }}""")
    random = np.random.default_rng(0)
    for name in ("wq", "wk", "wv", "wp", "wo"):
        array = random.normal(size=(WIDTH, WIDTH)).astype(np.float32)
        if name == "wv":
            array.reshape(WIDTH, HEADS, DIM)[:, dead] = 0
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


@pytest.mark.parametrize("zeros", ZEROS)
@pytest.mark.parametrize("dead", [[1], [0, 3]], ids=str)
def test_dead_heads_leave_whole(zeros: str, dead: list[int]) -> None:
    given = {"x": np.ones((2, 5, WIDTH), np.float32), "pos": np.ones((1, 9, WIDTH), np.float32)}
    result = sq.minimize(network(zeros, dead), round_to=1, dims={"t": 5, "l": 9}, inputs=given)
    assert result.report.weights_after == 5 * WIDTH * (HEADS - len(dead)) * DIM + SCALARS[zeros]
    assert result.report.verification is not None and result.report.verification.passed


@pytest.mark.parametrize("zeros", ZEROS)
def test_channels_of_zeros_that_fill_others_up_leave_one_by_one(zeros: str) -> None:
    """As the shortcut of a ResNet does that grows: of these zeros those go that nothing reads."""
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]> grown
        (float[b,2] x) => (float[b,3] y) {{
        n0 = Constant <value_ints = [0]> () n1 = Constant <value_ints = [1]> () four = Constant <value_ints = [4]> ()
        size = Shape (x) front = Slice (size, n0, n1) zshape = Concat <axis = 0> (front, four)
        {ZEROS[zeros]}
        h = Gemm (x, w, b) r = Relu (h) wide = Concat <axis = 1> (x, z) s = Add (r, wide) y = MatMul (s, u) }}""")
    random = np.random.default_rng(0)
    weights = {"w": random.normal(size=(2, 6)), "b": random.normal(size=6), "u": random.normal(size=(6, 3))}
    weights["u"][[2, 5]] = 0
    model.graph.initializer.extend(
        numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()
    )
    result = sq.minimize(model, round_to=1)
    assert result.report.weights_after == 2 * 4 + 4 + 4 * 3 + SCALARS[zeros]


@pytest.mark.parametrize("dead", [[1], [0, 3]], ids=str)
def test_dead_heads_leave_where_positions_are_stored_and_padded(dead: list[int]) -> None:
    """As exports of one length have it: the positions are a table of heads, and each of its columns is told apart."""
    time = 5
    length = 2 * time - 1
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]> relative
        (float[b,{time},{WIDTH}] x) => (float[b,{time},{WIDTH}] y) {{
        split = Constant <value_ints = [0, 0, {HEADS}, {DIM}]> () merge = Constant <value_ints = [0, 0, -1]> ()
        turned = Constant <value_ints = [0, 0, {length + 1}, {time}]> () n1 = Constant <value_ints = [1]> ()
        back = Constant <value_ints = [0, 0, {time}, {length}]> () n0 = Constant <value_ints = [0]> ()
        end = Constant <value_ints = [{length + 1}]> () time = Constant <value_ints = [{time}]> ()
        pads = Constant <value_ints = [0, 0, 0, 1, 0, 0, 0, 0]> () n2 = Constant <value_ints = [2]> ()
        n3 = Constant <value_ints = [3]> ()
        q0 = MatMul (x, wq) q1 = Reshape (q0, split) q = Transpose <perm = [0, 2, 1, 3]> (q1)
        k0 = MatMul (x, wk) k1 = Reshape (k0, split) k = Transpose <perm = [0, 2, 3, 1]> (k1)
        v0 = MatMul (x, wv) v1 = Reshape (v0, split) v = Transpose <perm = [0, 2, 1, 3]> (v1)
        bd = MatMul (q, p) wide = Pad (bd, pads) r = Reshape (wide, turned) s = Slice (r, n1, end, n2)
        shifted = Reshape (s, back) near = Slice (shifted, n0, time, n3)
        ac = MatMul (q, k) scores = Add (ac, near) a = Softmax <axis = -1> (scores)
        o0 = MatMul (a, v) o1 = Transpose <perm = [0, 2, 1, 3]> (o0) o = Reshape (o1, merge) y = MatMul (o, wo) }}""")
    random = np.random.default_rng(0)
    weights = {name: random.normal(size=(WIDTH, WIDTH)) for name in ("wq", "wk", "wv", "wo")}
    weights["wv"].reshape(WIDTH, HEADS, DIM)[:, dead] = 0
    weights["p"] = random.normal(size=(1, HEADS, DIM, length))
    model.graph.initializer.extend(
        numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()
    )
    result = sq.minimize(model, round_to=1)
    assert result.report.weights_after == (4 * WIDTH + length) * (HEADS - len(dead)) * DIM
