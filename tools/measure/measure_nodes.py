"""Measure the time that graphs of many small nodes take, and how it grows with their number.

    python tools/measure/measure_nodes.py                         # 5,000 and 20,000 nodes of three kinds
    python tools/measure/measure_nodes.py --kind tokens --nodes 20000
    python tools/measure/measure_nodes.py --against ../before     # and the ratio to another checkout

The weights are tiny, so that what is measured is the graph's size alone: CPU seconds of `onnxsqueeze minimize
--no-verify` as a whole process, less those of one on a graph of a few nodes (imports and the like). Half of the hidden
units of each layer are masked. With --against the runs take turns, and the fastest of each counts.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from tools.measure.timing import run_child

ROOT = Path(__file__).resolve().parents[2]
_WIDTH, _HIDDEN, _HEADS = 8, 12, 2
_SCALE = 0.1
_FEW = 100  # nodes of the graph that stands for what any run costs


class Network:
    """A graph under construction: each method adds something and returns the name of its output."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        output = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, value: np.ndarray) -> str:
        name = f"stored_{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(value, name))
        return name

    def weight(self, *shape: int, masked: np.ndarray | None = None, axis: int = 0) -> str:
        value = self.random.standard_normal(shape, dtype=np.float32) * np.float32(_SCALE)
        if masked is not None:
            value[(slice(None),) * axis + (masked,)] = 0
        return self.constant(value)

    def half(self, width: int) -> np.ndarray:
        """Choose the units of a layer that are masked."""
        return self.random.permutation(width)[: width // 2]

    def affine(self, x: str, rows: int, columns: int, masked: np.ndarray | None = None) -> str:
        product = self.op("MatMul", x, self.weight(rows, columns, masked=masked, axis=1))
        return self.op("Add", product, self.weight(columns, masked=masked))


def _tokens(net: Network, x: str) -> str:
    """A transformer's block as exporters write it: shapes computed, heads split by Reshape and Transpose."""
    normed = net.op("LayerNormalization", x, net.weight(_WIDTH), net.weight(_WIDTH))
    shape = net.op("Shape", normed)
    sizes = [net.op("Gather", shape, net.constant(np.array([axis]))) for axis in (0, 1)]
    split = net.op("Concat", *sizes, net.constant(np.array([_HEADS, _WIDTH // _HEADS])), axis=0)
    perms = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    q, k, v = (
        net.op("Transpose", net.op("Reshape", net.affine(normed, _WIDTH, _WIDTH), split), perm=perm) for perm in perms
    )
    scores = net.op("Mul", net.op("MatMul", q, k), net.constant(np.float32(0.5)))
    mixed = net.op("Transpose", net.op("MatMul", net.op("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    merged = net.op("Reshape", mixed, net.op("Concat", *sizes, net.constant(np.array([_WIDTH])), axis=0))
    x = net.op("Add", x, net.affine(merged, _WIDTH, _WIDTH))
    masked = net.half(_HIDDEN)
    normed = net.op("LayerNormalization", x, net.weight(_WIDTH), net.weight(_WIDTH))
    inner = net.affine(normed, _WIDTH, _HIDDEN, masked)
    half, one, root = (net.constant(np.float32(number)) for number in (0.5, 1, 2**0.5))
    gate = net.op("Add", net.op("Erf", net.op("Div", inner, root)), one)
    inner = net.op("Mul", net.op("Mul", inner, gate), half)
    return net.op("Add", x, net.affine(inner, _HIDDEN, _WIDTH))


def _image(net: Network, x: str) -> str:
    """A residual block of convolutions with norms."""
    masked = net.half(_HIDDEN)
    flow = net.op("Conv", x, net.weight(_HIDDEN, _WIDTH, 1, 1, masked=masked))
    flow = net.op("Relu", _norm(net, flow, _HIDDEN, masked))
    flow = net.op("Conv", flow, net.weight(_WIDTH, _HIDDEN, 3, 3), pads=[1, 1, 1, 1])
    return net.op("Relu", net.op("Add", x, _norm(net, flow, _WIDTH, None)))


def _norm(net: Network, x: str, width: int, masked: np.ndarray | None) -> str:
    scale, bias, mean = net.weight(width, masked=masked), net.weight(width, masked=masked), net.weight(width)
    return net.op("BatchNormalization", x, scale, bias, mean, net.constant(np.ones(width, np.float32)))


def _dense(net: Network, x: str) -> str:
    """Two fully connected layers."""
    masked = net.half(_HIDDEN)
    first = net.op("Gemm", x, net.weight(_WIDTH, _HIDDEN, masked=masked, axis=1), net.weight(_HIDDEN, masked=masked))
    return net.op("Gemm", net.op("Relu", first), net.weight(_HIDDEN, _WIDTH), net.weight(_WIDTH))


KINDS: dict[str, tuple[Callable[[Network, str], str], list[int | str]]] = {
    "tokens": (_tokens, ["batch", "sequence", _WIDTH]),
    "images": (_image, ["batch", _WIDTH, 8, 8]),
    "dense": (_dense, ["batch", _WIDTH]),
}


def build(kind: str, nodes: int) -> onnx.ModelProto:
    """Return a graph of about so many nodes."""
    block, shape = KINDS[kind]
    net, x = Network(), "input"
    while len(net.nodes) < nodes:
        x = block(net, x)
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info(x, TensorProto.FLOAT, shape)]
    graph = helper.make_graph(net.nodes, kind, inputs, outputs, net.tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def seconds(path: Path, tree: Path, folder: Path) -> float:
    """Return the CPU seconds that minimizing a file takes with the package of a checkout."""
    start = f"import sys; sys.path.insert(0, {str(tree)!r}); from onnxsqueeze.__main__ import main; main()"
    command = [sys.executable, "-c", start, "minimize", str(path), "-o", str(folder / "out.onnx"), "--force", "--quiet"]
    return run_child([*command, "--no-verify"], folder, folder / "bytecode" / tree.name).processor_seconds


@click.command()
@click.option("--nodes", type=int, multiple=True, default=(5000, 20000), show_default=True, help="Numbers of nodes.")
@click.option("--kind", "kinds", type=click.Choice(list(KINDS)), multiple=True, default=list(KINDS), help="What of.")
@click.option("--against", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Another checkout.")
@click.option("--rounds", type=click.IntRange(1), default=2, show_default=True, help="Runs of each.")
def main(nodes: tuple[int, ...], kinds: tuple[str, ...], against: Path | None, rounds: int) -> None:
    """Measure the time that graphs of many small nodes take."""
    trees = [ROOT, *([against.resolve()] if against else [])]
    table = Table("graph", "nodes", "CPU s", "exponent", *(["before CPU s", "ratio"] if against else []))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for kind in kinds:
            taken: list[tuple[int, list[float]]] = []
            for count in (_FEW, *sorted(nodes)):
                model = build(kind, count)
                onnx.save(model, folder / "in.onnx")
                runs = [[seconds(folder / "in.onnx", tree, folder) for tree in trees] for _ in range(rounds + 1)]
                taken.append((len(model.graph.node), [min(times) for times in zip(*runs, strict=True)]))
                if count != _FEW:
                    table.add_row(kind, *_cells(taken))
    Console(width=100).print(table)


def _cells(taken: list[tuple[int, list[float]]]) -> list[str]:
    """Return a row of the table: what the last graph took beyond what any run costs."""
    own = [(count, [time - few for time, few in zip(times, taken[0][1], strict=True)]) for count, times in taken[1:]]
    count, times = own[-1]
    exponent = ""
    if len(own) > 1:
        exponent = f"{math.log(times[0] / own[-2][1][0]) / math.log(count / own[-2][0]):.2f}"
    ratio = [f"{times[1]:.2f}", f"{times[1] / times[0]:.2f}"] if len(times) > 1 else []
    return [f"{count:,}", f"{times[0]:.2f}", exponent, *ratio]


if __name__ == "__main__":
    main()
