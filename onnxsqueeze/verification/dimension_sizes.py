"""Sizes for dynamic dimensions."""

from __future__ import annotations

import ast
import itertools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from onnx import TypeProto, ValueInfoProto

from onnxsqueeze.errors import UsageError
from onnxsqueeze.model.protobuf import dimension_name, fixed_size
from onnxsqueeze.verification.model_source import SMALL

Sizes = dict[str, int]
Dim = int | str

_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
}


class Role(Enum):
    """What a dimension is for, judged by where it stands and what it is called: it decides which sizes are tried."""

    BATCH = "batch"
    SPACE = "space"
    LENGTH = "length"


# The sizes to try first, in order: small ones for speed, then those that models are made for.
_FIRST = {
    Role.BATCH: (1, 2, 4, 8),
    Role.SPACE: (32, 64, 224, 256, 28, 128, 512, 299, 384, 448, 336, 640, 48, 16, 8, 12, 5, 3, 2, 1),
    Role.LENGTH: (8, 16, 64, 128, 256, 512, 32, 77, 400, 1024, 3000, 16000, 5, 4, 3, 2, 1),
}
_MANY_ELEMENTS = 2**14


@dataclass
class SizePlan:
    """The dimensions of the graph inputs, and which of them are free.

    Attributes:
        dims: for each input its dims: numbers, names, or expressions of names.
        roles: the dimensions whose sizes are free, by name; one without a name is called by its place, ``input[axis]``.
        fixed: the sizes that the user gave.
    """

    dims: dict[str, tuple[Dim, ...]] = field(default_factory=dict)
    roles: dict[str, Role] = field(default_factory=dict)
    fixed: Sizes = field(default_factory=dict)

    @staticmethod
    def of(inputs: Sequence[ValueInfoProto], sizes: Mapping[str, int], shapes: Mapping[str, Sequence[int]]) -> SizePlan:
        """Lay out the inputs' dims.

        Args:
            inputs: the graph inputs.
            sizes: sizes that the user gave, by the dimension's name.
            shapes: shapes that the user gave, by input.

        Raises:
            UsageError: when the user named something that the model does not have, or a size that does not fit.
        """
        plan = SizePlan()
        for value in inputs:
            plan.dims[value.name] = _dims(value)
            for axis, dim in enumerate(plan.dims[value.name]):
                for name in _names(dim):
                    plan.roles.setdefault(name, _role(value, axis, name))
        for name, size in sizes.items():
            plan._fix(name, size)
        for name, shape in shapes.items():
            plan._fix_shape(name, tuple(shape))
        for name in plan.fixed:
            plan.roles.pop(name, None)
        return plan

    def _fix(self, name: str, size: int) -> None:
        if name not in self.roles:
            known = ", ".join(map(repr, self.roles)) or "none"
            raise UsageError(f"the model has no dynamic dimension '{name}'; it has {known}")
        if size < 1 or self.fixed.setdefault(name, size) != size:
            raise UsageError(f"dimension '{name}' cannot have the size {size}; give one size of at least 1")

    def _fix_shape(self, name: str, shape: tuple[int, ...]) -> None:
        if name not in self.dims:
            raise UsageError(f"the model has no input '{name}'; it has {', '.join(map(repr, self.dims)) or 'none'}")
        declared = self.dims[name]
        if len(declared) != len(shape):
            raise UsageError(f"the shape {list(shape)} of input '{name}' must have {len(declared)} dimensions")
        for axis, dim in enumerate(declared):
            if isinstance(dim, int) and dim != shape[axis]:
                raise UsageError(f"input '{name}' has the size {dim} at axis {axis}, not {shape[axis]}")
            if isinstance(dim, str) and _names(dim) == [dim]:
                self._fix(dim, shape[axis])
        self.dims[name] = shape

    def shapes(self, sizes: Sizes) -> dict[str, tuple[int, ...]] | None:
        """Return the inputs' shapes at these sizes of the free dimensions, None where an expression is negative."""
        known = {**self.fixed, **sizes}
        found = {name: tuple(_evaluate(dim, known) for dim in dims) for name, dims in self.dims.items()}
        return None if any(size < 0 for shape in found.values() for size in shape) else found

    def first_choices(self) -> Iterator[Sizes]:
        """Yield sizes for all free dimensions, the likeliest first; those of one role are equal.

        Where a dimension that nobody named may hold the batch of a state, each choice is followed by one where it does.
        """
        roles = [role for role in Role if role in self.roles.values()]
        places = itertools.product(*(range(len(_FIRST[role])) for role in roles))
        states = self._states() if Role.BATCH in roles else []
        for choice in sorted(places, key=sum):
            by_role = {role: _FIRST[role][place] for role, place in zip(roles, choice, strict=True)}
            sizes = {name: by_role[role] for name, role in self.roles.items()}
            yield sizes
            if states:
                yield {**sizes, **dict.fromkeys(states, by_role[Role.BATCH])}

    def _states(self) -> list[str]:
        """Return the dimensions without a name that are second of several, as in states [layers, batch, units]."""
        found = (dims[1] for dims in self.dims.values() if len(dims) > 2)
        unnamed = {f"{name}[1]" for name in self.dims}
        return [dim for dim in found if isinstance(dim, str) and dim in unnamed and self.roles.get(dim) is Role.LENGTH]

    def second_choices(self, first: Sizes, largest_batch: int) -> Iterator[tuple[list[str], Sizes]]:
        """Yield other sizes for some of the free dimensions: for all at once, for one role, for one dimension.

        Args:
            first: sizes that work.
            largest_batch: the batch size to try first.

        Yields:
            The dimensions that change, and their new sizes.
        """
        others = {name: _others(role, first[name], largest_batch) for name, role in self.roles.items()}
        roles = list(self.roles.values())
        places = {name: roles[:index].count(roles[index]) for index, name in enumerate(self.roles)}
        groups = [list(self.roles)] + [[name for name in self.roles if self.roles[name] is role] for role in Role]
        if self.roles:
            yield groups[0], {name: values[places[name] % len(values)] for name, values in others.items()}
        batch = [name for name, role in self.roles.items() if role is Role.BATCH]
        states = [name for name in self._states() if first[name] in (first[other] for other in batch)]
        for size in others[batch[0]] if states else ():
            yield [*batch, *states], dict.fromkeys((*batch, *states), size)
        for group in [*groups, *([name] for name in self.roles)]:
            for index in range(max((len(others[name]) for name in group), default=0)):
                yield group, {name: others[name][min(index, len(others[name]) - 1)] for name in group}


def input_type(value: ValueInfoProto) -> TypeProto:
    """Return the tensor type of an input, that of its elements for a sequence or an optional."""
    kind = value.type
    while (which := kind.WhichOneof("value")) in ("sequence_type", "optional_type"):
        kind = getattr(kind, which).elem_type
    return kind


def batch_for(shapes: Mapping[str, Sequence[int]], weights: int) -> int:
    """Return how many examples a second run may hold: many for a small model, where each costs next to nothing."""
    elements = max((math.prod(shape) for shape in shapes.values()), default=1)
    return min(max(_MANY_ELEMENTS // max(elements, 1), 3), 33) if weights <= SMALL else 3


def _others(role: Role, size: int, largest_batch: int) -> list[int]:
    if role is Role.BATCH:
        candidates = [largest_batch, 3, 2, 4, 1]
    elif role is Role.SPACE:
        candidates = [size + 32, size + 64, size // 2, size + 8, size + 1]
    else:
        candidates = [2 * size - 3, 2 * size, size + 1, size // 2]
    return list(dict.fromkeys(other for other in candidates if other > 0 and other != size))


def _dims(value: ValueInfoProto) -> tuple[Dim, ...]:
    return tuple(
        (dimension_name(dim.dim_param) or f"{value.name}[{axis}]") if (size := fixed_size(dim)) is None else size
        for axis, dim in enumerate(input_type(value).tensor_type.shape.dim)
    )


def _role(value: ValueInfoProto, axis: int, name: str) -> Role:
    lowered = name.lower()
    if "batch" in lowered:
        return Role.BATCH
    if "seq" in lowered or "len" in lowered:
        return Role.LENGTH
    if axis == 0:
        return Role.BATCH
    return Role.SPACE if len(input_type(value).tensor_type.shape.dim) >= 4 else Role.LENGTH


def _names(dim: Dim) -> list[str]:
    """Return the names in an expression such as ``past + sequence``; what is no expression is one name."""
    if isinstance(dim, int):
        return []
    tree = _parse(dim)
    if tree is None:
        return [dim]
    return [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]


def _evaluate(dim: Dim, sizes: Sizes) -> int:
    if isinstance(dim, int):
        return dim
    tree = _parse(dim)
    return sizes[dim] if tree is None else _value(tree, sizes)


def _value(node: ast.expr, sizes: Sizes) -> int:
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, sizes), _value(node.right, sizes)
        return _OPERATORS[type(node.op)](left, right) if right or type(node.op) not in (ast.FloorDiv, ast.Div) else -1
    if isinstance(node, ast.Name):
        return sizes[node.id]
    assert isinstance(node, ast.Constant) and isinstance(node.value, int)  # all that _parse lets through
    return node.value


def _parse(text: str) -> ast.expr | None:
    """Parse an expression of names, integers and the four operations that mentions a name; None for anything else."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    nodes = [node for node in ast.walk(tree) if not isinstance(node, (ast.operator, ast.expr_context))]
    plain = all(
        isinstance(node, ast.Name)
        or (isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS)
        or (isinstance(node, ast.Constant) and type(node.value) is int)
        for node in nodes
    )
    return tree if plain and any(isinstance(node, ast.Name) for node in nodes) else None
