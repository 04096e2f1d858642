"""A report names the layers whose sums processors without VNNI may cut off, and says what to do."""

from __future__ import annotations

import pytest

import onnxsqueeze as sq
from tests.support.quantized import Form
from tests.verification.test_saturation import named, network


@pytest.mark.parametrize("large", [False, True])
def test_layers_that_may_saturate_are_named(large: bool) -> None:
    report = sq.minimize(named(network(Form(), large)), verify=False).report
    assert len(report.saturating) == (2 if large else 0)
    assert report.to_dict()["saturating"] == report.saturating
    said = [line for line in report.warnings if "VNNI" in line]
    assert len(said) == large
    assert all(name in said[0] for name in report.saturating)
    assert all("2 layers multiply" in line and "reduce_range" in line for line in said)


def test_one_layer_is_one() -> None:
    model = network(Form(), large=True)
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type = "Softsign"  # no part of an encoding: the convolution is computed in real numbers
    (line,) = sq.minimize(named(model), verify=False).report.warnings
    assert line.startswith("a layer multiplies codes")
