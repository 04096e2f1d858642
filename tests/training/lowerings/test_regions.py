"""RoiAlign, CenterCropPad, Compress."""

from __future__ import annotations

import numpy as np
import pytest

from onnxsqueeze.errors import UsageError
from tests.support.drawing import Draw, ints
from tests.training.lowerings.checking import Case, Sizes, check, in_sizes

D = Draw(5)
IMAGES = D.floats(2, 3, 9, 7)
REGIONS = np.array([[0.3, 0.2, 5.1, 7.4], [2.0, 3.0, 2.5, 3.2], [-4.0, 1.0, 3.0, 12.0]], np.float32)
NUMBERS = ints(1, 0, 1)


def aligned(opset: int = 16, **attributes: object) -> Case:
    sizes = {"output_height": 3, "output_width": 2}
    operands = [IMAGES, REGIONS, NUMBERS]
    return Case("RoiAlign", operands, (1, 2), opset=opset, attributes=sizes | attributes, differentiable=False)


CASES = [
    aligned(),
    aligned(sampling_ratio=2, spatial_scale=0.7),
    aligned(coordinate_transformation_mode="output_half_pixel"),
    aligned(opset=10, sampling_ratio=3),
    Case("CenterCropPad", [D.floats(3, 8, 5), ints(5, 9)], (1,), opset=18, attributes={"axes": [1, -1]}),
    Case("CenterCropPad", [D.floats(3, 8, 5), ints(3, 11, 2)], (1,), opset=18, fixed=True),
    Case("Compress", [D.floats(3, 4, 5), np.array([True, False, True])], (1,), attributes={"axis": 1}),
    Case("Compress", [D.floats(3, 4), np.array([True, False, True, True])]),
]


@pytest.mark.parametrize(("case", "sizes"), in_sizes(CASES), ids=str)
def test_form(case: Case, sizes: Sizes) -> None:
    check(case, sizes)


def test_maxima_of_regions_are_refused() -> None:
    with pytest.raises(UsageError, match="mode 'max' cannot be trained"):
        check(aligned(mode="max"))
