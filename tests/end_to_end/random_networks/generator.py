"""Networks of random layers: `random_network` draws one from a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from tests.end_to_end.random_networks import moving, pointwise, weighted
from tests.end_to_end.random_networks.network import BATCHES, Network, Tensor
from tests.support.builders import TRUSTED_BATCH_NORM
from tests.support.planted.opsets import LATEST

Layer = Callable[[Network, Tensor], Tensor | None]

LAYERS: dict[Layer, float] = {
    weighted.conv: 6, weighted.grouped_conv: 2, weighted.depthwise_conv: 2, weighted.transposed_conv: 1,
    weighted.squeeze_and_excite: 1, weighted.gemm: 4, weighted.gemm_of_weight: 1, weighted.matmul: 1.5,
    weighted.matmul_of_weight: 1, weighted.flattened_matmul: 0.5,
    pointwise.batch_norm: 1.5, pointwise.activation: 3, pointwise.positive_activation: 0.5, pointwise.clip: 0.7,
    pointwise.prelu: 0.7, pointwise.power: 0.5, pointwise.arithmetic: 2, pointwise.division: 0.3, pointwise.choice: 0.7,
    pointwise.comparison: 0.5, pointwise.cast: 0.2, pointwise.pool: 1,
    pointwise.softmax: 0.3, pointwise.instance_norm: 0.3, pointwise.layer_norm: 0.4, pointwise.largest: 0.2,
    pointwise.running_sum: 0.2,
    moving.split: 1, moving.part: 0.7, moving.cropped: 0.4, moving.gather: 0.7, moving.shuffle: 1,
    moving.computed_reshape: 0.7, moving.axis_and_back: 0.5, moving.pad: 0.8, moving.mirrored: 0.3,
    moving.depth_to_space: 0.7, moving.space_to_depth: 0.5, moving.resize: 0.7, moving.tile: 0.5, moving.expand: 0.5,
    moving.reduced_channels: 0.8, moving.reduced_space: 0.7, moving.own_statistics: 0.3,
}  # fmt: skip
"""How often each kind of layer is drawn."""

OPSETS = (11, 13, 18, LATEST)
DTYPES = {np.float32: 0.9, np.float16: 0.05, np.float64: 0.05}
SPATIAL = {0: 0.2, 1: 0.15, 2: 0.5, 3: 0.15}
EXTENTS = {0: (1, 1), 1: (11, 14), 2: (8, 12), 3: (5, 6)}
"""By the number of spatial axes: the two sizes of an input that is dynamic; the first one where it is fixed."""

LARGEST = 4000
"""Elements of a tensor for one entry of the batch behind which no more layers come."""


@dataclass(frozen=True)
class RandomNetwork:
    """A network, its type, and the two sizes of its dynamic extents for which it is made."""

    model: onnx.ModelProto
    dtype: type[np.floating[Any]]
    extents: tuple[int, int]


def random_network(seed: int) -> RandomNetwork:
    """Draw a network of three to twelve layers, some of whose tensors are read again later."""
    random = np.random.default_rng(seed)
    dtype = _weighted(random, DTYPES)
    opsets = [opset for opset in OPSETS if dtype is not np.float64 or opset >= TRUSTED_BATCH_NORM]
    net = Network(random, int(random.choice(opsets)), dtype)
    spatial = _weighted(random, SPATIAL)
    history = [_input(net, spatial)]
    for _ in range(net.whole(3, 12)):
        x = _joined(net, _layer(net, history[-1]), history)
        history.append(x)
        if x.elements > LARGEST or x.channels > 40:
            break
    return RandomNetwork(net.model(*_outputs(net, history)), dtype, EXTENTS[spatial])


def _weighted(random: np.random.Generator, table: dict[Any, float]) -> Any:
    shares = np.array(list(table.values()))
    return list(table)[int(random.choice(len(table), p=shares / shares.sum()))]


def _input(net: Network, spatial: int) -> Tensor:
    channels, extents = net.whole(2, 6), EXTENTS[spatial]
    batch, places = net.chance(0.5), net.chance(0.35)
    dims = ["N" if batch else 2, channels, *[f"S{axis}" if places else extents[0] for axis in range(spatial)]]
    sizes = [
        (number if batch else 2, channels, *[extent if places else extents[0]] * spatial)
        for number, extent in zip(BATCHES, extents, strict=True)
    ]
    return net.input(dims, (sizes[0], sizes[1]))


def _layer(net: Network, x: Tensor) -> Tensor:
    """Draw layers until one applies."""
    while True:
        layer: Layer = _weighted(net.random, LAYERS)
        made = layer(net, x)
        if made is not None:
            return made


def _joined(net: Network, x: Tensor, history: list[Tensor]) -> Tensor:
    """Join a tensor with an earlier one, sometimes."""
    fitting = [y for y in history if x.fits(y) and y.rank == x.rank]
    equal = [y for y in fitting if y.channels == x.channels]
    if equal and net.chance(0.4):
        return net.add(net.pick("Add", "Add", "Mul", "Sub", "Sum", "Max"), x, net.pick(*equal))
    if fitting and net.chance(0.2):
        return net.add("Concat", *net.pick((x, y := net.pick(*fitting)), (y, x)), axis=1)
    return x


def _outputs(net: Network, history: list[Tensor]) -> list[Tensor]:
    """Add a head, and make some tensor on the way an output too, sometimes."""
    outputs = [net.pick(_classifier, _pooled_classifier, _last_conv, _as_it_is)(net, history[-1])]
    if net.chance(0.2):
        outputs.append(net.pick(*history[1:]))
    return list({x.name: x for x in outputs}.values())


def _classifier(net: Network, x: Tensor) -> Tensor:
    """Read all places of all channels."""
    if not x.fixed:
        return _pooled_classifier(net, x)
    y = net.add("Flatten", x)
    return net.add("Gemm", y, net.weight(3, y.channels), net.constant(net.normal(3)), transB=1)


def _pooled_classifier(net: Network, x: Tensor) -> Tensor:
    """Read the means of all channels."""
    y = net.add("Flatten", net.add("GlobalAveragePool", x)) if x.spatial else x
    return net.add("Add", net.add("MatMul", y, net.weight(y.channels, 4, axes=(1, 0))), net.constant(net.normal(4)))


def _last_conv(net: Network, x: Tensor) -> Tensor:
    return weighted.conv(net, x) or weighted.matmul(net, x)


def _as_it_is(net: Network, x: Tensor) -> Tensor:
    """Leave the last layer as it is: all of its channels are outputs."""
    return net.add("Relu", x)
