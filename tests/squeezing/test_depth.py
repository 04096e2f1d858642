"""Residual blocks that give the same for all inputs leave as wholes, with what leads to them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import NodeProto, helper

import onnxsqueeze
from onnxsqueeze.model.loading import load
from onnxsqueeze.squeezing.allocation import Search
from onnxsqueeze.squeezing.families import Family
from onnxsqueeze.squeezing.ladders import Ladder
from onnxsqueeze.squeezing.running import outputs_of
from onnxsqueeze.squeezing.samples import Part
from tests.squeezing.networks import model
from tests.support.extent import LONG

WIDTH, HEADS, LENGTH = 8, 2, 5
FAINT = 1e-4  # of an ordinary block's weights: what it adds beside its bias is lost without anyone's noticing


def node(op: str, inputs: str, output: str, **attributes: object) -> NodeProto:
    return helper.make_node(op, inputs.split(), [output], **attributes)


def bottlenecks(faint: int) -> onnx.ModelProto:
    """Return three blocks of three convolutions each, of which one adds a constant."""
    random = np.random.default_rng(0)
    nodes = [node("Conv", "x stem", "r", pads=[1] * 4)]
    weights = {"stem": random.normal(size=(WIDTH, 2, 3, 3)) * 0.3, "k": random.normal(size=(3, WIDTH, 3, 3)) * 0.2}
    stream = "r"
    for b in range(3):
        weights[f"a{b}"] = random.normal(size=(12, WIDTH, 1, 1)) * 0.5
        weights[f"b{b}"] = random.normal(size=(12, 12, 3, 3)) * 0.15
        weights[f"c{b}"] = random.normal(size=(WIDTH, 12, 1, 1)) * (FAINT if b == faint else 0.3)
        weights[f"d{b}"] = random.normal(size=WIDTH)
        nodes += [
            node("Conv", f"{stream} a{b}", f"A{b}"),
            node("Relu", f"A{b}", f"RA{b}"),
            node("Conv", f"RA{b} b{b}", f"B{b}", pads=[1] * 4),
            node("Relu", f"B{b}", f"RB{b}"),
            node("Conv", f"RB{b} c{b} d{b}", f"C{b}"),
            node("Add", f"C{b} {stream}", f"S{b}"),
            node("Relu", f"S{b}", f"R{b}"),
        ]
        stream = f"R{b}"
    nodes.append(node("Conv", f"{stream} k", "y", strides=[2, 2], pads=[1] * 4))
    return model(nodes, weights, ["batch", 2, 8, 8], ["batch", 3, 4, 4])


def attentions(faint: int) -> onnx.ModelProto:
    """Return three blocks of attention in front of which a LayerNorm stands, of which one adds a constant."""
    random = np.random.default_rng(0)
    nodes, weights = [], {"k": random.normal(size=(WIDTH, 4)), "shape": np.zeros(0), "flat": np.zeros(0)}
    stream = "x"
    for b in range(3):
        for name in "qkvo":
            weights[f"{name}{b}"] = random.normal(size=(WIDTH, WIDTH)) * (FAINT if (name, b) == ("o", faint) else 0.5)
        weights[f"g{b}"] = random.uniform(0.5, 1.5, WIDTH)
        weights[f"d{b}"] = random.normal(size=WIDTH)
        nodes.append(node("LayerNormalization", f"{stream} g{b}", f"N{b}"))
        for name in "qkv":
            nodes += [
                node("MatMul", f"N{b} {name}{b}", f"{name}m{b}"),
                node("Reshape", f"{name}m{b} shape", f"{name}r{b}"),
                node("Transpose", f"{name}r{b}", f"{name}h{b}", perm=[0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]),
            ]
        nodes += [
            node("MatMul", f"qh{b} kh{b}", f"s{b}"),
            node("Softmax", f"s{b}", f"p{b}", axis=-1),
            node("MatMul", f"p{b} vh{b}", f"t{b}"),
            node("Transpose", f"t{b}", f"u{b}", perm=[0, 2, 1, 3]),
            node("Reshape", f"u{b} flat", f"w{b}"),
            node("MatMul", f"w{b} o{b}", f"z{b}"),
            node("Add", f"z{b} d{b}", f"e{b}"),
            node("Add", f"e{b} {stream}", f"R{b}"),
        ]
        stream = f"R{b}"
    nodes.append(node("MatMul", f"{stream} k", "y"))
    found = model(nodes, weights, ["batch", LENGTH, WIDTH], ["batch", LENGTH, 4])
    for tensor, values in (("shape", [0, 0, HEADS, WIDTH // HEADS]), ("flat", [0, 0, WIDTH])):
        own = next(each for each in found.graph.initializer if each.name == tensor)
        own.CopyFrom(onnx.numpy_helper.from_array(np.array(values, dtype=np.int64), tensor))
    return found


def outputs(source: object, x: np.ndarray) -> np.ndarray:
    return outputs_of(load(source), Part({"x": x}, np.arange(len(x)), {}, 64))[0]


@pytest.mark.parametrize("faint", range(3) if LONG else [0, 2])
@pytest.mark.parametrize(
    ("make", "shape", "ratio", "layer", "count"),
    [(bottlenecks, (2, 8, 8), 1.46, "Conv", 8), (attentions, (LENGTH, WIDTH), 1.45, "Softmax", 2)],
)
def test_a_block_that_adds_a_constant_leaves_as_a_whole(
    make: Callable[[int], onnx.ModelProto], shape: tuple[int, ...], ratio: float, layer: str, count: int, faint: int
) -> None:
    network = make(faint)
    x = np.random.default_rng(7).normal(size=(240, *shape)).astype(np.float32)
    found = onnxsqueeze.squeeze(network, {"x": x}, ratio=ratio, metric="deviation", round_to=1)
    assert sum(each.op_type == layer for each in found.model.graph.node) == count
    before, after = outputs(network, x[:40]), outputs(found.model, x[:40])
    assert np.abs(before - after).max() < 0.02 * np.abs(before).max()  # a block that is not faint costs ten times that
    gone = {each.name for each in found.report.chosen.taken if not each.after}
    assert gone and all(name.endswith(str(faint)) for name in gone)


def test_what_nothing_reads_any_more_costs_nothing_and_counts_once() -> None:
    """Of a block's two families the second leaves: the first goes with it, and its own error is not added."""
    ladders = [_ladder(0, (0.0, 0.1, 0.5)), _ladder(1, (0.0, 0.2, 0.6)), _ladder(2, (0.0, 2.0, 9.0))]

    def read(removed: np.ndarray) -> np.ndarray:
        """Units 0 and 1 are read through 2 and 3 alone."""
        found = ~removed
        found[:2] &= not removed[2:4].all()
        return found

    found = Search(ladders, lambda removed: 10.0 * float((~removed).sum()), 6, read)
    (together,) = [step for step in found.steps if step.sizes == (0, 0, 2)]
    assert (together.cost, together.error, together.moved) == (20.0, 0.6, 1)
    assert found.at(20.0) == together
    assert all(step.sizes[0] == 0 or step.sizes[1] > 0 for step in found.steps)


def _ladder(number: int, errors: tuple[float, ...]) -> Ladder:
    family = Family(str(number), "hidden", np.array([2 * number, 2 * number + 1]), None, (), True)
    return Ladder(family, (2, 1, 0), errors, np.array([1, 0]))
