"""Resize and Upsample in all their modes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.drawing import Array, Draw, ints
from tests.training.lowerings.checking import Case, Sizes, check, in_sizes

D = Draw(6)
X = D.floats(2, 3, 5, 6)


def to(*sizes: int, data: Array = X, opset: int = 19, label: str = "", **attributes: Any) -> Case:
    place = 3
    label = "-".join([*map(str, (*sizes, *attributes.values())), *filter(None, [label])])
    operands = [data, None, None, ints(*sizes)]
    return Case("Resize", operands, (place,), opset=opset, attributes=attributes, label=label)


def by(*scales: float, data: Array = X, opset: int = 19, **attributes: Any) -> Case:
    label = "-".join(map(str, (*scales, *attributes.values())))
    region = np.zeros(0, np.float32)
    return Case(
        "Resize",
        [data, region, np.array(scales, np.float32)],
        (1, 2),
        opset=opset,
        attributes=attributes,
        label=label,
    )


COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def crossed() -> list[Case]:
    found = []
    for place, kind in enumerate((*COORDINATES, "half_pixel_symmetric")):
        way = {"coordinate_transformation_mode": kind}
        found += [
            to(2, 3, 10, 9, mode="linear", **way),
            by(1, 1, 2, 0.6, mode="linear", **way),
            by(1, 1, 1.3, 2.5, mode="nearest", nearest_mode=NEAREST[place % 4], **way),
            to(2, 3, 3, 4, mode="nearest", nearest_mode=NEAREST[(place + 1) % 4], **way),
            by(1, 1, 2, 3, mode="nearest", nearest_mode=NEAREST[(place + 2) % 4], **way),
        ]
        if kind != "half_pixel_symmetric":
            found += [
                by(1, 1, 1.3, 2.5, mode="cubic", **way),
                to(2, 3, 3, 9, mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1, **way),
            ]
    return found


CASES = [
    *crossed(),
    *(
        by(1, 1, 2, 2, mode="nearest", nearest_mode=mode, coordinate_transformation_mode="asymmetric")
        for mode in NEAREST
    ),
    to(2, 3, 10, 1, mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
    to(2, 3, 7, 3, mode="linear", antialias=1),
    to(2, 3, 3, 9, mode="cubic", antialias=1),
    to(10, 12, mode="linear", axes=[2, 3]),
    to(7, mode="nearest", axes=[-1]),
    to(8, 9, mode="linear", axes=[2, 3], keep_aspect_ratio_policy="not_larger"),
    to(8, 9, mode="linear", axes=[2, 3], keep_aspect_ratio_policy="not_smaller"),
    by(1, 1, 2, data=D.floats(2, 3, 4), mode="linear"),
    by(1, 1, 2, 2, 1.5, data=D.floats(1, 2, 3, 2, 4), mode="linear"),
    by(1, 1, 2, 2, opset=11, mode="linear", coordinate_transformation_mode="tf_half_pixel_for_nn"),
    by(1, 1, 2, 2, opset=13, mode="nearest", coordinate_transformation_mode="half_pixel", nearest_mode="floor"),
    Case("Resize", [X, np.array([1, 1, 2, 2], np.float32)], (1,), opset=10, attributes={"mode": "linear"}),
    Case("Resize", [X, np.array([1, 1, 1.5, 0.5], np.float32)], (1,), opset=10, attributes={"mode": "nearest"}),
    Case("Upsample", [X, np.array([1, 1, 2, 3], np.float32)], (1,), opset=9, attributes={"mode": "nearest"}),
    Case("Upsample", [X, np.array([1, 1, 2, 3], np.float32)], (1,), opset=9, attributes={"mode": "linear"}),
    Case("Upsample", [X], opset=7, attributes={"mode": "nearest", "scales": [1.0, 1.0, 2.0, 2.0]}),
    Case(
        "Resize",
        [X, np.array([0, 0, 0.1, 0.2, 1, 1, 0.7, 1.3], np.float32), None, ints(2, 3, 4, 7)],
        (1, 3),
        opset=13,
        attributes={
            "mode": "linear",
            "coordinate_transformation_mode": "tf_crop_and_resize",
            "extrapolation_value": 9.0,
        },
        label="crop",
    ),
]


@pytest.mark.parametrize(("case", "sizes"), in_sizes(CASES), ids=str)
def test_form(case: Case, sizes: Sizes) -> None:
    check(case, sizes)
