"""What a repair may ask of a plan and do to the graph under change. The rewriter itself lies above the operators.

All names and axes are those of the original graph. Repairs see this protocol alone, so that no operator depends on how
a graph is rewritten.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Array, Bools, Floats
from onnxsqueeze.abstract.symbolic import Dimension, Shape
from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.kept import Kept
from onnxsqueeze.rules.lessons import Lesson
from onnxsqueeze.rules.plan import Plan
from onnxsqueeze.rules.reconstruction import Reconstruction

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

    Operand: TypeAlias = str | Array | gs.Tensor
    """A tensor of the original graph by name, a new constant, or what `Rewriter.compute` returned."""


@dataclass(frozen=True)
class Request:
    """What a node asks for in the narrowed model and what it should ask for, by entry of its requested shape.

    Attributes:
        computed: whether it is known what the graph computes; if not, it is what it was.
        wanted: the entries, every wrong one replaced by the length that it should name.
        wrong: which entries those are.
    """

    computed: bool
    wanted: list[Dimension]
    wrong: Bools


@dataclass(frozen=True)
class Offset:
    """A vector that a tensor should be increased by.

    Attributes:
        axis: along which it lies. vector: float64, one entry for each position that stays.
        lesson: says what there is to learn if some constant that takes it up cannot hold the sum.
    """

    axis: int
    vector: Floats
    lesson: Callable[[], Lesson]


class ShapesAfter(Protocol):
    """The shapes and sizes that the narrowed model computes."""

    @property
    def frozen(self) -> Collection[int]:
        """The nodes, by index, that must go on to give the sizes of the original."""

    def shape(self, name: str) -> Shape:
        """Return a tensor's shape in the narrowed model."""

    def value(self, name: str) -> Array | None:
        """Return a constant's value in the narrowed model, None where it is computed."""

    def sizes(self, name: str) -> Array | None:
        """Like `value`, but small integer tensors may hold symbolic dimensions (dtype object)."""

    def request(self, node: Node) -> Request:
        """Compare what a node asks for with the lengths that its output shall have."""

    def agreed(self, name: str, request: Request) -> bool:
        """Whether every reader of a requested shape wants the same of it."""


class Rewriter(Protocol):
    """Answers about the plan, hands on what one node leaves to those behind it, and changes nodes and constants."""

    @property
    def plan(self) -> Plan:
        """What stays."""

    @property
    def options(self) -> Mapping[str, str]:
        """A user's choices among forms that a rule can write, by name."""

    @property
    def opset(self) -> int:
        """The version of the standard operators that the model imports."""

    @property
    def shapes(self) -> ShapesAfter:
        """The shapes and sizes that the narrowed model computes."""

    # What the plan leaves of a tensor.

    def mask(self, name: str) -> Bools:
        """Return which elements of a tensor stay (compact; all of them for a constant)."""

    def live(self, name: str) -> Bools:
        """Return which elements of a tensor something depends on (compact)."""

    def kept(self, name: str, axis: int) -> Bools:
        """Return which positions along an axis stay in a tensor; of length 1 where they stay or go together."""

    def positions(self, name: str, axis: int) -> Bools:
        """Like `kept`, repeated to the axis's original length, which must be known."""

    def narrowed(self, name: str) -> bool:
        """Whether a tensor loses some of its elements."""

    def new_length(self, name: str, axis: int) -> Dimension | None:
        """Return the new length of an axis that changes, None for one that stays as it is.

        Of a size as ``4*batch`` the factor changes.
        """

    def sliced(self, array: Array, name: str) -> Array:
        """Return the part of a constant that broadcasts against ``name`` which belongs to its kept elements."""

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the numpy dtype of a tensor."""

    # What one node leaves to the nodes behind it.

    def defer_offset(self, name: str, offset: Offset) -> None:
        """Leave it to the readers of a tensor, who all can, to take up a vector that it should be increased by."""

    def deferred_offset(self, name: str) -> Offset | None:
        """Return the vector that the readers of ``name`` must take up; None if there is none."""

    def defer_reconstruction(self, name: str, reconstruction: Reconstruction) -> None:
        """Leave it to the readers of a tensor, who all can, to reconstruct what they need from what is left of it."""

    def deferred_reconstruction(self, name: str) -> Reconstruction | None:
        """Return what the readers of ``name`` must reconstruct; None if it holds what it always did."""

    def offset(self, node: Node, offset: Offset, bias_position: int, dtype: np.dtype[Any]) -> None:
        """Add a vector along an axis of the first output of a linear node.

        It joins the constants of the readers where those can take it up, else becomes the node's own bias, else a new
        Add.
        """

    # Changes.

    def check_finite(
        self, array: Array, dtype: np.dtype[Any], lesson: Callable[[], Lesson], before: Array | None = None
    ) -> None:
        """Raise a lesson if float64 results do not fit ``dtype``, where what stood there ``before`` was finite."""

    def set_attribute(self, node: Node, name: str, value: Any) -> None:
        """Set an attribute; None removes it. A fused node has only those that are constants of its group."""

    def set_constant(self, node: Node, position: int, array: Array, kept: Kept | None = None) -> None:
        """Give a node a new constant at an input position, named after the tensor that it replaces.

        ``kept`` may say which part of that it is, for one that the file computes: it is then sliced where it is stored,
        if that takes fewer bytes. Of a part along a single axis that is found out.

        A constant that the file stores as codes is stored so again where codes stand for all of it exactly.

        Of a weight with several readers, some of which read it transposed, it is the stored form that is replaced.
        """

    def constant_at(self, node: Node, position: int) -> Array | None:
        """Return the constant that a node has at an input by now, None if it has none there."""

    def drop_inputs(self, node: Node, positions: Sequence[int]) -> None:
        """Remove inputs of a node that takes any number of them."""

    def clear_inputs(self, node: Node, positions: Sequence[int]) -> None:
        """Leave out optional inputs of a node without moving those behind them."""

    def drop_output(self, node: Node, position: int) -> None:
        """Remove an output, which nothing reads any more."""

    def replace(
        self,
        node: Node,
        op: str,
        inputs: Sequence[Operand],
        function: onnx.FunctionProto | None = None,
        **attributes: Any,
    ) -> None:
        """Turn a node into another operator with the same outputs, one that ``function`` defines if that is given."""

    def compute(self, node: Node, op: str, inputs: Sequence[Operand], domain: str = "", **attributes: Any) -> gs.Tensor:
        """Compute something in front of a node by a new one, and return it."""

    def insert_before(
        self,
        node: Node,
        position: int,
        op: str,
        inputs: Sequence[Operand | None],
        domain: str = "",
        **attributes: Any,
    ) -> None:
        """Compute an input by a new node. None among its inputs stands for what the node reads there now."""

    def insert_after(
        self,
        node: Node,
        op: str,
        inputs: Sequence[Operand | None],
        position: int = 0,
        domain: str = "",
        **attributes: Any,
    ) -> None:
        """Compute an output's value further by a new node. None among its inputs stands for what the node wrote."""

    def select(self, node: Node, position: int, places: npt.NDArray[np.int64], axis: int) -> None:
        """Let a node read only some places along an axis of an input. Nodes that read the same ones share them."""

    def bypass(self, node: Node, position: int, written: int = 0) -> None:
        """Let the readers of one of a node's outputs read one of its inputs instead, so that the node falls away."""

    def note_nonzero(self, node: Node, columns: Bools, rows: Bools) -> None:
        """Tell the search that a layer needs these columns [in] and rows [out], more than the plan expects."""
