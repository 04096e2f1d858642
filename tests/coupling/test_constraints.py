"""The algebra of constraints by itself: each only adds, reaches a fixpoint, and there keeps what it promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxsqueeze.pipeline.frontend  # noqa: F401  (imports all operators, and so all constraints)
from onnxsqueeze.coupling.classes import connected
from onnxsqueeze.coupling.constraint import Classes, Constraint, Phase
from onnxsqueeze.coupling.constraints import Box, Broadcast, Copies, Groups, NotEmpty, Representative, Rows
from onnxsqueeze.operators.attention.heads import HeadSizes
from onnxsqueeze.operators.attention.packed_attention import Products
from onnxsqueeze.operators.attention.rotary_embedding import SameInEachHead
from onnxsqueeze.operators.normalization.representatives import NormRepresentatives
from onnxsqueeze.operators.recurrent.lstm_gru_rnn import Recurrence
from onnxsqueeze.operators.recurrent.measured import Extremes
from tests.coupling.relations import (
    DRAWN,
    PROPERTY,
    TENSOR,
    Bools,
    constraints,
    enforce,
    generators,
    holds,
    kept_of,
    kept_sets,
    masks,
)
from tests.support.extent import part

FORCED = [kind for kind in DRAWN if kind.phase is Phase.FORCED]
MONOTONE = [*FORCED, Products, Recurrence, Extremes]
"""Where more stays before, no less stays after: what is added follows from what is there, without a choice."""

each_kind = pytest.mark.parametrize("kind", DRAWN, ids=lambda kind: kind.__name__)
several = st.lists(st.sampled_from([*DRAWN]), min_size=2, max_size=4)


def labelled(drawn: tuple[list[Constraint], Classes]) -> list[Constraint]:
    """Return drawn constraints on final class numbers."""
    return [constraint.labelled(drawn[1]) for constraint in drawn[0]]


def test_all_constraints_are_tested() -> None:
    assert set(Constraint.__subclasses__()) == set(DRAWN)


# -- what enforcing does -----------------------------------------------------------------------------------------------


@each_kind
@given(data=st.data())
@PROPERTY
def test_enforcing_only_adds(kind: type[Constraint], data: st.DataObject) -> None:
    """Besides, whether anything was added is told."""
    drawn = data.draw(constraints([kind]))
    kept = data.draw(kept_sets(len(drawn[1])))
    before, additions = kept.mask.copy(), kept.additions
    for constraint in labelled(drawn):
        constraint.enforce(kept)
    assert (kept.mask >= before).all()
    assert (kept.additions > additions) == (kept.mask != before).any()
    assert all(reason is not None for reason in kept.reasons[kept.mask & ~before])


@each_kind
@given(data=st.data())
@PROPERTY
def test_the_relation_holds_at_the_fixpoint(kind: type[Constraint], data: st.DataObject) -> None:
    """Once more adds nothing, and where it holds already, nothing is added at all."""
    drawn = data.draw(constraints([kind]))
    kept = data.draw(kept_sets(len(drawn[1])))
    (constraint,) = labelled(drawn)
    held, before = holds(constraint, kept), kept.mask.copy()
    enforce([constraint], kept)
    assert holds(constraint, kept)
    assert not held or (kept.mask == before).all()
    additions = kept.additions
    constraint.enforce(kept)
    assert kept.additions == additions


@pytest.mark.parametrize("kind", (NotEmpty, Representative, NormRepresentatives))
@given(data=st.data())
@PROPERTY
def test_no_more_is_added_than_stands_for_the_rest(kind: type[Constraint], data: st.DataObject) -> None:
    drawn = data.draw(constraints([kind]))
    kept = data.draw(kept_sets(len(drawn[1])))
    kept.live = {TENSOR: np.array([True])}
    (constraint,), before = labelled(drawn), int(kept.mask.sum())
    most = {NotEmpty: 1, NormRepresentatives: 2}.get(kind, len(getattr(constraint, "ids", [])))  # one for each group
    enforce([constraint], kept)
    assert int(kept.mask.sum()) - before <= most


@given(st.data(), st.lists(st.sampled_from(MONOTONE), min_size=1, max_size=4))
@PROPERTY
def test_more_to_begin_with_leaves_more(data: st.DataObject, kinds: Sequence[type[Constraint]]) -> None:
    drawn = data.draw(constraints(kinds))
    less = data.draw(kept_sets(len(drawn[1])))
    more = kept_of(less.mask | data.draw(masks(len(drawn[1]))))
    for kept in (less, more):
        enforce(labelled(drawn), kept)
    assert (more.mask >= less.mask).all()


# -- the order in which several are enforced ---------------------------------------------------------------------------


@given(st.data(), st.lists(st.sampled_from(MONOTONE), min_size=2, max_size=4))
@PROPERTY
def test_without_a_choice_the_order_makes_no_difference(data: st.DataObject, kinds: Sequence[type[Constraint]]) -> None:
    drawn = data.draw(constraints(kinds))
    first = data.draw(kept_sets(len(drawn[1])))
    second = kept_of(first.mask)
    found = labelled(drawn)
    enforce(found, first)
    enforce(data.draw(st.permutations(found)), second)
    assert (first.mask == second.mask).all()


@given(st.data(), several)
@settings(PROPERTY, max_examples=part(600))
def test_in_any_order_all_relations_hold_at_the_fixpoint(
    data: st.DataObject, kinds: Sequence[type[Constraint]]
) -> None:
    drawn = data.draw(constraints(kinds))
    kept = data.draw(kept_sets(len(drawn[1])))
    found = data.draw(st.permutations(labelled(drawn)))
    enforce(found, kept)
    assert [constraint for constraint in found if not holds(constraint, kept)] == []


# -- translated to class numbers ---------------------------------------------------------------------------------------


def _values(constraint: Constraint) -> list[Any]:
    """Return what the fields hold, but for what points at other constraints."""
    return [getattr(constraint, field.name) for field in fields(constraint) if field.name != "siblings"]


@each_kind
@given(data=st.data())
@PROPERTY
def test_labelling_commutes_with_relabelling(kind: type[Constraint], data: st.DataObject) -> None:
    (constraint,), first = data.draw(constraints([kind]))
    second = data.draw(generators).integers(0, len(first), len(first))
    twice, once = constraint.labelled(first).labelled(second), constraint.labelled(second[first])
    np.testing.assert_equal(_values(twice), _values(once))


@each_kind
@given(data=st.data())
@PROPERTY
def test_labelling_translates_all_classes(kind: type[Constraint], data: st.DataObject) -> None:
    """The identifiers that were drawn are in use, each of them, and none of the labels is an identifier."""
    (constraint,), labels = data.draw(constraints([kind], distinct=True))
    values = _values(constraint.labelled(labels + 1000))
    arrays = [part for value in values for part in (value if isinstance(value, tuple) else (value,))]
    numbers = {int(each) for array in arrays if isinstance(array, np.ndarray) for each in np.nan_to_num(array.ravel())}
    assert {number for number in numbers if number >= 1000} == {*(labels + 1000).tolist()}


@each_kind
@given(data=st.data())
@PROPERTY
def test_a_labelled_relation_is_the_same_relation(kind: type[Constraint], data: st.DataObject) -> None:
    (constraint,), labels = data.draw(constraints([kind]))
    kept = data.draw(kept_sets(len(labels)))
    assert holds(constraint.labelled(labels), kept) == holds(constraint, kept, kept.mask[labels])


def test_norms_of_one_stream_find_each_other() -> None:
    """Each is put in the place of the one of its own tensor, on final class numbers."""
    siblings: dict[str, NormRepresentatives] = {}
    ids, labels = np.arange(3), np.array([2, 1, 0])
    for tensor in ("a", "b"):
        NormRepresentatives(tensor, ids, np.zeros(3), None, siblings).labelled(labels)  # type: ignore[arg-type]
    assert sorted(siblings) == ["a", "b"]
    assert {each.place for each in siblings.values()} == {labels.tobytes()}


@pytest.mark.parametrize(
    ("there", "needed", "chosen"),
    [([], [2], 2), ([], [0, 1, 2], 0), ([1], [2], 1), ([1], [0, 1, 2], 1)],
    ids=["of an output", "the cheapest", "of another row before an output", "of another row"],
)
def test_an_empty_row_keeps_what_costs_nothing_more(there: list[int], needed: list[int], chosen: int) -> None:
    """Of two rows of three the first is wanted; what the second has, or a place of an output, needs no other place."""
    big, output = np.arange(6).reshape(2, 3), np.arange(8, 14).reshape(2, 3)
    mask = np.full(14, False)
    mask[[6, *big[1, there], *output[1, needed]]] = True
    kept = kept_of(mask, np.array([1.0, 2, 2, 1, 2, 2] + [0.0] * 8))
    Rows(np.array([[6], [7]]), big, (1,), output).enforce(kept)
    assert np.flatnonzero(kept.mask[big[0]]).tolist() == [chosen]
    if there:
        assert kept.mask[7]


# -- what may leave ----------------------------------------------------------------------------------------------------


def _left_alone(constraint: Constraint, stays: Bools) -> bool:
    kept = kept_of(stays)
    enforce([constraint], kept)
    return bool((kept.mask == stays).all())


def _single(constraint: Broadcast) -> bool:
    """Whether the smaller tensor is one class, which says of no slot that it stays."""
    return constraint.small.size == 1


@given(st.data(), st.sampled_from((Box, Broadcast, Copies, SameInEachHead)))
@PROPERTY
def test_coupled_classes_leave_together(data: st.DataObject, kind: type[Constraint]) -> None:
    """Nothing comes back if all that is coupled has left, or none of it."""
    (constraint,), labels = data.draw(constraints([kind]))
    constraint = constraint.labelled(labels)
    if (
        isinstance(constraint, Box)
        and not constraint.strict
        or isinstance(constraint, Broadcast)
        and _single(constraint)
    ):
        assert list(constraint.coupled()) == []
        return
    component = connected(len(labels), list(constraint.coupled()))
    stays = data.draw(masks(len(labels)))[component]
    if isinstance(constraint, SameInEachHead):
        stays |= component == component[constraint.heads[0, constraint.pairs[0, 0]]]  # at least one pair
    assert _left_alone(constraint, stays)


@given(st.data(), st.sampled_from((Box, Groups, HeadSizes)))
@PROPERTY
def test_rows_of_tables_may_lose_equally_many(data: st.DataObject, kind: type[Constraint]) -> None:
    """Each at places of its own. Some of each stay; what is coupled to them does as well, and that is all there is."""
    (constraint,), labels = data.draw(constraints([kind], distinct=True))
    tables = list(constraint.tables())
    assert bool(tables) != getattr(constraint, "strict", False)
    component = connected(len(labels), list(constraint.coupled()))
    beside = np.isin(labels, [*getattr(constraint, "others", ())])
    assert not tables or (beside != np.isin(component, component[np.concatenate([*map(np.ravel, tables)])])).all()
    stays = np.full(len(labels), True)
    size = data.draw(st.integers(1, min((table.shape[1] for table in tables), default=1)))
    if isinstance(constraint, HeadSizes) and (constraint.alike or constraint.multiple > 1):
        size = min(size // constraint.multiple * constraint.multiple, *(table.shape[1] for table in tables))
    for row in (row for table in tables for row in table):
        order = np.array(data.draw(st.permutations(row.tolist())))
        stays[np.isin(component, component[order[size:]] if size else [])] = False
    assert _left_alone(constraint, stays)


@given(st.data(), st.sampled_from((Rows, Groups, HeadSizes)))
@PROPERTY
def test_rows_leave_whole(data: st.DataObject, kind: type[Constraint]) -> None:
    (constraint,), labels = data.draw(constraints([kind], distinct=True))
    stays = np.full(len(labels), True)
    heads: dict[int, list[Classes]] = {}
    for place, together in enumerate(constraint.rows()):
        label = int(together[0].labels[0]) if kind is Rows else place  # rows with one label are one head's
        heads.setdefault(label, []).extend(part for row in together for part in (row.classes, row.labels))
    for parts in heads.values():
        stays[np.concatenate(parts)] = data.draw(st.booleans())
    assert _left_alone(constraint, stays)
    assert all(np.isin(constraint.side_by_side(), np.concatenate(parts)).any() for parts in heads.values())


@given(st.data(), st.sampled_from((Broadcast, Rows, HeadSizes)))
@PROPERTY
def test_what_serves_leaves_with_all_that_it_serves(data: st.DataObject, kind: type[Constraint]) -> None:
    """Of a set that satisfies the relation, whatever serves only what has left can leave too."""
    (constraint,), labels = data.draw(constraints([kind], distinct=True))
    kept = data.draw(kept_sets(len(labels)))
    enforce([constraint], kept)
    stays = kept.mask.copy()
    for served, serving in constraint.serving():
        assert served.shape[0] == serving.size
        for one in np.unique(serving):
            stays[one] &= stays[served[serving == one]].any()
    assert _left_alone(constraint, stays)
