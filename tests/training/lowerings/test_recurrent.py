"""LSTM, GRU and RNN, as torch's kernels compute them and in all other ways."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.support.drawing import Array, Draw
from tests.training.lowerings.checking import Case, Sizes, check, in_sizes

D = Draw(7)
STEPS, BATCH, FEATURES, UNITS = 5, 3, 4, 6
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
LENGTHS = np.array([5, 1, 3], np.int32)


def layer(op: str, direction: str = "forward", label: str = "", **options: Any) -> Case:
    """A layer; options named ``given_...`` choose its operands, all others are attributes."""
    directions = 2 if direction == "bidirectional" else 1
    wide = GATES[op] * UNITS
    given = {key.removeprefix("given_"): options.pop(key) for key in list(options) if key.startswith("given_")}
    first = bool(options.get("layout"))

    def state() -> Array:
        return D.floats(BATCH, directions, UNITS) if first else D.floats(directions, BATCH, UNITS)

    operands = [
        D.floats(BATCH, STEPS, FEATURES) if first else D.floats(STEPS, BATCH, FEATURES),
        D.floats(directions, wide, FEATURES) / 2,
        D.floats(directions, wide, UNITS) / 2,
        D.floats(directions, 2 * wide) if given.get("bias", True) else None,
        LENGTHS if given.get("lengths") else None,
        state() if given.get("state") else None,
        state() if given.get("state") and op == "LSTM" else None,
        D.floats(directions, 3 * UNITS) if given.get("peephole") else None,
    ]
    stored = tuple(place for place in (1, 2, 3, 7) if operands[place] is not None)
    while operands[-1] is None:
        operands.pop()
    return Case(
        op,
        operands,
        stored,
        outputs=3 if op == "LSTM" else 2,
        opset=14,
        attributes={"hidden_size": UNITS, "direction": direction, **options},
        label="-".join([direction, *given, *map(str, options), label]),
    )


def coded(by_row: bool, direction: str = "forward", **options: Any) -> Case:
    """An LSTM of codes of sequences of one length, with a scale for each direction or for each row of a gate.

    The codes have seven bits: of eight, runtimes saturate on processors without VNNI.
    """
    real = layer("LSTM", direction, **options)
    codes = [D.integers(-64, 64, *np.swapaxes(array, 1, 2).shape).astype(np.int8) for array in real.operands[1:3]]
    operands = [real.operands[0], *codes, *real.operands[3:]]
    operands += [None] * (8 - len(operands))
    for array in codes:
        numbers = array.shape[::2] if by_row else array.shape[:1]
        operands += [D.positive(*numbers) / 100, np.zeros(numbers, np.int8)]
    stored = (1, 2, 3, 8, 9, 10, 11)
    return replace(
        real, op="DynamicQuantizeLSTM", domain="com.microsoft", operands=operands, stored=stored, differentiable=False
    )


def plain(op: str) -> list[Case]:
    after = {"linear_before_reset": 1} if op == "GRU" else {}
    return [
        *(layer(op, direction, given_state=True, **after) for direction in ("forward", "reverse", "bidirectional")),
        layer(op, given_bias=False, **after),
        layer(op, "bidirectional", given_lengths=True, given_state=True, **after),
        layer(op, "reverse", given_lengths=True, **after),
        layer(op, clip=0.4, **after),
    ]


CASES = [
    *(case for op in GATES for case in plain(op)),
    layer("GRU", given_state=True),
    layer("GRU", "bidirectional"),
    layer("LSTM", given_peephole=True, given_state=True),
    layer("LSTM", "bidirectional", given_peephole=True, given_lengths=True),
    layer("RNN", activations=["Relu"]),
    layer("RNN", "bidirectional", activations=["Relu", "Tanh"]),
    layer("RNN", activations=["LeakyRelu"], activation_alpha=[0.3]),
    layer("LSTM", activations=["HardSigmoid", "Softsign", "Elu"], activation_alpha=[0.3, 0.7], activation_beta=[0.4]),
    layer("GRU", activations=["Sigmoid", "Affine"], activation_alpha=[0.6], activation_beta=[0.1]),
    layer("GRU", activations=["HardSigmoid", "ScaledTanh"], activation_alpha=[0.3, 1.5], activation_beta=[0.4, 0.7]),
    layer("RNN", activations=["Softplus"]),
    layer("RNN", activations=["ThresholdedRelu"], activation_alpha=[0.2]),
    coded(False, given_state=True),
    coded(True, "bidirectional", clip=2.0),
]


@pytest.mark.parametrize(("case", "sizes"), in_sizes(CASES), ids=str)
def test_form(case: Case, sizes: Sizes) -> None:
    check(case, sizes)
