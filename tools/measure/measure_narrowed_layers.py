"""Measure where a layer gets faster by computing with a part of its weight: the numbers behind the cost policy.

Each case is a residual block of two layers. Half of the rows of the second one, or half of the columns of the first
one, are zeros; the stream around the block stays whole. The block as it is and the narrowed one are run in turn in
onnxruntime. ``saved`` is what decides: the multiply-accumulates saved for each channel that the Gather writes.

    python tools/measure/measure_narrowed_layers.py                 # everything, one thread, about three minutes
    python tools/measure/measure_narrowed_layers.py --case matmul --side rows
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import click
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.progress import track
from rich.table import Table

import onnxsqueeze as sq
from onnxsqueeze.runtimes.interleaving import interleaved_times
from tools.measure.measure_rounding import optimized_session, random_feed

BLOCKS = 3
KERNELS = {"conv1": (1, 1), "conv3": (3, 3), "line1": (1,), "line3": (3,), "volume3": (3, 3, 3)}


@dataclass(frozen=True)
class Case:
    """A stack of residual blocks.

    Attributes:
        layer: matmul (with an Add for the bias), gemm, conv1 or conv3 (its two convolutions are 1x1 or 3x3), line1 or
            line3 (1-D convolutions of 1 or 3 taps), volume3 (3-D ones of 3x3x3).
        side: rows or columns, of which half are zeros.
        places: rows of the matrix, or pixels along each side of the image, line or volume.
        width: channels of the stream. hidden: of the layer between.
    """

    layer: str
    side: str
    places: int
    width: int
    hidden: int

    @property
    def saved(self) -> float:
        """Multiply-accumulates saved for each element that the Gather writes."""
        return self.hidden * int(np.prod(KERNELS.get(self.layer, ()))) / (2 if self.side == "rows" else 1)


def cases() -> Iterator[Case]:
    """Give every case."""
    for side in ("rows", "columns"):
        for layer, sizes, shapes in (
            ("matmul", (16, 128), ((64, 64), (64, 256), (128, 512), (256, 1024), (768, 3072))),
            ("gemm", (1, 16, 128), ((64, 64), (128, 512), (784, 300), (768, 3072))),
            ("conv1", (7, 28), ((32, 32), (64, 64), (128, 128), (256, 256), (512, 512))),
            ("conv3", (7, 28), ((32, 32), (64, 64), (128, 128), (256, 256))),
            ("line1", (100, 4000), ((32, 32), (64, 64), (128, 128), (256, 256), (512, 512))),
            ("line3", (100, 4000), ((32, 32), (64, 64), (128, 128), (256, 256))),
            ("volume3", (8, 16), ((16, 16), (32, 32), (64, 64))),
        ):
            for places in sizes:
                yield from (Case(layer, side, places, width, hidden) for width, hidden in shapes)


def network(case: Case) -> onnx.ModelProto:
    """Make the stack with zeros."""
    random = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def constant(array: np.ndarray) -> str:
        name = f"c{len(constants)}"
        constants.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def add(op: str, inputs: list[str], **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [f"t{len(nodes)}"], **attributes))
        return str(nodes[-1].output[0])

    def layer(x: str, inner: int, out: int, zero: str) -> str:
        kernel = KERNELS.get(case.layer, ())
        weight = random.standard_normal((out, inner, *kernel)) / np.sqrt(inner * 9)
        chosen = random.permutation(out if zero == "rows" else inner)[::2]
        if zero == "rows":
            weight[chosen] = 0
        elif zero == "columns":
            weight[:, chosen] = 0
        bias = random.standard_normal(out) / 10
        if case.layer == "matmul":
            return add("Add", [add("MatMul", [x, constant(weight.T)]), constant(bias)])
        if case.layer == "gemm":
            return add("Gemm", [x, constant(weight), constant(bias)], transB=1)
        pads = [kernel[0] // 2] * (2 * len(kernel))
        return add("Conv", [x, constant(weight), constant(bias)], pads=pads)

    x = "x"
    for _ in range(BLOCKS):
        y = add("Relu", [layer(x, case.width, case.hidden, "columns" if case.side == "columns" else "")])
        y = add("Add", [x, layer(y, case.hidden, case.width, "rows" if case.side == "rows" else "")])
        x = add("Relu", [y]) if case.layer in KERNELS else y
    kernel = KERNELS.get(case.layer, ())
    shape = [1, case.width, *[case.places] * len(kernel)] if kernel else [case.places, case.width]
    if case.layer == "matmul":
        shape = [1, *shape]
    graph = helper.make_graph(
        nodes,
        "stack",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, shape)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def measure(case: Case, rounds: int) -> tuple[float, float]:
    """Return the milliseconds of the stack as it is, and the narrowed one's share of them."""
    wide = network(case)
    narrow = sq.minimize(wide, round_to=1, verify=False)
    assert len(narrow.plan.narrowings) == BLOCKS
    feed = random_feed(wide)
    sessions = [optimized_session(model)[0] for model in (wide, narrow.model)]
    times = interleaved_times([partial(session.run, None, feed) for session in sessions], rounds)
    return float(np.median(times[:, 0]) * 1e3), float(np.median(times[:, 1] / times[:, 0]))


@click.command()
@click.option("--case", "layer", default="", help="only this kind of layer")
@click.option("--side", default="", help="only rows or columns")
@click.option("--rounds", default=30, show_default=True, help="times that both are run in turn")
def main(layer: str, side: str, rounds: int) -> None:
    """Measure every case and print one line for each."""
    ort.set_global_thread_pool_sizes(1, 1)
    chosen = [case for case in cases() if case.layer.startswith(layer) and case.side.startswith(side)]
    shown = Table("layer", "side", "places", "width", "hidden", "saved", "ms", "narrowed / wide", box=None)
    for case in track(chosen, console=Console(stderr=True), transient=True):
        milliseconds, ratio = measure(case, rounds)
        numbers = (str(case.places), str(case.width), str(case.hidden), f"{case.saved:g}", f"{milliseconds:.3f}")
        shown.add_row(case.layer, case.side, *numbers, f"{ratio:.2f}")
    Console(width=120).print(shown)


if __name__ == "__main__":
    main()
