"""Count how many planted wrong constants the verifier catches, and whether it accepts what is right.

Networks lose half of the channels of each norm, are minimized, and one stored number of the result is moved by a little
at a time: a bias, as a wrong fold would. What is caught before a change of the verifier must be caught after it.

    python tools/measure/measure_verifier.py --json after.json                             # some minutes
    PYTHONPATH=../other-checkout python tools/measure/measure_verifier.py --json before.json
    python tools/measure/measure_verifier.py --only resnet50 --scale 1 --plants 4
"""

from __future__ import annotations

import io
import json
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import onnxsqueeze as sq
from tools.models import networks

OFFSETS = (1e-1, 1e-2, 1e-3, 1e-4)


class Ending(nn.Module):
    """A network with something behind it."""

    def __init__(self, body: nn.Module, ending: Callable[[Tensor], Tensor | tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.body, self.ending = body, ending

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run both on [batch, channels, height, width]."""
        return self.ending(self.body(x))


def _label(scores: Tensor) -> Tensor:
    return scores.argmax(1)


def _best(scores: Tensor) -> tuple[Tensor, ...]:
    values, places = torch.sigmoid(scores).topk(20, dim=1)
    return values, places


def _saturated(scores: Tensor) -> Tensor:
    return torch.sigmoid(scores / scores.abs().max() - 12)


NETWORKS: dict[str, Callable[[float], nn.Module]] = {
    "resnet50": networks.resnet50,
    "vgg16": networks.vgg16,
    "mobilenet_v2": lambda scale: networks.mobilenet_v2(),
    "resnet50, ArgMax": lambda scale: Ending(networks.resnet50(scale), _label),
    "resnet50, TopK": lambda scale: Ending(networks.resnet50(scale), _best),
    "resnet50, saturated Sigmoid": lambda scale: Ending(networks.resnet50(scale), _saturated),
}


def masked(network: nn.Module) -> onnx.ModelProto:
    """Return a network as a model, with half of the channels of each norm zero, and others of them constant."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.rand(module.num_features, generator=random) + 0.5)
                module.bias.copy_(torch.randn(module.num_features, generator=random) / 4)
                module.running_mean.copy_(torch.randn(module.num_features, generator=random) / 10)
                module.weight[::2] = 0
                module.bias[::4] = 0
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sample = torch.randn(1, 3, 32, 32)
        torch.onnx.export(network.eval(), (sample,), file, opset_version=17, dynamo=False, input_names=["image"])
    return onnx.load_from_string(file.getvalue())


def plants(model: onnx.ModelProto, count: int) -> Iterator[tuple[str, int]]:
    """Yield numbers to move: (initializer, place) of vectors all over the network, the same each time."""
    random = np.random.default_rng(0)
    vectors = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 1 and tensor.data_type == 1]
    for tensor in (vectors[index] for index in random.permutation(len(vectors))[:count]):
        yield tensor.name, int(random.integers(tensor.dims[0]))


def moved(model: onnx.ModelProto, name: str, place: int, by: float) -> onnx.ModelProto:
    """Return a copy of a model in which one number is another."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    (tensor,) = [each for each in copy.graph.initializer if each.name == name]
    array = numpy_helper.to_array(tensor).copy()
    array[place] += np.float32(by)
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    return copy


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(NETWORKS)), help="Networks; by default all.")
@click.option("--scale", default=0.25, show_default=True, help="Of the widths of the networks.")
@click.option("--plants", "count", default=10, show_default=True, help="Numbers to move in each network.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write what was found.")
def main(only: tuple[str, ...], scale: float, count: int, path: Path | None) -> None:
    """Print a row for each network: is the right result accepted, how many wrong ones are caught."""
    found = {}
    for name in only or NETWORKS:
        torch.manual_seed(0)
        model = masked(NETWORKS[name](scale))
        small = sq.minimize(model, verify=False, round_to=1).model
        started = time.perf_counter()
        accepted = sq.verify(model, small).passed
        caught = {
            f"{offset:g}": [not sq.verify(model, moved(small, *plant, offset)).passed for plant in plants(small, count)]
            for offset in OFFSETS
        }
        found[name] = {"accepted": accepted, "caught": caught}
        numbers = ", ".join(f"{offset}: {sum(hits)} of {len(hits)}" for offset, hits in caught.items())
        print(f"{name}: accepted {accepted}; {numbers}; {time.perf_counter() - started:.0f} s", flush=True)
    if path is not None:
        path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
