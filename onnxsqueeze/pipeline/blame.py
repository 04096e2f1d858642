"""Whose fault an error is that nobody foresaw: the model's, where onnxruntime does not take it either."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.errors import InvalidModelError, SqueezeError, UsageError
from onnxsqueeze.model.model import Model
from onnxsqueeze.rules.lessons import Failure


@contextmanager
def judged(model: Model) -> Iterator[None]:
    """Blame the model for an error that nobody foresaw if onnxruntime does not load it either.

    The checker of the onnx package lets through what no runtime takes: shapes that do not fit each other, attributes
    of a wrong length, inputs that are missing.

    Raises:
        InvalidModelError: with onnxruntime's reason.
    """
    try:
        yield
    except (SqueezeError, MemoryError):
        raise
    except Exception:
        check_loads(model)
        raise


@contextmanager
def blamed_on(model: Model, analysis: Analysis) -> Iterator[None]:
    """Blame the model where verification fails because onnxruntime does not load it, or cannot run one of its nodes.

    Raises:
        InvalidModelError: with onnxruntime's reason.
    """
    from onnxsqueeze.verification.report import VerificationError

    try:
        yield
    except VerificationError as error:
        if not error.report.crashed:
            check_loads(model)
        raise
    except UsageError:
        from onnxsqueeze.rules.runnable import cannot_run, unrunnable

        if found := unrunnable(analysis.graph.nodes, analysis.context):
            raise _invalid(model, cannot_run(*found)) from None
        raise


def check_loads(model: Model) -> None:
    """Refuse a model that onnxruntime does not load.

    Raises:
        InvalidModelError: with its reason.
    """
    from onnxsqueeze.rules.runnable import why_not_loaded

    if reason := why_not_loaded(model):
        raise _invalid(model, f"onnxruntime does not load it: {reason}")


def check_runs(model: Model, failures: Sequence[Failure]) -> None:
    """Refuse a model of whose main graph, which runs as a whole, onnxruntime cannot run a node.

    Raises:
        InvalidModelError: with its reason.
    """
    for failure in failures:
        if failure.refused:
            raise _invalid(model, f"onnxruntime cannot run {failure.operator} ({failure.node}): {failure.refused}")


def _invalid(model: Model, reason: str) -> InvalidModelError:
    where = "" if model.path is None else f"{model.path}: "
    return InvalidModelError(f"{where}{reason}; export it again or repair it")
