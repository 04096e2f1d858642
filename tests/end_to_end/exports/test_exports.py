"""Networks as both torch exporters write them: minimized exactly, and by as much as their masks allow."""

from __future__ import annotations

import pytest
from onnx import ModelProto

import onnxsqueeze as sq
from onnxsqueeze.coupling.keep_reason import Reason
from tests.support.exports.architectures import ARCHITECTURES
from tests.support.exports.exporters import MASKS, Exporter, exported
from tests.support.extent import LONG
from tests.support.planted.checks import assert_equal_outputs, assert_untouched_contract, size

OLDER = (
    (Exporter(11, dynamo=False, optimize=False), Exporter(17, dynamo=False, optimize=True)),
    (Exporter(13, dynamo=False, optimize=False), Exporter(11, dynamo=False, optimize=True, resizable=False)),
    (Exporter(17, dynamo=False, optimize=False, resizable=False), Exporter(13, dynamo=False, optimize=True)),
)
NEWER = (
    (Exporter(25, dynamo=True, optimize=False), Exporter(25, dynamo=True, optimize=True)),
    (Exporter(18, dynamo=True, optimize=False), Exporter(18, dynamo=True, optimize=True)),
    (
        Exporter(23, dynamo=True, optimize=False, resizable=False),
        Exporter(23, dynamo=True, optimize=True, resizable=False),
    ),
)

# The most of the weights, in percent, that round_to=1 may keep of any export of a network, under each of MASKS. They
# were measured, and what stays was looked at layer by layer: no row or column is left that could go, but for
# - one constant channel in front of each zero-padded convolution, and the others that a padded AveragePool spoils;
# - channels at the same place as needed ones: residual streams, groups of a convolution, positions of a Flatten or a
#   pixel shuffle, the other half of a gate;
# - channels that one of several readers needs.
# Two exports of a network and mask differ by BatchNorm parameters and a few scalars alone.
SHARES = {
    "mlp": (37.1, 65.8, 37.1),
    "lenet": (26.8, 71.7, 50.2),
    "vgg": (28.7, 38.1, 43.6),
    "resnet": (32.1, 49.5, 26.8),
    "bottleneck": (30.5, 12.3, 28.2),
    "mobilenet": (34.3, 33.0, 33.9),
    "mobilenetv3": (35.5, 53.7, 35.5),
    "efficientnet": (37.0, 30.9, 37.0),
    "shufflenet": (36.6, 32.4, 36.1),
    "densenet": (33.2, 12.0, 39.6),
    "inception": (37.2, 28.0, 27.2),
    "googlenet": (43.5, 18.5, 36.5),
    "squeezenet": (35.7, 16.6, 30.0),
    "regnet": (43.7, 32.1, 33.6),
    "unet": (29.9, 59.7, 34.4),
    "unet-resized": (29.9, 65.8, 35.5),
    "superresolution": (49.7, 37.2, 30.5),
    "wavenet": (43.9, 64.8, 26.3),
    "tcn": (33.3, 43.3, 28.9),
    "volumes": (29.9, 4.2, 27.1),
    "autoencoder": (46.3, 21.8, 33.5),
    "gated": (68.8, 13.6, 29.6),
    "mixer": (29.2, 38.6, 29.2),
    "patchwork": (31.9, 64.8, 39.5),
}

MISSED = (Reason.UNKNOWN_OPERATOR, Reason.UNKNOWN_SHAPE, Reason.COMPUTED_WEIGHT, Reason.LARGER, Reason.OVERFLOW)
"""Reasons that would be a pattern of an exporter's which is not understood."""


def cases() -> list[tuple[str, Exporter]]:
    """Give each network two exports, one of them optimized, at opset versions that go round.

    Every other network is written by both exporters, the rest by the older one alone: tracing takes most of the time.
    The long run has four exports of each, by both exporters, optimized or not.
    """
    found = []
    for place, name in enumerate(ARCHITECTURES):
        older, newer, optimized = OLDER[place % len(OLDER)], NEWER[place % len(NEWER)], place // 6 % 2
        exporters = older if place % 2 else (older[optimized], newer[not optimized])
        found += [(name, exporter) for exporter in ((*older, *newer) if LONG else exporters)]
    return found


def minimize(model: ModelProto, round_to: str | int) -> sq.Result:
    """Minimize an export and assert what holds for every result."""
    before = model.SerializeToString(deterministic=True)
    result = sq.minimize(model, round_to=round_to, verify=False)
    assert_untouched_contract(model, result, before)
    missed = [reason for reason in result.report.stayed if reason.startswith(tuple(entry.value for entry in MISSED))]
    assert not missed
    return result


@pytest.mark.parametrize(("name", "exporter"), cases(), ids=lambda value: getattr(value, "name", value))
def test_export_is_minimized_exactly(name: str, exporter: Exporter) -> None:
    for mask, most in zip(MASKS, SHARES[name], strict=True):
        model = exported(name, mask, exporter)
        smallest, rounded = minimize(model, 1), minimize(model, "auto")
        extents = ARCHITECTURES[name].extents
        assert_equal_outputs(model, smallest.model, rounded.model, extents=extents, double=False)
        share = 100 * size(smallest.model) / size(model)
        assert share <= most, f"{mask}: {share:.1f} % left, where {most} % is enough: {dict(smallest.report.stayed)}"
        assert size(smallest.model) <= size(rounded.model)


def test_batch_statistics_are_left_alone() -> None:
    """In training mode BatchNorm computes its own parameters: what stands around it must stay as it is."""
    model = exported("vgg", "rows", Exporter(17, dynamo=False, optimize=False, training=True))
    result = sq.minimize(model, round_to=1, verify=False)
    detail = f"{Reason.UNKNOWN_OPERATOR.value}: BatchNormalization in training mode"
    assert detail in result.report.stayed
    assert_equal_outputs(model, result.model, double=False)
