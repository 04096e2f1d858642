"""Constants that are computed in the file, from weights in a narrower type say, are sliced where they are stored.

What a reader wants of such a constant can be written in several ways: as its value, or as the nodes that compute it, of
constants that are sliced in its place. For each tensor on the way the one of fewer bytes is chosen; the value, if both
take as many, since that leaves fewer nodes, unless others read the same weight and would go on to do so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxsqueeze.abstract.compact import Array
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context
from onnxsqueeze.rules.kept import Kept, lengths, part_of
from onnxsqueeze.rules.registry import rule_for
from onnxsqueeze.rules.weight_source import codes_of, owned, owned_bytes, stored_behind

_DEEPEST = 32  # nodes between a weight and its reader


@dataclass(frozen=True, eq=False)
class Form:
    """How a part of a constant is written.

    Attributes:
        name: the constant. kept: which part of it.
        stored: what that takes in the file, by what is stored for it: bytes by name and `key`.
        node: the node that computes it, None where its value is stored.
        inputs: how the node's inputs are written; a name where one is read as it is, "" where it is absent, an array
            for a requested shape.
        shared: whether others read a weight behind it, so that it stays stored whatever becomes of this.
    """

    name: str
    kept: Kept
    stored: Mapping[tuple[str, bytes], int]
    node: Node | None = None
    inputs: tuple[Form | str | Array, ...] = ()
    shared: bool = False

    @property
    def key(self) -> bytes:
        """Tells parts of one constant from each other."""
        return _key(self.kept)

    @property
    def nbytes(self) -> int:
        """What the form takes in the file; what it reads several times counts once."""
        return sum(self.stored.values())


def part_kept(context: Context, name: str, array: Array, kept: Kept | None) -> Kept | None:
    """Return which part of a constant an array is; None where it is none, or more than a part.

    Args:
        name: of the constant. array: perhaps a part of it. kept: which one, where that is known.
    """
    before = context.value(name)
    if before is None or before.ndim != array.ndim or before.dtype != array.dtype:
        return None
    kept = found_part(before, array) if kept is None else kept
    return kept if kept is not None and _same(part_of(before, kept), array) else None


def computed_form(context: Context, name: str, kept: Kept) -> Form | None:
    """Return how to compute a part of a constant that the file computes; None where its value should be stored."""
    form = _Forms(context, name).form(name, kept, 0)
    return form if form.node is not None else None


def found_part(before: Array, after: Array) -> Kept | None:
    """Return which entries along the only axis that became shorter are left; None if it is anything else."""
    shorter = [axis for axis, pair in enumerate(zip(before.shape, after.shape, strict=True)) if pair[0] != pair[1]]
    if len(shorter) != 1 or after.shape[shorter[0]] > before.shape[shorter[0]]:
        return None
    old, new = (_rows(array, shorter[0]) for array in (before, after))
    chosen, place = np.zeros(len(old), dtype=bool), 0
    for index, row in enumerate(old):
        if place < len(new) and row == new[place]:
            chosen[index], place = True, place + 1
    if place < len(new):
        return None
    return tuple(chosen if axis == shorter[0] else None for axis in range(before.ndim))


def grows(context: Context, name: str, array: Array) -> bool:
    """Whether a computed constant takes more bytes than what falls away if its value is stored instead."""
    return array.nbytes > owned_bytes(context.graph, name)


def indices(kept: Kept) -> list[tuple[int, Array]]:
    """Return for each axis of which a part is kept its positions."""
    return [(axis, np.flatnonzero(chosen)) for axis, chosen in enumerate(kept) if chosen is not None]


class _Forms:
    """Finds forms, each part of a constant once: paths through what computes a constant can multiply."""

    def __init__(self, context: Context, wanted: str) -> None:
        self._context, self._wanted = context, wanted
        self._known: dict[tuple[str, bytes], Form] = {}

    @cached_property
    def _owned(self) -> set[str]:
        return owned(self._context.graph, self._wanted)

    def form(self, name: str, kept: Kept, depth: int) -> Form:
        """Return the form of fewest bytes of a part of a constant."""
        key = name, _key(kept)
        if key not in self._known:
            self._known[key] = self._form(name, kept, depth)
        return self._known[key]

    def _form(self, name: str, kept: Kept, depth: int) -> Form:
        context = self._context
        value = context.value(name)
        assert value is not None
        size = value.dtype.itemsize * int(np.prod(lengths(value.shape, kept), dtype=np.int64))
        own = {(name, _key(kept)): size}
        if name in context.graph.initializers:
            return Form(name, kept, own, shared=name not in self._owned)
        computed = self._computed(name, kept, depth)
        if computed is None or (not _decodes(context, name) and not _shorter(computed, size)):
            return Form(name, kept, own)
        return computed

    def _computed(self, name: str, kept: Kept, depth: int) -> Form | None:
        context = self._context
        node = context.graph.producers.get(name)
        if node is None or node.group is not None or node.captured or len(node.outputs) != 1 or depth > _DEEPEST:
            return None
        rule = rule_for(node)
        parts = None if rule.sliced_from is None else rule.sliced_from(node, context, kept)
        if parts is None:
            return None
        made = context.value(name)
        assert made is not None
        inputs: list[Form | str | Array] = []
        for position, (entry, part) in enumerate(zip(node.inputs, parts, strict=True)):
            if position == rule.shape_input:
                inputs.append(np.array(lengths(made.shape, kept), dtype=np.int64))
                continue
            if not entry:
                inputs.append("")
                continue
            value = context.value(entry)
            if value is None:
                return None
            whole = part is None or all(chosen is None for chosen in part)
            inputs.append(entry if whole else self.form(entry, part or (), depth + 1))
        forms = [entry for entry in inputs if isinstance(entry, Form)]
        stored: dict[tuple[str, bytes], int] = {}
        for form in forms:
            stored.update(form.stored)
        for whole_input in filter(None, (entry for entry in inputs if isinstance(entry, str))):
            stored.update({(each, b""): nbytes for each, nbytes in stored_behind(context.graph, whole_input).items()})
        return Form(name, kept, stored, node, tuple(inputs), any(form.shared for form in forms))


def _key(kept: Kept) -> bytes:
    return b"|".join(b"" if chosen is None else np.packbits(chosen).tobytes() for chosen in kept)


def _shorter(form: Form, size: int) -> bool:
    """Whether a form takes fewer bytes than the value, or as many where others read the weight behind it."""
    return form.nbytes < size or (form.nbytes == size and form.shared)


def _decodes(context: Context, name: str) -> bool:
    """Whether a constant is decoded of codes: runtimes that compute in integers want to see them."""
    codes = codes_of(context, name)
    return codes is not None and codes.limits is not None


def _rows(array: Array, axis: int) -> list[bytes]:
    moved = np.moveaxis(array, axis, 0)
    return [np.ascontiguousarray(row).tobytes() for row in moved]


def _same(left: Array, right: Array) -> bool:
    """Whether two arrays are the same to the bit."""
    return left.shape == right.shape and np.ascontiguousarray(left).tobytes() == np.ascontiguousarray(right).tobytes()
