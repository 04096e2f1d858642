"""Measure memory and time for large files: Llama-shaped models with external data, against ``cp``.

    python tools/measure/measure_size.py                      # 1, 3 and 6 GB, with and without verification
    python tools/measure/measure_size.py --gigabytes 1 --no-verify

Peak memory is what `/proc` says of the process and what it starts: *private*, what cannot be had again from a file
(RssAnon), and *resident*, with pages of mapped files that the system takes back when it needs them (VmRSS). Half of the
intermediate units of every layer are masked. Needs Linux, and free space of three times the size in --folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper
from rich.console import Console
from rich.table import Table

WIDTH, HIDDEN, WORDS = 2048, 5632, 32000
_LAYER = 4 * WIDTH * WIDTH + 3 * WIDTH * HIDDEN
_SCALE = 0.2  # of what keeps a layer's variance: without norms the stream would grow beyond float32
_GIGABYTE, _BYTES = 10**9, 4
_SMALL = Path(__file__).resolve().parents[2] / "models" / "mlp.onnx"
_EVERY = 0.05  # seconds between two looks at a process


def build(folder: Path, gigabytes: float) -> Path:
    """Write a model of about so many bytes, one tensor at a time, and return its path."""
    layers = max(1, round((gigabytes * _GIGABYTE / _BYTES - WORDS * WIDTH) / _LAYER))
    random = np.random.default_rng(0)
    path, tensors, nodes = folder / "llama.onnx", [], []
    with open(folder / "llama.data", "wb") as data:

        def stored(name: str, array: np.ndarray) -> str:
            offset = data.tell()
            array.tofile(data)
            tensor = TensorProto(name=name, dims=array.shape, data_type=TensorProto.FLOAT)
            tensor.data_location = TensorProto.EXTERNAL
            entries = (("location", "llama.data"), ("offset", offset), ("length", array.nbytes))
            for key, value in entries:
                tensor.external_data.add(key=key, value=str(value))
            tensors.append(tensor)
            return name

        def weight(name: str, rows: int, columns: int, masked: np.ndarray | None = None, axis: int = 1) -> str:
            array = random.standard_normal((rows, columns), dtype=np.float32) * np.float32(_SCALE / rows**0.5)
            if masked is not None:
                array[(slice(None),) * axis + (masked,)] = 0
            return stored(name, array)

        x = "hidden_0"
        nodes.append(helper.make_node("Gather", [weight("embedding", WORDS, WIDTH), "tokens"], [x]))
        for number in range(layers):
            masked = random.permutation(HIDDEN)[: HIDDEN // 2]
            nodes += _layer(f"layers.{number}", x, weight, masked)
            x = f"layers.{number}.out"
    inputs = [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "sequence"])]
    outputs = [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["batch", "sequence", WIDTH])]
    graph = helper.make_graph(nodes, "llama", inputs, outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def _layer(name: str, x: str, weight: object, masked: np.ndarray) -> Iterator[NodeProto]:
    """Attention with one head, and a gated feed-forward part, both added to the stream."""

    def node(op: str, inputs: list[str], output: str, **attributes: object) -> NodeProto:
        read = [each if each == x else f"{name}.{each}" for each in inputs]
        return helper.make_node(op, read, [f"{name}.{output}"], **attributes)

    for part in "qkvo":
        weight(f"{name}.w{part}", WIDTH, WIDTH)
    for part, rows, columns, axis in (("gate", WIDTH, HIDDEN, 1), ("up", WIDTH, HIDDEN, 1), ("down", HIDDEN, WIDTH, 0)):
        weight(f"{name}.w{part}", rows, columns, masked, axis)
    yield from (node("MatMul", [x, f"w{part}"], part) for part in "qkv")
    yield node("Transpose", ["k"], "kt", perm=[0, 2, 1])
    yield node("MatMul", ["q", "kt"], "scores")
    yield node("Softmax", ["scores"], "shares", axis=-1)
    yield node("MatMul", ["shares", "v"], "mixed")
    yield node("MatMul", ["mixed", "wo"], "attended")
    yield node("Add", [x, "attended"], "middle")
    yield node("MatMul", ["middle", "wgate"], "gate")
    yield node("MatMul", ["middle", "wup"], "up")
    yield node("Sigmoid", ["gate"], "open")
    yield node("Mul", ["gate", "open"], "swish")
    yield node("Mul", ["swish", "up"], "product")
    yield node("MatMul", ["product", "wdown"], "fed")
    yield node("Add", ["middle", "fed"], "out")


def watched(command: list[str], **variables: str) -> tuple[float, float, float, float]:
    """Run a command; return seconds by the clock, seconds of CPU, and peak private and resident gigabytes."""
    began, before = time.monotonic(), os.times()
    process = subprocess.Popen(command, env={**os.environ, **variables})
    private = resident = 0
    while process.poll() is None:
        sums = [_memory(pid) for pid in _family(process.pid)]
        private = max(private, sum(each[0] for each in sums))
        resident = max(resident, sum(each[1] for each in sums))
        time.sleep(_EVERY)
    if process.returncode:
        raise click.ClickException(f"{' '.join(command)} ended with {process.returncode}")
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - began, used, private / _GIGABYTE, resident / _GIGABYTE


def _memory(pid: int) -> tuple[int, int]:
    """Return a process's private and resident bytes; nothing where it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon", "VmRSS"))}
    return found.get("RssAnon", 0), found.get("VmRSS", 0)


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    return [pid, *(other for child in children for other in _family(int(child)))]


@click.command()
@click.option("--gigabytes", type=float, multiple=True, default=(1, 3, 6), show_default=True, help="Sizes.")
@click.option("--verify/--no-verify", default=None, help="Only with, or only without.  [default: both]")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to write.  [default: a temporary one]")
def main(gigabytes: tuple[float, ...], verify: bool | None, folder: Path | None) -> None:
    """Measure memory and time for large files."""
    table = Table("file", "GB", "how", "seconds", "CPU s", "of cp's", "CPU of cp's", "private GB", "resident GB")
    for size in gigabytes:
        with tempfile.TemporaryDirectory(dir=folder) as made:
            path = build(Path(made), size)
            data = path.with_suffix(".data")
            real = (path.stat().st_size + data.stat().st_size) / _GIGABYTE
            copied = watched(["cp", str(data), str(data.with_suffix(".copy"))])
            data.with_suffix(".copy").unlink()
            table.add_row(f"{size:g} GB", f"{real:.2f}", "cp", *(f"{each:.2f}" for each in copied[:2]), "1.0", "1.0")
            for verified in (False, True) if verify is None else (verify,):
                clock, used, private, resident = _minimized(path, verified, Path(made))
                numbers = (clock, used, clock / copied[0], used / copied[1], private, resident)
                how = "verified" if verified else "not verified"
                table.add_row("", "", how, *(f"{each:.2f}" for each in numbers))
                print(f"{size:g} GB, {how}: {clock:.1f} s, {private:.2f} GB private", file=sys.stderr, flush=True)
    Console(width=120).print(table)


def _minimized(path: Path, verified: bool, folder: Path) -> tuple[float, float, float, float]:
    """Minimize a file, and remove what comes of it; Python keeps what it compiled, as it does of what is installed."""
    variables = {"PYTHONPYCACHEPREFIX": str(folder / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
    how = [] if verified else ["--no-verify"]
    found = (0.0,) * 4
    for source in (_SMALL, path):  # the first for the bytecode
        (target := folder / "out").mkdir()
        command = [sys.executable, "-m", "onnxsqueeze", "minimize", str(source), "-o", str(target / "out.onnx")]
        found = watched([*command, "--quiet", *how], **variables)
        shutil.rmtree(target)
    return found


if __name__ == "__main__":
    main()
