"""A smaller network that verification refuses costs the tensors that it was refused for, not the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape
from typing import Any

from onnxsqueeze.errors import InvalidModelError
from onnxsqueeze.model.model import Model
from onnxsqueeze.pipeline.minimize import Result, minimize
from onnxsqueeze.verification import verify
from onnxsqueeze.verification.report import VerificationError

_MOST_CULPRITS = 3


@dataclass(frozen=True)
class Accepted:
    """A network that computes what a masked one computes.

    Attributes:
        model: the smallest that was found to; the masked one itself if none was.
        pinned: the tensors that it took to be left whole, those of before included.
        refusal: why the first attempt was refused, "" if it was not.
    """

    model: Model
    pinned: tuple[str, ...]
    refusal: str = ""


def accepted(original: Model, path: str, pinned: Sequence[str], right: Model | None = None, **options: Any) -> Accepted:
    """Minimize a masked network and compare; where that is refused, leave whole what it was refused for.

    Which tensors those are is found by bisection over those that became narrower. It takes about as many minimizations
    as their number has binary digits, and happens only where the package is wrong.

    Args:
        original: the masked network. path: its file.
        pinned: tensors that earlier networks of the run had to leave whole; names that are gone do not count.
        right: another form that was compared before: what equals it is not compared again, and it stands in for a
            result where none is right; by default the masked network does.
        options: of `minimize`.
    """
    search = _Search(original, path, right, options)
    pins = [name for name in pinned if name in _names(original)]
    first = search.attempt(pins)
    if first.passed:
        return Accepted(first.model, tuple(pins))
    best, narrowed = right or original, first.narrowed
    for _ in range(_MOST_CULPRITS):
        found = search.culprit(pins, narrowed)
        if found is None:
            break
        culprit, best = found
        pins.append(culprit)
        alone = search.attempt(pins)
        if alone.passed:
            return Accepted(alone.model, tuple(pins), first.refusal)
    return Accepted(best, tuple(pins), first.refusal)


@dataclass(frozen=True)
class _Attempt:
    model: Model
    refusal: str
    narrowed: Sequence[str] = ()

    @property
    def passed(self) -> bool:
        return not self.refusal


@dataclass(frozen=True)
class _Search:
    original: Model
    path: str
    right: Model | None
    options: dict[str, Any]

    def attempt(self, pins: Sequence[str]) -> _Attempt:
        """Minimize with some tensors left whole, and compare."""
        try:
            result: Result = minimize(self.path, keep=[escape(name) for name in pins], verify=False, **self.options)
            if self.right is not None and _same(self.right, result.minimized):
                return _Attempt(result.minimized, "")
            report = verify(self.original, result.minimized)
        except (VerificationError, InvalidModelError) as error:
            return _Attempt(self.original, str(error))
        where = f" (first at {report.first_deviating})" if report.first_deviating else ""
        refusal = "" if report.passed else f"{report.reason}{where}"
        return _Attempt(result.minimized, refusal, tuple(result.plan.masks))

    def culprit(self, pins: Sequence[str], narrowed: Sequence[str]) -> tuple[str, Model] | None:
        """Return the tensor with which, the ones before it left whole as well, the result is right; and that result.

        None where no tensor is to blame.
        """
        wrong, right = 0, len(narrowed)
        best = self.attempt([*pins, *narrowed])
        if not best.passed:
            return None
        while right - wrong > 1:
            middle = (wrong + right) // 2
            attempt = self.attempt([*pins, *narrowed[:middle]])
            if attempt.passed:
                right, best = middle, attempt
            else:
                wrong = middle
        return (narrowed[right - 1], best.model) if narrowed else None


def _names(model: Model) -> set[str]:
    graph = model.skeleton.graph
    return {name for node in graph.node for name in node.output} | {value.name for value in graph.input}


def _same(one: Model, other: Model) -> bool:
    """Whether two models are equal to the last byte."""
    return (
        one.skeleton.SerializeToString(deterministic=True) == other.skeleton.SerializeToString(deterministic=True)
        and one.initializers.keys() == other.initializers.keys()
        and all(
            initializer.array.dtype == other.initializers[name].array.dtype
            and initializer.array.shape == other.initializers[name].array.shape
            and initializer.array.tobytes() == other.initializers[name].array.tobytes()
            for name, initializer in one.initializers.items()
        )
    )
