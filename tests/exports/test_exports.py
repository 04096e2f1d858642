"""Networks as both torch exporters write them: minimized exactly, and by as much as their masks allow."""

from __future__ import annotations

from itertools import cycle

import pytest
from planted.checks import assert_equal_outputs, assert_untouched_contract, size

import onnxsqueeze as sq
from exports.architectures import ARCHITECTURES
from exports.exporters import MASKS, Exporter, exported

LATEST = 26  # the newest opset version that the exporter and onnxruntime know

OLDER = (
    Exporter(11, dynamo=False, optimize=False),
    Exporter(13, dynamo=False, optimize=True),
    Exporter(17, dynamo=False, optimize=False, resizable=False),
    Exporter(17, dynamo=False, optimize=True),
)
NEWER = (
    Exporter(18, dynamo=True, optimize=True, resizable=False),
    Exporter(LATEST, dynamo=True, optimize=False),
    Exporter(LATEST, dynamo=True, optimize=True),
    Exporter(18, dynamo=True, optimize=False),
)

# The largest share of the weights that any exporter's model keeps with round_to=1, in percent, under each of MASKS.
SHARES = {}
