"""The algebra equals numpy's own least squares, and brute force."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from onnxsqueeze.squeezing.least_squares import Elimination, Moments, Problem, repaired, solved


def rows(seed: int, count: int = 400, columns: int = 7) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=(count, columns)) @ random.normal(size=(columns, columns)) + random.normal(size=columns)


def problem(seed: int, bias: bool, changed: bool) -> tuple[Problem, np.ndarray, np.ndarray]:
    """Return a problem, what is read now, and what the original gives."""
    random = np.random.default_rng(seed + 100)
    before = rows(seed)
    now = before + 0.3 * random.normal(size=before.shape) if changed else before
    weight, own = random.normal(size=(4, 7)), random.normal(size=4) if bias else None
    moments = Moments.empty(7, changed)
    for start in range(0, len(now), 90):
        part = slice(start, start + 90)
        moments.add(now[part], before[part] if changed else None, weight if changed else None)
    return Problem(weight, own, moments.flush()), now, before @ weight.T + (0.0 if own is None else own)


CASES = pytest.mark.parametrize(("bias", "changed"), [(True, False), (True, True), (False, False), (False, True)])


@CASES
def test_the_repair_is_least_squares(bias: bool, changed: bool) -> None:
    found, now, wanted = problem(0, bias, changed)
    kept = np.array([0, 2, 3, 6])
    weight, shift = solved(found, kept, 1e-14)
    read = np.column_stack([now[:, kept], np.ones(len(now))]) if bias else now[:, kept]
    best = np.linalg.lstsq(read, wanted, rcond=None)[0]
    np.testing.assert_allclose(weight[:, kept], best[:4].T, atol=1e-8)
    assert not weight[:, [1, 4, 5]].any()
    if shift is not None:
        np.testing.assert_allclose(shift, best[4], atol=1e-8)
    given = now @ weight.T + (0.0 if shift is None else shift)
    assert found.error(weight, shift) == pytest.approx(((given - wanted) ** 2).sum(axis=1).mean(), rel=1e-8)


@CASES
def test_the_cost_of_each_group_is_that_of_brute_force(bias: bool, changed: bool) -> None:
    found, _, _ = problem(1, bias, changed)
    groups = [np.array([0, 1]), np.array([2]), np.array([3, 4]), np.array([5, 6])]
    elimination = Elimination(found, 1e-13)
    everything = np.arange(7)
    least = found.error(*solved(found, everything, 1e-14))
    wanted = [found.error(*solved(found, np.setdiff1d(everything, group), 1e-14)) - least for group in groups]
    np.testing.assert_allclose(elimination.costs(groups) * elimination.power, wanted, rtol=1e-6, atol=1e-9)


def test_removing_one_after_another_is_removing_all_at_once() -> None:
    found, _, _ = problem(2, True, True)
    elimination = Elimination(found, 1e-13)
    for columns in ([1], [4, 5]):
        elimination.remove(np.array(columns))
    weight, _ = solved(found, np.array([0, 2, 3, 6]), 1e-13)
    np.testing.assert_allclose(elimination.weight, weight, atol=1e-7)
    costs = elimination.costs([np.array([0]), np.array([2])])
    least = found.error(*solved(found, np.array([0, 2, 3, 6]), 1e-13))
    after = [found.error(*solved(found, np.array(kept), 1e-13)) for kept in ([2, 3, 6], [0, 3, 6])]
    np.testing.assert_allclose(costs * elimination.power, np.array(after) - least, rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_a_repair_never_errs_more_than_none(seed: int) -> None:
    """Also where few samples say little, and where single weights have to stay zero."""
    fitted, _, _ = problem(seed, True, True)
    random = np.random.default_rng(seed)
    few = Moments.empty(7, True)
    for_few = random.normal(size=(5, 7))
    few.add(for_few, for_few, fitted.weight)
    scarce = Problem(fitted.weight, fitted.bias, few.flush())
    for kept in map(np.array, combinations(range(7), 5)):
        stays = np.zeros(fitted.weight.shape, dtype=bool)
        stays[:, kept] = True
        for mask in (stays, stays & (random.random(stays.shape) < 0.8)):
            found = repaired(scarce, fitted, mask)
            assert found is None or (found.error < found.unrepaired and not found.weight[~mask].any())


def test_where_nothing_changed_the_solution_is_the_original() -> None:
    found, _, _ = problem(3, True, False)
    weight, bias = solved(found, np.arange(7), 0.1)
    np.testing.assert_allclose(weight, found.weight, atol=1e-10)
    np.testing.assert_allclose(bias, found.bias, atol=1e-10)


def test_columns_that_are_constant_but_for_rounding_give_no_huge_weights() -> None:
    random = np.random.default_rng(5)
    before = random.normal(size=(300, 3)) + 4
    now = np.full((300, 3), 10.1)
    weight = random.normal(size=(2, 3))
    moments = Moments.empty(3, True)
    moments.add(now, before, weight)
    found, bias = solved(Problem(weight, np.zeros(2), moments.flush()), np.arange(3), 1e-10)
    assert bias is not None and np.abs(found).max() < 10 and np.abs(bias).max() < 1000
