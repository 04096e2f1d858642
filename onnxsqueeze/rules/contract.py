"""The record that holds all that is known about one operator, the registry of records, and what rules may look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from onnxsqueeze.abstract.compact import Array, Bools, Floats
from onnxsqueeze.abstract.interval import Interval, constant_interval, top
from onnxsqueeze.abstract.specials import Specials, specials_of
from onnxsqueeze.abstract.symbolic import Shape
from onnxsqueeze.coupling.classes import Elements
from onnxsqueeze.coupling.keep_reason import Reason
from onnxsqueeze.graph.graph import ONNX_DOMAIN, Graph, Node
from onnxsqueeze.rules.codes import Codes, limits
from onnxsqueeze.rules.kept import Kept
from onnxsqueeze.rules.lessons import Learned
from onnxsqueeze.rules.parameter import Parameter
from onnxsqueeze.rules.products import Product
from onnxsqueeze.rules.traits import Trait

if TYPE_CHECKING:
    from onnxsqueeze.coupling.constraint import Constraint
    from onnxsqueeze.rules.rewriter import Rewriter
    from onnxsqueeze.rules.weight_view import Linear

T = TypeVar("T")


@dataclass(frozen=True)
class Demand:
    """What a node asks of one of its inputs (compact masks that broadcast against the input's classes).

    Attributes:
        live: elements whose value the node's needed outputs depend on. A constant may still be absorbed.
        hold: elements that must stay even if they are constant, with the reason and its detail.
        folds: elements that vary, and may go all the same: the node computes with a `Reconstruction` of them.
    """

    live: Bools
    hold: Bools | None = None
    reason: Reason = Reason.UNKNOWN_OPERATOR
    detail: str = ""
    folds: Bools | None = None


@dataclass(frozen=True)
class Refusal:
    """Why a rule does not apply to a node, which is then treated as an unknown operator."""

    reason: Reason
    detail: str = ""


class Context:
    """What one analysis has found of a graph so far: shapes, data types, values, intervals, classes.

    The drivers fill it node by node: shape inference writes shapes, data types and values, the forward sweep intervals,
    rules and refusals. Of the callbacks of an `OpRule` two write to it as well:

    - ``infer`` may set the values of its node's outputs where nothing else knows them (sizes, a constant that is cast).
    - ``link`` sets the classes of the outputs, couples those of the inputs, and adds to all else in ``elements``, to
      ``tied`` and to ``crossed``. Where elements of an input must share a class from now on, it also puts the coarser
      array in the place of the input's own; whoever took the finer one before holds other members of the same classes.
      What a node computes inside (``elements.inner``) gets its shape and its classes here too.

    All others only read. But what they ask for may be made when it is first asked for: intervals of constants, classes,
    and what the decorators of `onnxsqueeze.rules.memo` remember.

    Attributes:
        graph: the graph.
        learned: what earlier attempts at the same graph found out.
        elements: the classes and the constraints between them.
        shapes, dtypes, values, intervals: by tensor.
        rules: by node index the rule in force, as ``dispatch`` and ``applies`` resolved it; UNKNOWN after a refusal,
            and for a node that no output depends on. What holds whether or not a rule applies is asked of the
            registered one (`rules.registry.rule_for`): ``infer`` and ``evaluate``, which come first, and traits.
        refusals: by node index, why its rule was refused.
        doubtful: the indices of nodes whose inputs do not fit each other by the standard's own inference.
        crossed: the indices of nodes that tied channels along one axis to each other, to work along another.
        specials: by tensor, where infinities and NaN may be (see `abstract.specials`).
        tested: the indices of nodes on whose results a test of the graph's own for infinities or NaN depends.
        tied: by a stored weight that is to be sliced once and a part of it, the classes that its first user gave to
            that part (see `onnxsqueeze.rules.tied_weights`).
    """

    def __init__(self, graph: Graph, learned: Learned = Learned()) -> None:  # noqa: B008  (frozen, so it can be shared)
        self.graph = graph
        self.learned = learned
        self.elements = Elements()
        self.shapes: dict[str, Shape] = {}
        self.dtypes: dict[str, int] = {}
        self.values: dict[str, Array] = {}
        self.intervals: dict[str, Interval] = {}
        self.rules: list[OpRule] = []
        self.refusals: dict[int, Refusal] = {}
        self.doubtful: set[int] = set()
        self.crossed: set[int] = set()
        self.specials: dict[str, Specials | None] = {}
        self.tested: frozenset[int] = frozenset()
        self.tied: dict[tuple[str | int, ...], npt.NDArray[np.int64]] = {}
        self._constants: dict[str, npt.NDArray[np.int64]] = {}
        self._packed: dict[str, Array | None] = {}
        self._memos: dict[Callable[..., Any], dict[tuple[Any, ...], Any]] = {}

    def memo(self, function: Callable[..., T]) -> dict[tuple[Any, ...], T]:
        """Return what a function has worked out here, by its arguments (see `onnxsqueeze.rules.memo`)."""
        return self._memos.setdefault(function, {})

    def value(self, name: str) -> Array | None:
        """Return the value of a tensor computed from initializers alone, else None (also where a size is symbolic)."""
        array = self.sizes(name)
        return None if array is None or array.dtype == object else array

    def sizes(self, name: str) -> Array | None:
        """Like `value`, but small integer tensors may hold symbolic dimensions (dtype object)."""
        if name not in self.values and name in self.graph.initializers:
            initializer = self.graph.initializers[name]
            return initializer.array if initializer.is_numeric else self._unpacked(name)
        return self.values.get(name)

    def _unpacked(self, name: str) -> Array | None:
        """Return the whole numbers of which several share a byte, decoded once; None for strings and other types."""
        if name not in self._packed:
            array = self.graph.initializers[name].array
            self._packed[name] = None if limits(array.dtype) is None else array
        return self._packed[name]

    def integers(self, name: str) -> list[int] | None:
        """Return a constant integer tensor as a list of Python ints, else None."""
        array = self.value(name) if name else None
        return None if array is None else [int(entry) for entry in array.ravel()]

    def interval(self, name: str) -> Interval:
        """Return what is known of a tensor's values."""
        if name not in self.intervals:
            array = self.value(name)
            numeric = array is not None and array.dtype.kind in "fiubV"
            self.intervals[name] = constant_interval(array) if numeric and array is not None else top(self.rank(name))
        return self.intervals[name]

    def special(self, name: str) -> Specials | None:
        """Return where a tensor may be infinite or NaN, None where all of it is finite."""
        if name not in self.specials:
            array = self.value(name)
            if array is None:
                return None  # it is a graph's input, or nothing has been found of it
            self.specials[name] = specials_of(array)
        return self.specials[name]

    def operand(self, name: str) -> Array | None:
        """Return a constant operand: a constant tensor's value, or the compact one of an activation found constant."""
        array = self.value(name)
        if array is not None or name not in self.intervals:
            return array
        interval = self.intervals[name]
        if name in self.learned.constant:
            return np.where(interval.constant, interval.lower, 0.0)
        return interval.lower if interval.wholly_constant else None

    def shape(self, name: str) -> Shape:
        """Return a tensor's shape; call only where the rank is known."""
        return self.shapes[name]

    def rank(self, name: str) -> int:
        """Return a tensor's rank, 0 where it is not known."""
        return len(self.shapes.get(name, ()))

    def ids(self, name: str) -> npt.NDArray[np.int64]:
        """Return the element classes of a tensor (compact)."""
        if name in self.elements.ids:
            return self.elements.ids[name]
        if name not in self._constants:  # a constant that is moved about as data is one class: it is not sliced
            self._constants[name] = self.elements.fresh((1,) * self.rank(name))
        return self._constants[name]

    def is_activation(self, name: str) -> bool:
        """Whether a tensor depends on the graph's inputs, so that its elements have classes."""
        return name in self.elements.ids


Evaluate = Callable[[Node, Sequence[Any]], Sequence[Any]]
Infer = Callable[[Node, Context], "Sequence[Shape | None]"]
ElementType = Callable[[Node, Context], "int | None | Sequence[int | None]"]
Applies = Callable[[Node, Context], "Refusal | None"]
Forward = Callable[[Node, Context], Sequence[Interval]]
SpecialValues = Callable[[Node, Context], "Sequence[Specials | None]"]
Link = Callable[[Node, Context], None]
Need = Callable[[Node, Context, Sequence[Bools]], "Sequence[Demand | None]"]
Repair = Callable[[Node, Context, "Rewriter"], None]
Absorbs = Callable[[Node, Context, int, int], bool]
Carries = Callable[[Node, Context, int, int], "int | None"]
Adopts = Callable[[Node, Context, "Rewriter", int, Floats], bool]
Alignment = Callable[[Node, Context], tuple[int, int]]
Worthwhile = Callable[[Node, Context], "Sequence[Constraint]"]
LinearView = Callable[[Node, Context], "Linear"]
Patches = Callable[[Node, "Linear", Array], Array]
Products = Callable[[Node, Context], Sequence[Product]]
Parameters = Callable[[Node, Context], Sequence[Parameter]]
Contracts = Callable[[Node, Context], Sequence[str]]
SlicedFrom = Callable[[Node, Context, Kept], "Sequence[Kept | None] | None"]
CodesOf = Callable[[Node, Context], Codes | None]
Permutes = Callable[[Node, int], Sequence[int]]
MovedBack = Callable[[Node, Context, Array], "Array | None"]
Expects = Callable[[Node, Graph, int, int], "int | None"]
Position = Callable[[Node, Context], "int | None"]
Cancels = Callable[[Node, Context], Sequence[int]]
Requested = Callable[[Node, Mapping[str, str]], bool]
Dispatch = Callable[[Node, Context], "OpRule"]


def _forward_unknown(node: Node, context: Context) -> Sequence[Interval]:
    return [top(context.rank(name)) for name in node.outputs]


def _link_opaque(node: Node, context: Context) -> None:
    for name in node.outputs:
        if name:
            context.elements.ids[name] = context.elements.fresh((1,) * context.rank(name))


def _need_everything(node: Node, context: Context, outputs: Sequence[Bools]) -> Sequence[Demand | None]:
    refusal = context.refusals.get(node.index) or Refusal(Reason.UNKNOWN_OPERATOR, node.operator)
    everything = np.full((), True)
    return [Demand(everything, everything, refusal.reason, refusal.detail) for _ in node.inputs]


def _repair_nothing(node: Node, context: Context, rewriter: Rewriter) -> None:
    return None


def _no_parameters(node: Node, context: Context) -> Sequence[Parameter]:
    return ()


@dataclass(frozen=True)
class ScoreRows:
    """What an operator does to rows along the last axis, as scores and probabilities are read (see `score_rows`).

    Attributes:
        total: what the outputs, none negative, sum to along an axis: 1, or 0 for at most 1, or None.
        finite: whether the output holds no infinity, for finite inputs and while no sum overflows.
        reached: whether every row of the output is sure to hold a finite number.
        commutes: whether a number added to each row of the input at a position becomes numbers added to the rows of the
            output.
        cancels: whether a number added to each row of the input makes no difference.
    """

    total: Callable[[Node, Context, int], int | None] = lambda node, context, axis: None
    finite: Callable[[Node, Context], bool] = lambda node, context: False
    reached: Callable[[Node, Context], bool] = lambda node, context: False
    commutes: Callable[[Node, Context, int], bool] = lambda node, context, position: False
    cancels: Callable[[Node, Context], bool] = lambda node, context: False


@dataclass(frozen=True)
class OpRule:
    """All that is known about one operator. Every field defaults to the safe answer: nothing known, all inputs needed.

    Attributes:
        op, domain: the operator. since, until: the opset versions (inclusive) at which the rule holds.
        evaluate: numpy semantics on constant inputs (None where absent); folds constants and sizes.
        infer: output shapes where onnx's own inference cannot see symbolic sizes; an entry None leaves it to onnx.
        element_type: the TensorProto.DataType of the outputs, of all or of each, where onnx has no schema, if not that
            of the first input.
        applies: a refusal, where the rule cannot hold for this node.
        forward: intervals of the outputs from those of the inputs.
        specials: where the outputs may be infinite or NaN, None for nowhere: what becomes of such inputs, and, before a
            test of the graph's own for them (``tested``), what the operator makes of finite ones. Asked of the
            registered rule. Without it all outputs may be once some input may, and elements of it are needed.
        link: gives each output its element classes and couples those of the inputs.
        need: what is needed of each input, given what is needed of each output.
        repair: rewrites attributes, constants and biases of a node whose tensors were narrowed.
        shape_input: the position of the input that requests the output's shape, if there is one (see `NarrowedShapes`).
        absorbs: whether the node can take up a vector that its input at a position should still be increased by along
            an axis (its repair then asks the rewriter for it).
        reconstructs: whether the node can compute with a `Reconstruction` of the channels that an input has along an
            axis (its repair then asks the rewriter for it).
        carries: the axis of the outputs along which an axis of the input at a position goes on, if the node does
            nothing to its channels but to copy them to other places, or to average over places.
        adopts: adds a vector along an axis to what the node writes, by its own constants; False if it cannot.
        alignment: (groups, the multiple that onnxruntime's blocked kernels want of an image's channels per group).
        worthwhile: constraints that keep channels whose removal would not make the node's surroundings faster.
        parameters: the constants of a node, what each does and whose channels they belong to: for reports, costs, and
            the units of training.
        contracts: the inputs whose channels a node sums over, unless ``linear`` says so.
        linear: the view of a node that multiplies by one weight as [groups, out, in, taps].
        patches: what that weight is multiplied by, from the data: a view [batch, *places, groups * in, taps], where the
            taps are not those of a single place. Without it a layer of several taps is not repaired.
        products: the matrices of a node that has several, see `Product`.
        narrows: whether that weight may be a part of what the tensors around the node leave of it (`Narrowing`).
        cancels: the positions of inputs whose positions along a sequence share their classes, and to which anything
            may be added that is the same for all of those (keys).
        traits: what holds whatever the inputs are.
        permutes: the axis of the first input that each axis of the output is, for an input of a rank, if the node does
            nothing else.
        moved_back: a compact array over the output as one over the first input, if the node only chooses elements of
            that; None where it depends on what was left out.
        sliced_from: what has to be kept of each constant input, so that the node computes what is kept of its only
            output; an entry None stands for all of the input, None in all for a node whose constants cannot be sliced.
        codes: how its output is stored as codes, for an operator that decodes them; None where it is not known.
        rows: what it does to rows of scores.
        scales: the position of an input that the node multiplies by one constant number, or divides by one.
        adds_constant: the position of an input that is a constant summand.
        optional_bias: the constant summand of a layer that may do without it, so that it broadcasts against the output.
        expects: how many channels along the last axis a node reads of its input at a position, whose rank is known or
            0, as far as constants say.
        requested: whether a user's options (see `Rewriter`) want the node rewritten even where nothing leaves it.
        dispatch: the rule to follow instead, where it depends on a node's inputs what kind of operator it is.
        beside: the rule to follow instead for nodes that work along another axis than the channels, which pass them:
            the finished analysis decides (see `onnxsqueeze.rules.lessons.PassBeside`).
        variants: the rules that ``dispatch`` may choose, so that the registry can say what becomes of the operator.
    """

    op: str
    domain: str = ONNX_DOMAIN
    since: int = 1
    until: int = 1 << 30
    evaluate: Evaluate | None = None
    infer: Infer | None = None
    element_type: ElementType | None = None
    applies: Applies | None = None
    forward: Forward = field(default=_forward_unknown)
    specials: SpecialValues | None = None
    link: Link = field(default=_link_opaque)
    need: Need = field(default=_need_everything)
    repair: Repair = field(default=_repair_nothing)
    shape_input: int | None = None
    absorbs: Absorbs | None = None
    reconstructs: Absorbs | None = None
    carries: Carries | None = None
    adopts: Adopts | None = None
    alignment: Alignment | None = None
    worthwhile: Worthwhile | None = None
    parameters: Parameters = field(default=_no_parameters)
    contracts: Contracts | None = None
    linear: LinearView | None = None
    patches: Patches | None = None
    products: Products | None = None
    narrows: bool = False
    cancels: Cancels | None = None
    traits: frozenset[Trait] = frozenset()
    permutes: Permutes | None = None
    moved_back: MovedBack | None = None
    sliced_from: SlicedFrom | None = None
    codes: CodesOf | None = None
    rows: ScoreRows = ScoreRows()  # noqa: RUF009  (frozen, so it can be shared)
    scales: Position | None = None
    adds_constant: Position | None = None
    optional_bias: Callable[[Node, Context], Array | None] | None = None
    expects: Expects | None = None
    requested: Requested | None = None
    dispatch: Dispatch | None = None
    beside: OpRule | None = None
    variants: tuple[OpRule, ...] = ()


UNKNOWN = OpRule(op="")
