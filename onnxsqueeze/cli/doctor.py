"""`onnxsqueeze doctor`: what is installed here, which runtimes can be used, and whether the minimizer does its work."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click

from onnxsqueeze._version import __version__
from onnxsqueeze.errors import SqueezeError, one_line

_PACKAGES = ("numpy", "onnx", "onnxruntime", "onnx-graphsurgeon", "protobuf", "click", "rich")
_EXTRAS = {"train": "torch", "report": "jinja2", "plot": "matplotlib"}


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, whether it is there, and its version or what to type to get it."""

    part: str
    name: str
    found: bool
    text: str


@click.command(short_help="Say what is installed here, and whether it works.")
def doctor() -> None:
    """Say which versions and runtimes are installed here, and test the minimizer on a small network.

    Exit code 0 if the test passes, else 1; a runtime that is missing is no failure.
    """
    findings = [*_versions(), *_runtimes(), _self_test()]
    part = ""
    for finding in findings:
        if finding.part != part:
            part = finding.part
            click.echo(f"\n{part}" if finding is not findings[0] else part)
        click.echo(f"  {'✓' if finding.found else '·'} {finding.name:<20} {finding.text}")
    if not findings[-1].found:
        raise SqueezeError(f"the self-test failed: {findings[-1].text}")


def _versions() -> Iterator[Finding]:
    yield Finding("packages", "onnxsqueeze", True, __version__)
    yield Finding("packages", "Python", True, f"{platform.python_version()}, {platform.system()} {platform.machine()}")
    for name in _PACKAGES:
        yield _version("packages", name, name, "missing: pip install onnxsqueeze")
    for extra, name in _EXTRAS.items():
        yield _version("extras", extra, name, f"pip install 'onnxsqueeze[{extra}]'")


def _version(part: str, label: str, name: str, otherwise: str) -> Finding:
    try:
        return Finding(part, label, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(part, label, False, otherwise)


def _runtimes() -> Iterator[Finding]:
    from onnxsqueeze.runtimes import RUNTIMES, NotInstalledError

    for name, runtime in RUNTIMES.items():
        try:
            text = ", ".join(f"{part} {version}" for part, version in runtime.versions().items())
            yield Finding("runtimes", name, True, text)
        except NotInstalledError:
            yield Finding("runtimes", name, False, runtime.install)


def _self_test() -> Finding:
    """Minimize a network of which half can go, and compare it with itself in onnxruntime."""
    import onnxsqueeze

    started = time.perf_counter()
    try:
        report = onnxsqueeze.minimize(_network(), round_to=1).report
    except Exception as error:
        return Finding("self-test", "minimize", False, f"{type(error).__name__}: {one_line(error)}")
    seconds = time.perf_counter() - started
    verified = report.verification is not None and report.verification.passed
    right = report.layers[0].shape_after == (8, 4) and verified
    return Finding("self-test", "minimize", right, f"{report.ratio:.2f} times smaller, verified, in {seconds:.2f} s")


def _network() -> Any:
    """Return two layers with eight units between them, of which four are constant."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    first, second = (random.standard_normal(shape).astype(np.float32) for shape in ((8, 8), (8, 3)))
    first[:, ::2] = 0
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["m"]),
        helper.make_node("Add", ["m", "bias"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "second"], ["y"]),
    ]
    stored = {"first": first, "bias": random.standard_normal(8).astype(np.float32), "second": second}
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", size]) for n, size in (("x", 8), ("y", 3)))
    initializers = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "self-test", [x], [y], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
