"""Networks as both torch exporters write them: minimized exactly, and by as much as their masks allow."""

from __future__ import annotations

import onnx
import pytest
import torch
from planted.checks import assert_equal_outputs, assert_untouched_contract, size

import onnxsqueeze as sq
from exports.architectures import ARCHITECTURES
from exports.exporters import MASKS, Exporter, exported

OLDER = (
    (Exporter(11, dynamo=False, optimize=False), Exporter(17, dynamo=False, optimize=True)),
    (Exporter(13, dynamo=False, optimize=False), Exporter(11, dynamo=False, optimize=True, resizable=False)),
    (Exporter(17, dynamo=False, optimize=False, resizable=False), Exporter(13, dynamo=False, optimize=True)),
)
NEWER = (
    (Exporter(25, dynamo=True, optimize=False), Exporter(25, dynamo=True, optimize=True)),
    (Exporter(18, dynamo=True, optimize=False), Exporter(18, dynamo=True, optimize=True)),
    (Exporter(25, dynamo=True, optimize=False, resizable=False), Exporter(25, dynamo=True, optimize=True, resizable=False)),
)

SHARES: dict[str, tuple[float, float, float]] = {}
"""The most of the weights, in percent, that round_to=1 keeps of any export, under each of MASKS."""


def cases() -> list[tuple[str, Exporter]]:
    """Give each network four exports: by both exporters, optimized or not, at opset versions that go round."""
    found = []
    for place, name in enumerate(ARCHITECTURES):
        exporters = (*OLDER[place % len(OLDER)], *NEWER[place % len(NEWER)])
        found += [(name, exporter) for exporter in exporters]
    return found


@pytest.mark.parametrize(("name", "exporter"), cases(), ids=lambda value: getattr(value, "name", value))
def test_export_is_minimized_exactly(name: str, exporter: Exporter) -> None:
    for mask, most in zip(MASKS, SHARES[name], strict=True):
        model = exported(name, mask, exporter)
        before = model.SerializeToString(deterministic=True)
        smallest = sq.minimize(model, round_to=1, verify=False)
        rounded = sq.minimize(model, verify=False)
        for result in (smallest, rounded):
            assert_untouched_contract(model, result, before)
        assert_equal_outputs(
            model, smallest.model, rounded.model, extents=ARCHITECTURES[name].extents, double=False
        )
        share = 100 * size(smallest.model) / size(model)
        assert share <= most, f"{mask}: {share:.1f} % left, where {most} % is enough: {dict(smallest.report.stayed)}"
        assert size(smallest.model) <= size(rounded.model)
