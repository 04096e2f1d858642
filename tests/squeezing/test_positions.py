"""Positions of channels that a layer reads side by side behind Flatten: they leave with their channel, or alone."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

import onnxsqueeze
from onnxsqueeze.model.loading import load
from onnxsqueeze.squeezing.families import families_of
from onnxsqueeze.squeezing.ladders import Network, ladders_of
from onnxsqueeze.squeezing.metrics import judge
from onnxsqueeze.squeezing.readers import readers_of, with_biases
from onnxsqueeze.squeezing.running import outputs_of
from onnxsqueeze.squeezing.samples import Part
from onnxsqueeze.squeezing.sequence import FrontToBack
from onnxsqueeze.units.discovery import units_of
from tests.squeezing.networks import model

CHANNELS, PLACES = 6, 16
RANDOM = np.random.default_rng(3)
HALF = RANDOM.standard_normal((600, 2, 2, 4))
X = np.concatenate([HALF, HALF], axis=2)[:, :, RANDOM.permutation(4)].astype(np.float32)
"""Images of which each row is there twice."""


def network(twice: bool = False) -> ModelProto:
    """Return six channels whose sixteen positions a layer reads; another reads them again if it is to."""
    random = np.random.default_rng(0)
    weights = {
        "w1": random.standard_normal((CHANNELS, 2, 1, 1)),
        "b1": random.standard_normal(CHANNELS),
        "w2": random.standard_normal((CHANNELS * PLACES, 12)) / 5,
        "b2": random.standard_normal(12),
        "w3": random.standard_normal((12, 3)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["h"]),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("MatMul", ["t", "w3"], ["y" if not twice else "z"]),
    ]
    if twice:
        nodes[4:4] = [helper.make_node("Neg", ["f"], ["n"]), helper.make_node("Gemm", ["n", "w2", "b2"], ["g"])]
        nodes.append(helper.make_node("Add", ["z", "v"], ["y"]))
        nodes[-1:-1] = [helper.make_node("Tanh", ["g"], ["s"]), helper.make_node("MatMul", ["s", "w3"], ["v"])]
    return model(nodes, weights, ["batch", 2, 4, 4], ["batch", 3])


def columns(found: ModelProto) -> int:
    """Return how many columns are left of the layer behind Flatten."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in found.graph.initializer}
    (node,) = [node for node in found.graph.node if node.op_type == "Gemm"]
    return int(arrays[node.input[1]].shape[0])


def test_positions_that_are_there_twice_leave() -> None:
    """The channels all stay, and nothing is lost."""
    found = onnxsqueeze.squeeze(network(), {"x": X}, ratio=1.85)
    assert CHANNELS * PLACES // 2 <= columns(found.model) <= CHANNELS * PLACES // 2 + 4
    assert found.report.chosen.ratio >= 1.85
    assert found.report.chosen.deviation < 1e-4


@pytest.mark.parametrize("channels", [2, 3, 5])
def test_channels_and_positions_leave_together(channels: int) -> None:
    """As many positions stay as were counted on: those of channels that leave go first."""
    units, readers = known(network())
    families = [family for family in families_of(units, readers, (), ()) if family.name in ("c", "f")]
    samples = Part({"x": X}, np.arange(len(X)), {}, 100)
    model = with_biases(load(network()))
    judged = judge(outputs_of(model, samples), "auto", None)
    dense = Network(model, units, tuple(readers), tuple(families), judged, samples, 0)
    ladders = ladders_of(dense, lambda *_: None)
    sizes = [channels if ladder.family.kind == "hidden" else 40 for ladder in ladders]
    counted = np.any([ladder.removed(size, len(units)) for ladder, size in zip(ladders, sizes, strict=True)], axis=0)
    squeezed = FrontToBack(dense, ladders, sizes)
    squeezed.run(lambda *_: None)
    (positions,) = [family.units for family in families if family.kind == "column"]
    left = units.remaining(counted)[positions].sum()
    assert 0 < left <= 40 and (left < 40 or channels == 5)  # one of the channels is always 0
    assert units.remaining(squeezed.removed)[positions].sum() == left
    assert units.left(squeezed.removed) == units.left(counted)


@pytest.mark.parametrize("positions", [False, True])
def test_positions_are_a_family_of_their_own(positions: bool) -> None:
    units, readers = known(network(), positions)
    families = {family.kind: family for family in families_of(units, readers, (), ()) if family.name in ("c", "f")}
    assert set(families) == {"hidden", "column"} if positions else {"hidden"}
    (reader,) = [each for each in readers if each.name == "h"]
    (own,) = families["hidden"].columns(reader, units)
    assert sorted(np.concatenate(own)) == list(range(CHANNELS * PLACES)) and {len(part) for part in own} == {PLACES}
    if positions:
        (own,) = families["column"].columns(reader, units)
        assert families["column"].exact and families["hidden"].exact
        assert [list(part) for part in own] == [[place] for place in range(CHANNELS * PLACES)]


def known(source: ModelProto, positions: bool = True):  # type: ignore[no-untyped-def]
    """Return the units of a network, and its readers."""
    found = with_biases(load(source))
    units = units_of(found, positions=positions)
    return units, readers_of(found, units)


def test_positions_that_nothing_repairs_are_no_family() -> None:
    """Of a weight that serves two layers columns are not repaired one by one."""
    units, readers = known(network(twice=True))
    assert all(family.readers for family in families_of(units, readers, (), ()) if family.kind == "column")
    found = onnxsqueeze.squeeze(network(twice=True), {"x": X}, ratio=2)
    assert found.report.chosen.ratio >= 2
