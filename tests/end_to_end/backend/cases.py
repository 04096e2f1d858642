"""The cases: models with inputs and expected outputs, as the installed onnx package carries them."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test
from onnx import ModelProto, OptionalProto, SequenceProto, TensorProto, TypeProto, ValueInfoProto, numpy_helper

DATA = Path(onnx.backend.test.__file__).parent / "data"
FOLDERS = ("simple", "pytorch-converted", "pytorch-operator")
SUITES = ("light", "node", *FOLDERS)

Value = Any
"""What goes in and comes out: an array, a list of arrays for a sequence, None for an absent optional."""


@dataclass(frozen=True)
class Run:
    """Inputs by name, and the outputs that are expected of them in the graph's order."""

    feeds: dict[str, Value]
    expected: list[Value]


@dataclass(frozen=True)
class Case:
    """A model, its runs, and how near an output must come to what is expected."""

    suite: str
    name: str
    model: ModelProto
    runs: list[Run]
    rtol: float = 1e-3
    atol: float = 1e-7

    @property
    def key(self) -> str:
        """A name that no other case has."""
        return f"{self.suite}/{self.name}"


@functools.cache
def load_cases() -> dict[str, Case]:
    """Return all cases by key, the slow ones first."""
    cases = [*_light_cases(), *_node_cases()]
    for suite in FOLDERS:
        cases += [_folder_case(suite, folder) for folder in sorted((DATA / suite).iterdir()) if folder.is_dir()]
    return {case.key: case for case in cases}


def fed_inputs(model: ModelProto) -> list[ValueInfoProto]:
    """Return the inputs that have no initializer."""
    stored = {tensor.name for tensor in model.graph.initializer}
    stored |= {sparse.values.name for sparse in model.graph.sparse_initializer}
    return [info for info in model.graph.input if info.name not in stored]


def _node_cases() -> Iterator[Case]:
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the generators overflow and divide by zero on purpose
        found = load_model_tests(kind="node")
    for case in found:
        assert case.model is not None and case.data_sets is not None  # only cases in folders come without
        runs = [_run(case.model, inputs, outputs) for inputs, outputs in case.data_sets]
        yield Case("node", case.name, case.model, runs, case.rtol, case.atol)


def _run(model: ModelProto, inputs: Sequence[Value], outputs: Sequence[Value]) -> Run:
    names = [info.name for info in fed_inputs(model)]
    return Run(dict(zip(names, map(_as_value, inputs), strict=True)), list(map(_as_value, outputs)))


def _as_value(given: Value) -> Value:
    """Turn what a generator made, tensors and numpy scalars among it, into what onnxruntime takes."""
    if isinstance(given, TensorProto):
        return numpy_helper.to_array(given)
    if given is None or isinstance(given, (list, tuple)):
        return given if given is None else [_as_value(item) for item in given]
    return np.asarray(given)


def _folder_case(suite: str, folder: Path) -> Case:
    model = onnx.load(folder / "model.onnx")
    settings = folder / "data.json"
    tolerances = json.loads(settings.read_text()) if settings.exists() else {}
    runs = []
    for data in sorted(folder.glob("test_data_set*")):
        inputs = _read_values(data, "input", fed_inputs(model))
        runs.append(_run(model, inputs, _read_values(data, "output", model.graph.output)))
    return Case(suite, folder.name, model, runs, tolerances.get("rtol", 1e-3), tolerances.get("atol", 1e-7))


def _read_values(folder: Path, kind: str, infos: Sequence[ValueInfoProto]) -> list[Value]:
    count = len(list(folder.glob(f"{kind}_*.pb")))
    return [_read_value(folder / f"{kind}_{index}.pb", infos[index].type) for index in range(count)]


def _read_value(path: Path, kind: TypeProto) -> Value:
    content = path.read_bytes()
    if kind.HasField("sequence_type"):
        return numpy_helper.to_list(SequenceProto.FromString(content))
    if kind.HasField("optional_type"):
        return numpy_helper.to_optional(OptionalProto.FromString(content))
    return numpy_helper.to_array(TensorProto.FromString(content))


def _light_cases() -> Iterator[Case]:
    for settings in sorted((DATA / "real").glob("*/data.json")):
        entry = json.loads(settings.read_text())
        path = DATA / "light" / Path(entry["url"]).name
        model = onnx.load(path)
        outputs = [
            _read_value(path.with_name(f"{path.stem}_output_{index}.pb"), info.type)
            for index, info in enumerate(model.graph.output)
        ]
        inputs = [_ramp(info) for info in fed_inputs(model)]
        yield Case("light", settings.parent.name, model, [_run(model, inputs, outputs)], entry["rtol"], entry["atol"])


def _ramp(info: ValueInfoProto) -> np.ndarray[Any, Any]:
    """Return the input that the outputs stored beside a light model belong to."""
    shape = [dim.dim_value or 1 for dim in info.type.tensor_type.shape.dim]
    count = int(np.prod(shape))
    return (np.arange(count).reshape(shape) / count).astype(np.float32)
