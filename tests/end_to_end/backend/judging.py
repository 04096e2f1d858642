"""What is asked of one case: that it comes back right, valid, no larger, and with the signature it had."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod

import onnx
import onnx.checker
from onnx import AttributeProto, GraphProto, ModelProto

import onnxsqueeze as sq
from onnxsqueeze.errors import SqueezeError

from .cases import Case, Run, fed_inputs, load_cases
from .masking import FREE_INITIALIZERS, SHIPPED, variant_of
from .running import ENGINES, OnnxRuntime, Reference, difference

Engine = type[OnnxRuntime] | type[Reference]

BEFORE = "original"  # the stage at which nothing of ours has run yet


@dataclass(frozen=True)
class Outcome:
    """What became of one variant of one case.

    Attributes:
        key: suite and name.
        variant: as shipped, or masked in some way.
        failure: the kind of failure, "" if there is none.
        message: the first line of the error; without failure, why the outputs were not compared.
        engine: what ran the model for its outputs to be compared, "" if they were not.
        before, after: the weight elements of the original and of the minimized model.
    """

    key: str
    variant: str
    failure: str = ""
    message: str = ""
    engine: str = ""
    before: int = 0
    after: int = 0


@dataclass(frozen=True)
class _Failure(Exception):
    kind: str
    message: str


Stage = Callable[[str], None]
Inspect = Callable[[str, ModelProto], None]


def judge(
    key: str, variant: str, stage: Stage = lambda name: None, inspect: Inspect = lambda name, model: None
) -> Outcome:
    """Minimize one variant of one case and check it.

    Args:
        key: the case.
        variant: one of VARIANTS.
        stage: told what comes next, so that whoever watches knows at what a process died.
        inspect: given the original and the minimized model.
    """
    stage(BEFORE)
    outcome = Outcome(key, variant)
    case = variant_of(load_cases()[key], variant)
    if case is None:
        return replace(outcome, message="the same as another variant")
    inspect("original", case.model)
    case, engine, reason = _expected(case)
    if engine is None and variant != SHIPPED:
        return replace(outcome, message=reason)
    try:
        minimized = _minimized(case, stage)
        inspect("minimized", minimized)
        _check_structure(case.model, minimized)
        if engine is not None:
            stage("minimized")
            _check_outputs(case, minimized, engine)
    except _Failure as failure:
        return replace(outcome, failure=failure.kind, message=failure.message)
    sizes = _elements(case.model.graph), _elements(minimized.graph)
    return replace(outcome, message=reason, engine=engine.__name__ if engine else "", before=sizes[0], after=sizes[1])


def _expected(case: Case) -> tuple[Case, Engine | None, str]:
    """Return the case with the outputs expected of it, what runs it right, and if nothing does, why not.

    Of a masked model the original itself says what is expected.
    """
    reasons = []
    for engine in ENGINES:
        try:
            session = engine(case.model)
            found = [session.run(run.feeds) for run in case.runs]
        except Exception as error:  # the engines' have no common base
            reasons.append(f"{engine.__name__}: {_line(error)}")
            continue
        runs = [Run(run.feeds, run.expected or outputs) for run, outputs in zip(case.runs, found, strict=True)]
        pairs = zip(runs, found, strict=True)
        if not (why := "".join(difference(run.expected, outputs, case.rtol, case.atol) for run, outputs in pairs)):
            return replace(case, runs=runs), engine, ""
        reasons.append(f"{engine.__name__}: {why}")
    return case, None, "; ".join(reasons)


def _minimized(case: Case, stage: Stage) -> ModelProto:
    given = case.model.SerializeToString(deterministic=True)
    stage("minimize")
    try:
        minimized = sq.minimize(case.model, round_to=1, verify=False).model
    except SqueezeError as error:
        if _is_valid(case.model, full=False):
            raise _Failure("refused", _line(error)) from None
        return case.model
    except Exception as error:
        raise _Failure("crashed", f"{_line(error)} {_place(error)}") from error
    if case.model.SerializeToString(deterministic=True) != given:
        raise _Failure("argument changed", "the model that was given is another one now")
    return minimized


def _check_structure(original: ModelProto, minimized: ModelProto) -> None:
    if _signature(original) != _signature(minimized):
        raise _Failure("signature changed", _first_change(original, minimized))
    before, after = _elements(original.graph), _elements(minimized.graph)
    if after > before and minimized.ByteSize() > original.ByteSize():  # what a branch computed may be stored instead
        raise _Failure("grew", f"{before} weight elements became {after}")
    for full in (True, False):
        if _is_valid(original, full):
            try:
                onnx.checker.check_model(minimized, full_check=full)
            except Exception as error:  # the checker lets errors of several C++ types through
                raise _Failure("invalid", _line(error)) from None
            return


def _check_outputs(case: Case, minimized: ModelProto, engine: Engine) -> None:
    try:
        session = engine(minimized)
    except Exception as error:  # the engines' have no common base
        raise _Failure("invalid", _line(error)) from None
    for run in case.runs:
        try:
            found = session.run(run.feeds)
        except Exception as error:
            raise _Failure("wrong", _line(error)) from None
        why = difference(run.expected, found, case.rtol, case.atol)
        if why and _is_repeatable(case, run, engine):
            raise _Failure("wrong", why)


def _is_repeatable(case: Case, run: Run, engine: Engine) -> bool:
    """Say whether the original gives the same twice, which one with random numbers in it does not."""
    return not difference(run.expected, engine(case.model).run(run.feeds), case.rtol, case.atol)


def _is_valid(model: ModelProto, full: bool) -> bool:
    try:
        onnx.checker.check_model(model, full_check=full)
    except Exception:  # the checker lets errors of several C++ types through
        return False
    return True


def _signature(model: ModelProto) -> list[bytes]:
    """Return inputs and outputs to the byte; where initializers had to be inputs as well, only those that are fed."""
    listed = model.ir_version < FREE_INITIALIZERS
    inputs = fed_inputs(model) if listed else model.graph.input
    return [info.SerializeToString(deterministic=True) for info in (*inputs, *model.graph.output)]


def _first_change(original: ModelProto, minimized: ModelProto) -> str:
    before, after = map(_signature, (original, minimized))
    if len(before) != len(after):
        return f"{len(before)} inputs and outputs became {len(after)}"
    old, new = next(pair for pair in zip(before, after, strict=True) if pair[0] != pair[1])
    texts = (" ".join(str(onnx.ValueInfoProto.FromString(text)).split()) for text in (old, new))
    return " became ".join(texts)


def _elements(graph: GraphProto) -> int:
    """Count the elements of all stored tensors: initializers and Constant nodes, those of subgraphs included."""
    count: int = sum(prod(tensor.dims) for tensor in graph.initializer)
    count += sum(prod(sparse.values.dims) for sparse in graph.sparse_initializer)
    for node in graph.node:
        for attribute in node.attribute:
            count += _attribute_elements(attribute, node.op_type)
    return count


def _attribute_elements(attribute: AttributeProto, op_type: str) -> int:
    count = sum(map(_elements, _graphs(attribute)))
    if op_type == "Constant":
        count += len(attribute.floats) + len(attribute.ints) + (attribute.type == AttributeProto.FLOAT)
        count += prod(attribute.t.dims) if attribute.HasField("t") else 0
    return count


def _graphs(attribute: AttributeProto) -> Iterator[GraphProto]:
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"


def _place(error: Exception) -> str:
    """Say where in our own code an error came up."""
    ours = os.sep + sq.__name__ + os.sep
    frame = [frame for frame in traceback.extract_tb(error.__traceback__) if ours in frame.filename][-1]
    return f"({frame.filename.rpartition('/')[2]}:{frame.lineno} in {frame.name})"
