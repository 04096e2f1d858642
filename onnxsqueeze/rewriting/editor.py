"""Obeys a plan: rules rewrite their nodes through an `Editor`, which slices, adds and replaces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from onnx import ModelProto, helper

from onnxsqueeze.abstract.compact import Array, Bools, fits
from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rewriting.deferred import Deferred
from onnxsqueeze.rewriting.plan_view import PlanView
from onnxsqueeze.rewriting.slicing import slice_to_mask
from onnxsqueeze.rewriting.surgery import Surgery
from onnxsqueeze.rules.lessons import Lesson, Used
from onnxsqueeze.rules.plan import Plan
from onnxsqueeze.rules.queries import absorbed_by_readers
from onnxsqueeze.rules.rewriter import Offset
from onnxsqueeze.shapes.computed_shapes import NarrowedShapes


class Editor(PlanView, Deferred, Surgery):
    """The `Rewriter` that repairs are handed. All names and axes are those of the original graph.

    ``options`` are a user's choices among forms that a rule can write, by name; ``used`` says by node index where more
    of a weight is needed than the plan expects.
    """

    def __init__(self, analysis: Analysis, plan: Plan, options: Mapping[str, str] | None = None) -> None:
        PlanView.__init__(self, analysis.context, plan)
        Deferred.__init__(self, analysis.context)
        Surgery.__init__(self, analysis.context)
        self.options = options or {}
        self.used: dict[int, Used] = {}

    @cached_property
    def shapes(self) -> NarrowedShapes:
        """The shapes and sizes that the narrowed model computes."""
        return NarrowedShapes(self.context, self)

    def dtype(self, name: str) -> np.dtype[Any]:
        return helper.tensor_dtype_to_np_dtype(self.context.dtypes[name])

    def sliced(self, array: Array, name: str) -> Array:
        return slice_to_mask(array, self.mask(name))

    def check_finite(
        self, array: Array, dtype: np.dtype[Any], lesson: Callable[[], Lesson], before: Array | None = None
    ) -> None:
        if not fits(array, dtype, before):
            raise lesson()

    def offset(self, node: Node, offset: Offset, bias_position: int, dtype: np.dtype[Any]) -> None:
        output = node.outputs[0]
        if self._graph.sole_reader(output) is not None and absorbed_by_readers(self.context, output, offset.axis):
            self.defer_offset(output, offset)
            return
        self.check_finite(offset.vector, dtype, offset.lesson)
        if bias_position >= 0:
            self.set_constant(node, bias_position, offset.vector.astype(dtype))
            return
        shape = (-1,) + (1,) * (self.context.rank(output) - 1 - offset.axis)
        self.insert_after(node, "Add", [None, offset.vector.astype(dtype).reshape(shape)])

    def note_nonzero(self, node: Node, columns: Bools, rows: Bools) -> None:
        self.used[node.index] = columns, rows

    def finish(self) -> tuple[ModelProto, dict[str, Array], dict[str, str]]:
        """Return the new skeleton, the new constants by name, and for each the name of the tensor that it replaces."""
        self._release_sources()
        return super().finish()

    def _release_sources(self) -> None:
        """What only asks for the shape of a tensor that was replaced becomes a constant, lest both be stored."""
        replaced = self.replaced()
        for node in self._graph.nodes:
            values = [self.shapes.value(name) for name in node.outputs if name]
            if (
                replaced.intersection(node.inputs)
                and len(values) == 1
                and values[0] is not None
                and values[0].dtype.kind == "i"
            ):
                self.replace(node, "Identity", [values[0]])
