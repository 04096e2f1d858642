"""Norms over groups, space and channels as both of torch's exporters write them."""

from __future__ import annotations

import io
import logging

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.support.planted.checks import assert_equal_outputs, minimize, weights

WIDTH, GROUPS, CLASSES = 16, 4, 3
GONE = torch.tensor([1, 2, 4, 7, 8, 9, 13, 14])  # two of each group


class GlobalResponse(nn.Module):
    """Sets each channel's length over space against the mean of all (ConvNeXt V2)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.bias = (nn.Parameter(torch.randn(1, WIDTH, 1, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
        return self.scale * (x * length / (length.mean(dim=1, keepdim=True) + 1e-6)) + self.bias + x


class Normalized(nn.Module):
    """Four convolutions with a norm of another kind behind each but the last; half of the channels are constant."""

    def __init__(self, order: float) -> None:
        super().__init__()
        self.order = order
        self.first = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.groups = nn.GroupNorm(GROUPS, WIDTH)
        self.second = nn.Conv2d(WIDTH, WIDTH, 1)
        self.instances = nn.InstanceNorm2d(WIDTH, affine=True)
        self.third = nn.Conv2d(WIDTH, WIDTH, 1)
        self.response = GlobalResponse()
        self.last = nn.Conv2d(WIDTH, CLASSES, 1)
        with torch.no_grad():
            for parameter in (*self.groups.parameters(), *self.instances.parameters()):
                parameter.normal_()
            for layer in (self.first, self.second, self.third):
                layer.weight[GONE] = 0
            self.groups.weight[GONE] = 0
            self.third.bias[GONE] = 0
            self.response.bias[:, GONE] = 0

    def forward(self, x: Tensor) -> Tensor:
        x = functional.silu(self.groups(self.first(x)))
        x = torch.sigmoid(self.instances(self.second(x)))
        return self.last(functional.normalize(self.response(self.third(x)), p=self.order, dim=1))


def exported(opset: int, resizable: bool, order: float) -> onnx.ModelProto:
    """Export by the newer exporter from opset 18 on, by the older before."""
    torch.manual_seed(0)
    network, example = Normalized(order).eval(), (torch.randn(2, 3, 8, 8),)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    names = {"input_names": ["x"], "output_names": ["y"]}
    axes = {0: "batch", 2: "height", 3: "width"} if resizable else None
    if opset >= 18:
        dims = ({axis: torch.export.Dim(name) for axis, name in axes.items()},) if axes else None
        program = torch.onnx.export(
            network, example, dynamo=True, opset_version=opset, dynamic_shapes=dims, verbose=False, **names
        )
        assert program is not None
        return program.model_proto
    file = io.BytesIO()
    dynamic = {"x": axes, "y": axes} if axes else None
    torch.onnx.export(network, example, file, dynamo=False, opset_version=opset, dynamic_axes=dynamic, **names)
    return onnx.load_from_string(file.getvalue())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("opset", "resizable", "order"),
    [(11, True, 2.0), (17, False, 1.0), (18, True, 2.0), (18, False, 1.0), (21, True, 1.0)],
)
def test_half_of_the_channels_leave(opset: int, resizable: bool, order: float) -> None:
    model = exported(opset, resizable, order)
    result = minimize(model)
    assert_equal_outputs(model, result.model, double=opset < 21)  # the evaluator's GroupNormalization is in float32
    half = WIDTH // 2
    kernels = [shape for shape in weights(result.model) if len(shape) == 4 and shape[0] > 1]
    assert kernels == sorted([(half, 3, 3, 3), (half, half, 1, 1), (half, half, 1, 1), (CLASSES, half, 1, 1)])
