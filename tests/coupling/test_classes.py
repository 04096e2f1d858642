"""Classes that are united: connected components, against a search from each number."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnxsqueeze.coupling.classes import Elements, connected
from onnxsqueeze.coupling.constraint import Classes
from tests.coupling.relations import PROPERTY


@st.composite
def pairs(draw: Any) -> tuple[int, list[tuple[Classes, Classes]]]:
    """Draw a count and pairs of arrays of smaller numbers; the second broadcasts to the first."""
    count = draw(st.integers(1, 30))
    numbers = st.integers(0, count - 1)
    found = []
    for _ in range(draw(st.integers(0, 4))):
        shape = (draw(st.integers(0, 3)), draw(st.integers(1, 4)))
        other = draw(st.sampled_from((shape, (1, shape[1]), shape[1:], ())))
        found.append((draw(arrays(np.int64, shape, elements=numbers)), draw(arrays(np.int64, other, elements=numbers))))
    return count, found


def searched(count: int, edges: list[tuple[int, int]]) -> list[int]:
    """Return the smallest number that can be reached from each, one edge at a time."""
    beside: dict[int, set[int]] = {number: set() for number in range(count)}
    for left, right in edges:
        beside[left].add(right)
        beside[right].add(left)
    found = []
    for number in range(count):
        seen, rest = {number}, [number]
        while rest:
            new = beside[rest.pop()] - seen
            seen |= new
            rest += new
        found.append(min(seen))
    return found


@given(pairs())
@PROPERTY
def test_connected_components(drawn: tuple[int, list[tuple[Classes, Classes]]]) -> None:
    count, found = drawn
    edges = [(int(a), int(b)) for left, right in found for a, b in np.nditer([left, right], ["zerosize_ok"])]
    assert connected(count, found).tolist() == searched(count, edges)


def test_a_long_chain_is_one_component() -> None:
    """In an order that makes paths long."""
    order = np.random.default_rng(0).permutation(10_000)
    assert not connected(order.size, [(order[:-1], order[1:])]).any()


@given(pairs())
@PROPERTY
def test_final_class_numbers_tell_what_was_united(drawn: tuple[int, list[tuple[Classes, Classes]]]) -> None:
    count, found = drawn
    elements = Elements()
    elements.fresh((count,))
    for left, right in found:
        elements.union(left, right)
    labels, classes = elements.canonical()
    smallest = connected(count, found)
    assert set(labels) == set(range(classes))
    assert ((labels[:, None] == labels) == (smallest[:, None] == smallest)).all()


def test_elements_along_an_axis_become_one_class() -> None:
    elements = Elements()
    merged = elements.merge(elements.fresh((2, 3)), (1,))
    labels, classes = elements.canonical()
    assert merged.shape == (2, 1)
    assert (labels.tolist(), classes) == ([0, 0, 0, 1, 1, 1], 2)
