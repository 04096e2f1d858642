"""What is said of a reshaped tensor's elements holds at every size of the batch."""

from __future__ import annotations

from math import prod

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsqueeze.abstract.reshaping import reshape
from onnxsqueeze.abstract.symbolic import Shape, Symbolic
from onnxsqueeze.coupling.classes import Elements

FACTORS = (2, 3, 2, "b", 4)


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """Draw a shape of so many elements: the factors in any order, side by side in axes or together in one."""
    axes: list[list[int | str]] = [[]]
    for factor in draw(st.permutations(FACTORS)):
        if axes[-1] and draw(st.booleans()):
            axes.append([])
        axes[-1].append(factor)
    sizes = [(prod(each for each in axis if isinstance(each, int)), "b" in axis) for axis in axes]
    return tuple(Symbolic(size, ("b",)) if symbolic else size for size, symbolic in sizes)


def concrete(shape: Shape, batch: int) -> list[int]:
    return [size.coefficient * batch if isinstance(size, Symbolic) else size for size in shape]


def spelt_out(ids: np.ndarray, shape: Shape, batch: int) -> np.ndarray:
    """Return an entry for each element: those of a compact array repeat along each axis."""
    places = [np.arange(size) % length for size, length in zip(concrete(shape, batch), ids.shape, strict=True)]
    return ids[np.ix_(*places)]


@given(source=shapes(), target=shapes(), told=st.lists(st.booleans(), min_size=5, max_size=5))
@settings(max_examples=300, deadline=None)
def test_elements_are_where_they_are_said_to_be(source: Shape, target: Shape, told: list[bool]) -> None:
    whole = [size.coefficient if isinstance(size, Symbolic) else size for size in source]
    elements = Elements()
    ids = elements.fresh(tuple(size if apart else 1 for size, apart in zip(whole, told, strict=False)))
    found = reshape(ids, source, target, elements.merge)
    labels, _ = elements.canonical()
    for batch in (1, 2, 3):
        before = spelt_out(labels[ids], source, batch).reshape(concrete(target, batch))
        assert np.array_equal(before, spelt_out(labels[found], target, batch))


def test_heads_behind_an_axis_along_which_nothing_is_told_apart() -> None:
    """As nn.MultiheadAttention is exported: [steps, heads * batch, dims] as [steps * batch, heads * dims]."""
    batch = Symbolic(1, ("b",))
    elements = Elements()
    ids = elements.fresh((1, 4, 8))
    found = reshape(ids, (6, 4 * batch, 8), (6 * batch, 32), elements.merge)
    assert found.shape == (1, 32) and elements.canonical()[1] == 32
    told = elements.fresh((6, 4, 8))  # in which row of the result a step stands depends on the batch
    assert reshape(told, (6, 4 * batch, 8), (6 * batch, 32), elements.merge).shape[0] == 1
