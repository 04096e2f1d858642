"""The algebra: what a layer loses when columns of its inputs leave, and the weights that lose least.

A layer computes ``W a + b`` of what it reads, ``a``. Once other layers have changed it reads another ``a`` than it did
in the original network, whose outputs remain the target. With H = E[a aᵀ] of what it reads now and C = E[a₀ aᵀ] between
the original's inputs and those, the best weights on the columns K alone are (W C)_K (H_KK)⁻¹, and removing a group g of
columns from the best weights on all costs tr(W_g ([H⁻¹]_gg)⁻¹ W_gᵀ) (Optimal Brain Surgeon, for groups). With a bias,
moments are central ones, and the bias takes up the means.

A ridge pulls the weights to the original ones, not to zero: where nothing changed the solution is the original.

A table by which a layer multiplies is read by rows elsewhere. What a changed row is off there counts as well: for row v
the matrix is H + p_v I, where p_v is how often it is looked up, in the units of the layer's outputs. One
eigendecomposition of H solves all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

RIDGES = (1e-10, 1e-7, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Relative to the mean of the diagonal; the one that errs least on samples that were not fitted is taken."""
SCORING_RIDGE = 1e-4
_LEAST_DIAGONAL = 1e-30
_ROUNDING = 1e-11  # of the mean square, well above what is lost when means are subtracted from it
_ROWS_AT_ONCE = 1024


@dataclass
class Moments:
    """Sums over what a layer reads: of products of its columns, of the columns, and with those of the original.

    Attributes:
        products: sum of a aᵀ, [n, n]. cross: sum of a₀ aᵀ, None where both networks read the same.
        total, total_before: sums of a and of a₀, [n]. count: how many rows were summed.
        power: sum of |W a₀|², where the original's inputs differ.
    """

    products: Floats
    total: Floats
    cross: Floats | None = None
    total_before: Floats | None = None
    count: int = 0
    power: float = 0.0
    _waiting: list[tuple[Floats, Floats | None]] = field(default_factory=list, repr=False)
    _weight: Floats | None = field(default=None, repr=False)

    @staticmethod
    def empty(columns: int, changed: bool) -> Moments:
        """Return sums of nothing; ``changed`` where the original network reads something else."""

        def zeros(*shape: int) -> Floats:
            return np.zeros(shape)

        if not changed:
            return Moments(zeros(columns, columns), zeros(columns))
        return Moments(zeros(columns, columns), zeros(columns), zeros(columns, columns), zeros(columns))

    def add(self, rows: Floats, before: Floats | None = None, weight: Floats | None = None) -> None:
        """Add rows [m, n]; where the original reads others at the same places, those too and its weight [out, n].

        They are summed up once there are many: a product of few rows takes hardly less time than one of many.
        """
        self._waiting.append((rows, before))
        self._weight = weight
        if sum(len(each) for each, _ in self._waiting) >= max(_ROWS_AT_ONCE, len(self.total)):
            self.flush()

    def flush(self) -> Moments:
        """Sum up what was added; return itself."""
        if not self._waiting:
            return self
        rows = np.concatenate([each for each, _ in self._waiting])
        self.products += rows.T @ rows
        self.total += rows.sum(axis=0)
        self.count += len(rows)
        if self.cross is not None and self.total_before is not None:
            assert self._weight is not None
            before = np.concatenate([each for _, each in self._waiting if each is not None])
            self.power += float(((before @ self._weight.T) ** 2).sum())
            self.cross += before.T @ rows
            self.total_before += before.sum(axis=0)
        self._waiting.clear()
        return self

    def plus(self, other: Moments) -> Moments:
        """Return the sums over both sets of rows."""
        both = Moments(self.products + other.products, self.total + other.total, count=self.count + other.count)
        if self.cross is not None and self.total_before is not None:
            assert other.cross is not None and other.total_before is not None
            both.cross, both.total_before = self.cross + other.cross, self.total_before + other.total_before
            both.power = self.power + other.power
        return both


@dataclass(frozen=True, eq=False)
class Problem:
    """One matrix that is to be repaired.

    Attributes:
        weight: the original's, [out, n]. bias: the original's, [out]; None where the layer can have none.
        moments: of the rows that are fitted.
        lookups: how often each row of the weight is looked up besides, [out]; None where it is no table.
    """

    weight: Floats
    bias: Floats | None
    moments: Moments
    lookups: Floats | None = None

    @property
    def columns(self) -> int:
        """How many columns the matrix has."""
        return int(self.weight.shape[1])

    @cached_property
    def pulls(self) -> Floats | None:
        """What a squared change of each row costs where it is looked up, [out]; None where it is no table.

        What the lookups are off, relative to the mean square of what they give, counts as much as what the layer's
        outputs are off, relative to their variance. Each row counts as if it had been looked up once more.
        """
        if self.lookups is None:
            return None
        often = (self.lookups + 1) / (self.lookups + 1).sum()
        given = float(often @ (self.weight**2).sum(axis=1))
        return np.asarray(often * (variance(self.weight, self.hessian()) / max(given, _LEAST_DIAGONAL)))

    def hessian(self) -> Floats:
        """Return E[a aᵀ], central where there is a bias."""
        found = self.moments
        mean = found.total / max(1, found.count)
        second = found.products / max(1, found.count)
        return second - np.outer(mean, mean) if self.bias is not None else second

    def power(self) -> float:
        """Return the mean square of the columns."""
        return float(np.trace(self.moments.products)) / max(1, self.moments.count * self.columns)

    def cross(self) -> Floats | None:
        """Return E[a₀ aᵀ], central where there is a bias; None where it is the same as `hessian`."""
        found = self.moments
        if found.cross is None or found.total_before is None:
            return None
        second, count = found.cross / max(1, found.count), max(1, found.count)
        if self.bias is None:
            return second
        return second - np.outer(found.total_before / count, found.total / count)

    def wanted(self, hessian: Floats) -> Floats:
        """Return E[(W a₀) aᵀ], [out, n]."""
        cross = self.cross()
        return self.weight @ (hessian if cross is None else cross)

    def shift(self, weight: Floats) -> Floats | None:
        """Return the bias with which ``weight`` gives the original's mean; None where there can be none."""
        if self.bias is None:
            return None
        found = self.moments
        count = max(1, found.count)
        before = found.total if found.total_before is None else found.total_before
        return self.bias + self.weight @ (before / count) - weight @ (found.total / count)

    def error(self, weight: Floats, bias: Floats | None) -> float:
        """Return the mean squared difference to the original's outputs, summed over the outputs, and over lookups."""
        return self._error(weight, bias) + self._looked_up(weight)

    def _looked_up(self, weight: Floats) -> float:
        if self.pulls is None:
            return 0.0
        return float(self.pulls @ ((weight - self.weight) ** 2).sum(axis=1))

    def _error(self, weight: Floats, bias: Floats | None) -> float:
        found, count = self.moments, max(1, self.moments.count)
        second, mean = found.products / count, found.total / count
        offset = np.zeros(len(weight)) if bias is None or self.bias is None else bias - self.bias
        if found.cross is None or found.total_before is None:
            change = weight - self.weight
            square = np.einsum("on,on->", change @ second, change)
            return max(0.0, float(square + 2 * offset @ (change @ mean) + offset @ offset))
        square = np.einsum("on,on->", weight @ second, weight) + found.power / count
        square -= 2 * np.einsum("on,on->", self.weight @ (found.cross / count), weight)
        linear = 2 * offset @ (weight @ mean - self.weight @ (found.total_before / count))
        return max(0.0, float(square + linear + offset @ offset))


def variance(weight: Floats, hessian: Floats) -> float:
    """Return the variance of a layer's outputs, summed over them."""
    return max(float(np.einsum("on,on->", weight @ hessian, weight)), _LEAST_DIAGONAL)


def ridged(hessian: Floats, ridge: float, power: float) -> tuple[Floats, float]:
    """Return a matrix with a multiple of its mean diagonal added to the diagonal, and what was added.

    What is left of a variance by rounding alone, where all columns are constant, must not be divided by: ``power`` is
    the mean square of the columns, of which at least a little is added.
    """
    added = max(ridge * float(np.trace(hessian)) / max(1, len(hessian)), _ROUNDING * power, _LEAST_DIAGONAL)
    found = hessian.copy()
    found.flat[:: len(hessian) + 1] += added
    return found, added


def solved(problem: Problem, kept: Numbers, ridge: float) -> tuple[Floats, Floats | None]:
    """Return the weights, zero outside of the columns ``kept``, and the bias that err least.

    Args:
        problem: see `Problem`. kept: columns. ridge: relative to the mean diagonal.
    """
    hessian = problem.hessian()
    matrix, added = ridged(hessian, ridge, problem.power())
    wanted = problem.wanted(hessian) + added * problem.weight
    weight = np.zeros_like(problem.weight)
    if kept.size and problem.pulls is None:
        weight[:, kept] = _solve(matrix[np.ix_(kept, kept)], wanted[:, kept].T).T
    elif kept.size:
        weight[:, kept] = _solve_pulled(matrix[np.ix_(kept, kept)], wanted[:, kept], problem, kept)
    return weight, problem.shift(weight)


def _solve(matrix: npt.NDArray[Any], right: npt.NDArray[Any]) -> Floats:
    """Solve with a symmetric matrix that may be singular."""
    try:
        found = np.linalg.solve(matrix, right)
        if np.isfinite(found).all():
            return np.asarray(found)
    except np.linalg.LinAlgError:
        pass
    return np.asarray(np.linalg.lstsq(matrix, right, rcond=None)[0])


def _solve_pulled(matrix: Floats, wanted: Floats, problem: Problem, kept: Numbers) -> Floats:
    """Return the rows of w (H + p_v I) = wanted + p_v w_v, [out, kept]."""
    assert problem.pulls is not None
    values, vectors = np.linalg.eigh(matrix)
    pulls = problem.pulls[:, None]
    right = (wanted + pulls * problem.weight[:, kept]) @ vectors
    return np.asarray((right / (np.maximum(values, _LEAST_DIAGONAL) + pulls)) @ vectors.T)


class Elimination:
    """Columns of one matrix leave one group after another; the others take over what they can.

    Attributes:
        weight: the best weights on the columns that are left, [out, n]. inverse: of the moments of those, [n, n].
        power: the variance of the layer's outputs, by which losses are made relative.
    """

    def __init__(self, problem: Problem, ridge: float = SCORING_RIDGE) -> None:
        self._problem, self._ridge = problem, ridge
        hessian = problem.hessian()
        matrix, added = ridged(hessian, ridge, problem.power())
        self.inverse = np.linalg.inv(matrix)
        self.inverse = (self.inverse + self.inverse.T) / 2
        self.weight = (problem.wanted(hessian) + added * problem.weight) @ self.inverse
        self.power = variance(problem.weight, hessian)
        self.lost = 0.0

    def best(self) -> Floats:
        """Return the best weights on the columns that are left; of a table those that suit its lookups as well."""
        if self._problem.lookups is None:
            return self.weight
        return solved(self._problem, np.flatnonzero(self.weight.any(axis=0)), self._ridge)[0]

    def costs(self, groups: Sequence[Numbers]) -> Floats:
        """Return by group of columns what the outputs lose, squared, relative to their variance, if it leaves."""
        found = np.zeros(len(groups))
        sizes = np.array([group.size for group in groups])
        for size in np.unique(sizes[sizes > 0]):
            which = np.nonzero(sizes == size)[0]
            step = max(1, (1 << 22) // int(size * max(size, len(self.weight))))
            for start in range(0, len(which), step):
                part = which[start : start + step]
                found[part] = self._costs(np.stack([groups[number] for number in part]))
        return found / self.power

    def _costs(self, columns: Numbers) -> Floats:
        blocks = self.inverse[columns[:, :, None], columns[:, None, :]]
        weights = self.weight[:, columns].transpose(1, 2, 0)  # [groups, columns, out]
        if columns.shape[1] == 1:
            return np.asarray((weights[:, 0] ** 2).sum(axis=1) / np.maximum(blocks[:, 0, 0], _LEAST_DIAGONAL))
        return np.asarray((weights * np.linalg.solve(blocks, weights)).sum(axis=(1, 2)))

    def remove(self, columns: Numbers) -> None:
        """Let columns leave."""
        block = self.inverse[np.ix_(columns, columns)]
        rows = self.inverse[columns]
        solved_rows = _solve(block, rows)
        removed: Floats = np.asarray(self.weight[:, columns])
        self.lost += float(np.einsum("or,ro->", removed, _solve(block, removed.T))) / self.power
        self.weight = self.weight - removed @ solved_rows
        self.inverse = self.inverse - rows.T @ solved_rows
        self.weight[:, columns] = 0.0
        self.inverse[columns] = 0.0
        self.inverse[:, columns] = 0.0
        self.inverse[columns, columns] = 1.0  # so that blocks stay regular; their weights are zero


@dataclass(frozen=True, eq=False)
class Repaired:
    """What a repair came to.

    Attributes:
        weight, bias: as they are now. ridge: None where only the bias moved.
        error, unrepaired: with and without it, on samples that were not fitted.
    """

    weight: Floats
    bias: Floats | None
    ridge: float | None
    error: float
    unrepaired: float


def repaired(fitted: Problem, checked: Problem, stays: Bools) -> Repaired | None:
    """Return the repair that errs least on samples that were not fitted; None if none errs less than no repair.

    Besides least squares at several ridges, the weights as they are with the bias moved count.

    Args:
        fitted, checked: the same matrix on two sets of samples. stays: which of its weights may be other than zero,
            [out, n]. Least squares are over whole columns; zeros inside of them are put back before it is judged.
    """
    plain = np.where(stays, fitted.weight, 0.0)
    unrepaired = checked.error(plain, fitted.bias)
    best, error = None, unrepaired
    for ridge in (None, *RIDGES):
        weight, bias = _candidate(fitted, stays, plain, ridge)
        found = checked.error(weight, bias) if np.isfinite(weight).all() else np.inf
        if found < error:
            best, error = (ridge,), found
    if best is None:
        return None
    both = replace(fitted, moments=fitted.moments.plus(checked.moments))
    return Repaired(*_candidate(both, stays, plain, best[0]), best[0], error, unrepaired)


def _candidate(problem: Problem, stays: Bools, plain: Floats, ridge: float | None) -> tuple[Floats, Floats | None]:
    if ridge is None:
        return plain, problem.shift(plain)
    weight = np.where(stays, solved(problem, np.flatnonzero(stays.any(axis=0)), ridge)[0], 0.0)
    return weight, problem.shift(weight)
