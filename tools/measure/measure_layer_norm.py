"""Measure what a narrowed LayerNormalization costs: the numbers behind the cost policy of `--round-to auto`.

Four residual blocks (LayerNormalization, MatMul, GELU, MatMul, Add) stand over a stream of N channels of which some are
removed. Every form is timed against the wide blocks, whose MLPs are as narrow, so that only the stream differs:

- plain: a LayerNormalization over what is left, which is another function: what a small network would cost;
- stock: the standard operator and a factor per row, as `--layernorm stock` writes it;
- primitives: the definition over the original width, as `--layernorm primitives` writes it;
- centred: an RMS normalization of a stream that was centred once and for all, over one channel more.

    python tools/measure/measure_layer_norm.py                   # one thread, about two minutes
    python tools/measure/measure_layer_norm.py --rounds 60 --json out.json
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click
import numpy as np
import onnx
import onnxruntime as ort

from tools.measure.layer_stacks import Stack
from tools.measure.timing import relative_times, vector_width, write_ratios

CASES = (
    (3136, 192, 96),
    (197, 192, 96),
    (197, 192, 176),
    (1568, 384, 230),
    (128, 768, 384),
    (128, 768, 720),
    (64, 128, 64),
    (64, 96, 48),
    (64, 64, 32),
)
"""(rows, channels of the wide stream, channels left)"""
FORMS = ("plain", "stock", "primitives", "centred")
DEPTH = 4


def normalized(stack: Stack, source: str, width: int, original: int, form: str) -> str:
    """Add a normalization of ``width`` present channels of ``original``; the weights are random, the cost is real."""
    scale, share = stack.weight(width), width / original
    if form == "plain":
        return stack.op("LayerNormalization", source, scale, stack.weight(width), axis=-1)
    if form == "centred":
        return stack.op("SimplifiedLayerNormalization", source, scale, axis=-1)
    if form == "stock":
        normal = stack.op("LayerNormalization", source, scale, axis=-1)
        place = stack.constant(np.array([width // 2]))
        chosen = stack.op("Gather", normal, place, axis=2)
        square = stack.op("Mul", chosen, chosen)
        return stack.op("Div", normal, stack.op("Sqrt", stack.op("Add", square, stack.number(share))))
    axes = stack.constant(np.array([-1]))
    mean = stack.op("Mul", stack.op("ReduceMean", source, axes), stack.number(share))
    centred = stack.op("Sub", source, mean)
    squares = stack.op("ReduceMean", stack.op("Mul", centred, centred), axes)
    outside = stack.op("Mul", stack.op("Mul", mean, mean), stack.number(1 - share))
    variance = stack.op("Add", stack.op("Mul", squares, stack.number(share)), outside)
    deviation = stack.op("Sqrt", stack.op("Add", variance, stack.number(1e-5)))
    scaled = stack.op("Mul", stack.op("Div", centred, deviation), scale)
    return stack.op("Add", scaled, stack.weight(width))


def blocks(rows: int, width: int, hidden: int, original: int, form: str) -> onnx.ModelProto:
    """Four residual blocks over a stream of ``width`` channels."""
    stack = Stack((1, rows, width), opset=20)
    stream = "input"
    for _ in range(DEPTH):
        inner = stack.op("MatMul", normalized(stack, stream, width, original, form), stack.weight(width, hidden))
        inner = stack.op("Gelu", stack.op("Add", inner, stack.weight(hidden)))
        outer = stack.op("MatMul", inner, stack.weight(hidden, width))
        stream = stack.op("Add", stream, stack.op("Add", outer, stack.weight(width)))
    return stack.model(stream)


def session_for(model: onnx.ModelProto) -> ort.InferenceSession:
    """Load a model for one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def measure(rows: int, original: int, left: int, rounds: int) -> list[float]:
    """Return the milliseconds of the wide blocks, and the ratio of every form to them."""
    hidden = 4 * left
    widths = {form: left if form in ("plain", "primitives") else left + 1 for form in FORMS}
    models = [(original, blocks(rows, original, hidden, original, "plain"))]
    models += [(width, blocks(rows, width, hidden, original, form)) for form, width in widths.items()]
    runs = []
    for width, model in models:
        feed = {"input": np.random.default_rng(0).standard_normal((1, rows, width), dtype=np.float32)}
        runs.append(partial(session_for(model).run, None, feed))
    return relative_times(runs, rounds)


@click.command()
@click.option("--rounds", type=click.IntRange(min=3), default=20, show_default=True, help="Rounds of each timing.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Also write numbers here.")
def main(rounds: int, json_path: Path | None) -> None:
    """Print the latency of every form relative to the wide stream's."""
    title = f"{vector_width()}, onnxruntime {ort.__version__}, one thread; ratios to the wide blocks"
    rows = ((*case, *measure(*case, rounds)) for case in CASES)
    write_ratios(title, ("rows", "channels", "left"), FORMS, rows, json_path)


if __name__ == "__main__":
    main()
