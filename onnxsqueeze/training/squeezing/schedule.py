"""The cubic sparsity schedule of Zhu & Gupta (2017): remove much while there is much, and little at the end."""

from __future__ import annotations

from onnxsqueeze.errors import UsageError


def cubic_sparsity(step: int, steps: int, final: float, initial: float = 0.0) -> float:
    """Return the sparsity after a step: s_t = s_f + (s_i - s_f) (1 - t/n)³.

    Args:
        step: t, from 0, where the sparsity is ``initial``, to ``steps``, where it is ``final``, as after it.
        steps: n, over how many steps the sparsity grows.
        final, initial: shares of the weights that are gone, from 0 to 1.

    Raises:
        UsageError: when an argument lies outside its range.
    """
    if steps < 1 or step < 0 or not (0 <= initial <= 1 and 0 <= final <= 1):
        raise UsageError(f"no cubic schedule has step {step} of {steps} from {initial} to {final}")
    left = (1 - min(step, steps) / steps) ** 3
    return final + (initial - final) * left


def cubic_targets(elements: int, target: int, steps: int) -> list[int]:
    """Return how many weight elements each of several steps, or cycles, leaves of ``elements``; the last ``target``.

    Raises:
        UsageError: when there is no step, or the target is not below the number of elements.
    """
    if not 0 <= target <= elements:
        raise UsageError(f"{target} weight elements cannot be left of {elements}")
    final = 1 - target / elements if elements else 0.0
    left = [round(elements * (1 - cubic_sparsity(step, steps, final))) for step in range(1, steps + 1)]
    return [*left[:-1], target]
