"""Measure what a narrowed GroupNormalization costs: why it is written as its definition.

Half of the channels of each group are removed from an image. Every form is timed against the wide normalization as
exporters write it before opset 21, an InstanceNormalization of the groups with a scale and a bias of the channels:

- operator: the wide GroupNormalization of opset 21;
- plain: the exporters' form over what is left, which is another function: what a small network would cost;
- definition: mean and variance over the original width, as the minimizer writes them;
- representative: the exporters' form over one channel more in each group, from which factors and shifts follow.

    python tools/measure/measure_group_norm.py                   # one thread, half a minute
    python tools/measure/measure_group_norm.py --rounds 60 --json out.json
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click
import numpy as np
import onnx
import onnxruntime as ort

from tools.measure.layer_stacks import Stack
from tools.measure.measure_layer_norm import session_for
from tools.measure.timing import relative_times, vector_width, write_ratios

CASES = ((64, 32, 32), (128, 32, 32), (256, 32, 32), (320, 32, 32), (64, 8, 32), (320, 32, 8))
"""(channels of the wide image, groups, extent of the image)"""
FORMS = ("operator", "plain", "definition", "representative")


def exported(stack: Stack, groups: int) -> tuple[str, str]:
    """Normalize groups as exporters do; return that by group and as an image, without scale and bias."""
    split = stack.op("Reshape", "input", stack.constant(np.array([0, groups, -1])))
    ones, zeros = (stack.constant(np.full(groups, value, np.float32)) for value in (1, 0))
    normal = stack.op("InstanceNormalization", split, ones, zeros)
    return normal, stack.op("Reshape", normal, stack.op("Shape", "input"))


def operator(stack: Stack, channels: int, groups: int) -> str:
    """Add the operator."""
    parameters = [stack.weight(channels), stack.weight(channels)]
    return stack.op("GroupNormalization", "input", *parameters, num_groups=groups)


def plain(stack: Stack, channels: int, groups: int) -> str:
    """Add the exporters' form."""
    image = exported(stack, groups)[1]
    return stack.op("Add", stack.op("Mul", image, stack.weight(channels, 1, 1)), stack.weight(channels, 1, 1))


def representative(stack: Stack, channels: int, groups: int) -> str:
    """Let one channel of each group stand for those that left; weights are random, the cost is real."""
    normal, image = exported(stack, groups)
    bounds = [stack.constant(np.array([value])) for value in (0, 1, 2)]
    chosen = stack.op("Slice", normal, *bounds)
    root = stack.op("Sqrt", stack.op("Add", stack.op("Mul", chosen, chosen), stack.number(0.5)))
    factors = stack.op("Div", stack.weight(groups, channels // groups), root)
    drift = stack.op("Mul", factors, stack.op("Mul", chosen, stack.number(0.5)))
    shifts = stack.op("Sub", stack.weight(groups, channels // groups), drift)
    shape = stack.constant(np.array([0, channels, 1, 1]))
    factor, shift = (stack.op("Reshape", values, shape) for values in (factors, shifts))
    return stack.op("Add", stack.op("Mul", image, factor), shift)


def definition(stack: Stack, channels: int, groups: int) -> str:
    """Add what the minimizer writes."""
    split = stack.op("Reshape", "input", stack.constant(np.array([0, groups, -1])))
    axes = stack.constant(np.array([2]))
    mean = stack.op("Mul", stack.op("ReduceMean", split, axes), stack.number(0.5))
    mean = stack.op("Add", mean, stack.weight(groups, 1))
    centred = stack.op("Sub", split, mean)
    squares = stack.op("ReduceMean", stack.op("Mul", centred, centred), axes)
    gap = stack.op("Sub", mean, stack.weight(groups, 1))
    outside = stack.op("Mul", stack.op("Mul", gap, gap), stack.number(0.5))
    variance = stack.op("Add", stack.op("Mul", squares, stack.number(0.5)), outside)
    root = stack.op("Sqrt", stack.op("Add", variance, stack.number(1e-5)))
    factors = stack.op("Div", stack.weight(groups, channels // groups), root)
    factor = stack.op("Reshape", factors, stack.constant(np.array([0, channels, 1, 1])))
    image = stack.op("Reshape", centred, stack.op("Shape", "input"))
    return stack.op("Add", stack.op("Mul", image, factor), stack.weight(channels, 1, 1))


def model(form: str, channels: int, groups: int, extent: int) -> onnx.ModelProto:
    """Return one normalization of an image."""
    stack = Stack((1, channels, extent, extent), opset=21)
    write = {"operator": operator, "plain": plain, "definition": definition, "representative": representative}
    return stack.model(write[form](stack, channels, groups))


def measure(channels: int, groups: int, extent: int, rounds: int) -> list[float]:
    """Return the milliseconds of the wide exporters' form, and the ratio of every other to it."""
    left = max(1, channels // groups // 2) * groups
    widths = {"operator": channels, "plain": left, "definition": left, "representative": left + groups}
    runs = []
    for form, width in (("plain", channels), *((form, widths[form]) for form in FORMS)):
        feed = {"input": np.random.default_rng(0).standard_normal((1, width, extent, extent), dtype=np.float32)}
        runs.append(partial(session_for(model(form, width, groups, extent)).run, None, feed))
    return relative_times(runs, rounds)


@click.command()
@click.option("--rounds", type=click.IntRange(min=3), default=20, show_default=True, help="Rounds of each timing.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Also write numbers here.")
def main(rounds: int, json_path: Path | None) -> None:
    """Print the latency of every form relative to the wide normalization's."""
    title = f"{vector_width()}, onnxruntime {ort.__version__}, one thread; ratios to the wide normalization"
    rows = ((*case, *measure(*case, rounds)) for case in CASES)
    write_ratios(title, ("channels", "groups", "extent"), FORMS, rows, json_path)


if __name__ == "__main__":
    main()
