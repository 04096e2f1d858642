"""What the report says masks that agree would leave is what they do leave."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxsqueeze as sq

CHANNELS, BLOCKS = 16, 3


def residual(masks: list[list[int]]) -> onnx.ModelProto:
    """Return a stem and residual blocks; ``masks`` lists the channels that the stem and each block go without."""
    random = np.random.default_rng(0)
    arrays, nodes, stream = {}, [], "x"
    for index, mask in enumerate(masks):
        inputs, wide = (3, CHANNELS) if index == 0 else (CHANNELS, CHANNELS)
        weight, bias = random.normal(size=(wide, inputs, 3, 3)), random.normal(size=wide)
        weight[mask], bias[mask] = 0, 0
        arrays |= {f"w{index}": weight, f"b{index}": bias}
        nodes.append(helper.make_node("Conv", [stream, f"w{index}", f"b{index}"], [f"c{index}"], pads=[1] * 4))
        if index:
            nodes.append(helper.make_node("Add", [stream, f"c{index}"], [f"s{index}"]))
        nodes.append(helper.make_node("Relu", [f"s{index}" if index else "c0"], [f"r{index}"]))
        stream = f"r{index}"
    arrays["head"] = random.normal(size=(5, CHANNELS, 1, 1))
    nodes.append(helper.make_node("Conv", [stream, "head"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5, 8, 8])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def share(report: sq.Report) -> float:
    return sum(layer.weights_after for layer in report.layers) / sum(layer.weights_before for layer in report.layers)


@pytest.mark.parametrize("counts", [(8, 8, 8, 8), (8, 7, 9, 12)])
def test_it_is_what_masks_that_agree_leave(counts: tuple[int, ...]) -> None:
    """Where the partners lack different numbers of channels, as many go as the one lacks that lacks fewest."""
    random = np.random.default_rng(1)
    apart = [sorted(random.permutation(CHANNELS)[:count]) for count in counts]
    found = sq.inspect(residual(apart), round_to=1)
    together = sq.inspect(residual([list(range(min(counts)))] * len(counts)), round_to=1)
    assert found.disagreements == BLOCKS
    assert found.agreed_share == pytest.approx(share(together))
    assert share(found) > share(together)
    assert (together.disagreements, together.agreed_share) == (0, None)


def test_a_partner_without_a_mask_leaves_nothing_to_agree_on() -> None:
    report = sq.inspect(residual([[], [0, 1, 2, 3], [4, 5, 6, 7], [1, 2]]), round_to=1)
    assert report.agreed_share is None
