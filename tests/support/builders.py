"""Twin graphs: a small dense network and a wide one that contains it at random places, built side by side.

Every layer is asked for by its units (`Graphs.units`): those of the small network, and removable ones between them. The
wide network gets all of them, the small one its own, with what the constant ones contribute folded into its weights, so
that both compute the same function. What a constant becomes behind an operator is found by running that one operator in
float64 on maps of constants; nothing here knows any operator's formula.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Floats = npt.NDArray[np.float64]
Units = npt.NDArray[np.str_]
Array = npt.NDArray[Any]

LIVE = "live"  # a unit of the small network
DEAD = "dead"  # random weights in; no live unit reads it
CONST = "const"  # no weights in, but a bias, which live units read
ZERO = "zero"  # a CONST whose bias is 0
LATE = "late"  # reads constants only, through weights that are not zero
OFF = "off"  # no positive weight or bias: 0 behind a ReLU if its inputs are never negative
REPRESENTATIVE = "rep"  # a CONST that the small network has too: stands for the others in a zero-padded convolution
SPARE = "spare"  # a DEAD that the small network has too: keeps groups equal
KEPT = (LIVE, REPRESENTATIVE, SPARE)

GUESSES = (-3.7, 0.41, 5.3)  # where about a value may be that is not known
EXTENT = 8  # of a dynamic spatial axis, when operators are tried on maps of constants
TRUSTED_BATCH_NORM = 14  # before this opset, onnx.reference normalizes with the batch's own mean and variance


@dataclass(frozen=True)
class Both:
    """A name, size or array that differs between the wide and the small network."""

    wide: Any
    small: Any


def on(side: str, value: Any) -> Any:
    """Return a value for one of the two networks."""
    return getattr(value, side) if isinstance(value, Both) else value


@dataclass(frozen=True)
class Tensor:
    """A tensor of both networks.

    Attributes:
        name: what it is called. shape: its example shape in the wide network. axis: where its channels are.
        kinds: what each channel of the wide one is. fill: its value where constant, else NaN.
        shift: the wide network's value minus the small one's, by channel (a constant not folded yet).
        order: which channels the small network has, in its order, if that is another one.
    """

    name: Any
    shape: tuple[int, ...]
    axis: int
    kinds: Units
    fill: Floats
    shift: Any = 0.0
    order: Any = None

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        """Which channels the small network has."""
        return np.isin(self.kinds, KEPT)

    @property
    def places(self) -> Array:
        """Where the small network's channels are in the wide one."""
        return np.flatnonzero(self.kept) if self.order is None else np.asarray(self.order)

    @property
    def constant(self) -> npt.NDArray[np.bool_]:
        """Which channels hold one known value."""
        return ~np.isnan(self.fill)

    @property
    def width(self) -> Both:
        """The number of channels."""
        return Both(len(self.kinds), int(self.kept.sum()))

    def along(self, values: Any, trailing: bool = False) -> Array:
        """Reshape a vector so that it broadcasts along the channels (`trailing`: without the axes before them)."""
        dims = [1] * len(self.shape)
        dims[self.axis] = -1
        return np.asarray(values).reshape(dims[self.axis :] if trailing else dims)

    def part(self, start: int, stop: int) -> Tensor:
        """Return what is known of a range of the channels."""
        return replace(self, kinds=self.kinds[start:stop], fill=self.fill[start:stop], shift=0.0)


@dataclass(frozen=True)
class Pair:
    """Two networks of one function, and the dims of their inputs."""

    wide: onnx.ModelProto
    small: onnx.ModelProto


class Graphs:
    """Two graphs under construction; each method adds nodes to both and returns the resulting tensor."""

    def __init__(self, seed: int = 0, opset: int = 17) -> None:
        self.random = np.random.default_rng(seed)
        self.opset = opset
        self.sides: tuple[str, ...] = ("wide", "small")
        self.nodes: dict[str, list[onnx.NodeProto]] = {"wide": [], "small": []}
        self.parameters: dict[str, dict[str, Array]] = {"wide": {}, "small": {}}
        self.examples: dict[str, Array] = {}
        self.stored: dict[str, Any] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self._count = 0

    # -- what stands in the graphs ----------------------------------------------------------------------------------

    def input(self, *dims: int | str, axis: int = 1, elem_type: int = TensorProto.FLOAT) -> Tensor:
        """Add a graph input; a dim that is a string is dynamic."""
        name = f"input_{len(self.inputs)}"
        self.inputs.append(helper.make_tensor_value_info(name, elem_type, dims))
        shape = tuple(size if isinstance(size, int) else EXTENT if index else 1 for index, size in enumerate(dims))
        return Tensor(name, shape, axis, np.full(shape[axis], LIVE), np.full(shape[axis], np.nan))

    def units(self, **counts: int) -> Units:
        """Return that many units of each kind, in random order."""
        return self.random.permutation([kind for kind, count in counts.items() for _ in range(count)])

    def groups(self, number: int, **counts: int) -> Units:
        """Return that many groups with equal counts, each in an order of its own."""
        return np.concatenate([self.units(**counts) for _ in range(number)])

    @contextmanager
    def only(self, side: str) -> Iterator[None]:
        """Add what follows to one of the two networks."""
        before, self.sides = self.sides, (side,)
        yield
        self.sides = before

    def parameter(self, value: Any, dtype: Any = np.float32) -> str:
        """Add an initializer and return its name."""
        name = f"parameter_{len(self.parameters['wide']) + len(self.parameters['small'])}_{self._count}"
        for side in self.sides:
            self.parameters[side][name] = np.asarray(on(side, value), dtype)
        return name

    def integers(self, *values: Any) -> str:
        """Add a vector of int64; each entry may be a `Both`."""
        return self.parameter(Both([on("wide", v) for v in values], [on("small", v) for v in values]), np.int64)

    def relu(self, x: Tensor) -> Tensor:
        """Add a ReLU."""
        return self.op("Relu", x)

    def vector(self, x: Tensor, values: Any, trailing: bool = False) -> str:
        """Add one number for each channel of a tensor, shaped to broadcast along them."""
        values = np.asarray(values)
        return self.parameter(Both(x.along(values, trailing), x.along(values[x.kept], trailing)))

    def node(self, op: str, inputs: Sequence[Any], outputs: int = 1, **attributes: Any) -> list[str]:
        """Add a node; inputs are tensors or names ("" or None: absent)."""
        self._count += 1
        names = [f"{op.lower()}_{self._count}" + (f"_{index}" if outputs > 1 else "") for index in range(outputs)]
        for side in self.sides:
            read = [on(side, i.name if isinstance(i, Tensor) else i) or "" for i in inputs]
            while read and not read[-1]:
                read.pop()
            given = {key: on(side, value) for key, value in attributes.items() if on(side, value) is not None}
            self.nodes[side].append(helper.make_node(op, read, names, name=f"node_{self._count}", **given))
        return names

    def op(self, op: str, *inputs: Any, **options: Any) -> Tensor:
        """Add a node with one output; the options are those of `ops` and the node's attributes."""
        return self.ops(op, *inputs, **options)[0]

    def ops(
        self,
        op: str,
        *inputs: Any,
        channels: int | None = None,
        units: Any = None,
        moves: bool = False,
        outputs: int = 1,
        **attributes: Any,
    ) -> list[Tensor]:
        """Add a node and find out what its outputs are.

        Args:
            op: its type. inputs: tensors or names. attributes: its attributes.
            channels: the channel axis of its outputs, if another one. units: their kinds, if new.
            moves: whether it moves channels about (Concat, Slice, Tile ...) so that kinds move with them.
            outputs: how many.
        """
        read = [tensor for tensor in inputs if isinstance(tensor, Tensor)]
        first = max(read, key=lambda tensor: (len(tensor.kinds), not tensor.constant.all()))
        if not moves and units is None:
            alike = [x for x in read if len(x.kinds) > 1 and not x.constant.all()]
            assert all(np.array_equal(first.kept, x.kept) for x in alike), "channels do not match"
        names = self.node(op, inputs, outputs, **attributes)
        trials = self._try_constants(inputs)
        axis = first.axis if channels is None else channels
        kinds = units if units is not None else None if moves else first.kinds
        made = [_describe(name, [trial[index] for trial in trials], axis, kinds) for index, name in enumerate(names)]
        if units is None and not moves:
            made = [replace(tensor, order=first.order) for tensor in made]
        if moves:
            moved = self._try_kinds(inputs)
            made = [replace(tensor, kinds=_first(moved[index], axis)) for index, tensor in enumerate(made)]
        return made

    def _try_constants(self, inputs: Sequence[Any]) -> list[list[Array]]:
        """Run the last node on maps of constants, with three different guesses where a channel is not constant."""
        trials, last = [], self._last()
        for guess in GUESSES:
            noise = np.random.default_rng(0)

            def fill(tensor: Tensor, guess: float = guess, noise: np.random.Generator = noise) -> Array:
                free = guess * noise.uniform(0.9, 1.1, tensor.shape)
                free = np.where(tensor.along(tensor.kinds == OFF), -np.abs(free), free)
                return np.where(tensor.along(tensor.constant), tensor.along(tensor.fill), free)

            trials.append(last(self._feeds(inputs, fill)))
        return trials

    def _try_kinds(self, inputs: Sequence[Any]) -> list[Array]:
        """Run the last node, which moves channels about, on maps of their kinds' numbers (it pads with 0)."""
        table = np.array([ZERO, LIVE, DEAD, CONST, LATE, OFF, REPRESENTATIVE, SPARE])

        def number(tensor: Tensor) -> Array:
            numbers = np.argmax(tensor.kinds[:, None] == table[None], axis=1).astype(np.float64)
            return np.broadcast_to(tensor.along(numbers), tensor.shape)

        return [table[moved.astype(np.int64)] for moved in self._run_last(self._feeds(inputs, number))]

    def _feeds(self, inputs: Sequence[Any], of: Callable[[Tensor], Array]) -> list[Array]:
        """Return what the last node reads: maps made from tensors, values of parameters and of computed sizes."""
        feeds = []
        for given in inputs:
            if isinstance(given, Tensor):
                feeds.append(of(given))
            elif name := on("wide", given):
                value = self.examples[name] if name in self.examples else self.parameters["wide"][name]
                feeds.append(value.astype(np.float64) if value.dtype.kind == "f" else value)
        return feeds

    def _run_last(self, feeds: Sequence[Array]) -> list[Array]:
        return self._last()(feeds)

    def _last(self) -> Callable[[Sequence[Array]], list[Array]]:
        """Return what computes the last node's outputs from its inputs."""
        node = self.nodes[self.sides[0]][-1]
        if node.op_type != "ConvTranspose":
            return self._evaluator(node)

        def ungrouped(feeds: Sequence[Array]) -> list[Array]:
            plain, read = _ungrouped(node, feeds)
            return self._evaluator(plain)(read)

        return ungrouped

    def _evaluator(self, node: onnx.NodeProto) -> Callable[[Sequence[Array]], list[Array]]:
        names = [name for name in node.input if name]
        graph = helper.make_graph([node], "one", [_any(name) for name in names], [_any(name) for name in node.output])
        opset = max(self.opset, TRUSTED_BATCH_NORM) if node.op_type == "BatchNormalization" else self.opset
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        evaluator = ReferenceEvaluator(model)

        def computed(feeds: Sequence[Array]) -> list[Array]:
            with np.errstate(all="ignore"):
                made = evaluator.run(None, dict(zip(names, feeds, strict=True)))
            return [np.asarray(output) for output in made]

        return computed

    def sizes(self, op: str, *inputs: Any, **attributes: Any) -> str:
        """Add a node that computes sizes (Shape, Gather, Concat ...) from the shapes of tensors; return its output."""
        name = self.node(op, inputs, **attributes)[0]
        self.examples[name] = self._run_last(self._feeds(inputs, lambda tensor: np.zeros(tensor.shape)))[0]
        return name

    def with_axes(self, op: str, x: Tensor, axes: Sequence[int], since: int = 13, **options: Any) -> Tensor:
        """Add a node whose axes are an attribute, or an input since some opset."""
        if self.opset >= since:
            return self.op(op, x, self.integers(*axes), **options)
        return self.op(op, x, axes=list(axes), **options)

    def entry(self, shape: str, index: int) -> str:
        """Take one size out of a shape, as a vector of one."""
        size = self.sizes("Gather", shape, self.parameter(index, np.int64), axis=0)
        if self.opset >= 13:
            return self.sizes("Unsqueeze", size, self.integers(0))
        return self.sizes("Unsqueeze", size, axes=[0])

    # -- the result -------------------------------------------------------------------------------------------------

    def pair(self, *outputs: Tensor) -> Pair:
        """Return both networks; all dims of an output but its channels are dynamic."""
        return Pair(self._model("wide", outputs), self._model("small", outputs))

    def _model(self, side: str, outputs: Sequence[Tensor]) -> onnx.ModelProto:
        renamed, infos = {}, []
        for number, x in enumerate(outputs):
            assert x.kept.all(), "an output must be the same in both networks"
            dims = [size if axis == x.axis else f"out{number}_{axis}" for axis, size in enumerate(x.shape)]
            renamed[on(side, x.name)] = f"output_{number}"
            infos.append(helper.make_tensor_value_info(f"output_{number}", TensorProto.FLOAT, dims))
        for node in self.nodes[side]:
            for names in (node.input, node.output):
                names[:] = [renamed.get(name, name) for name in names]
        read = {name for node in self.nodes[side] for name in node.input}
        weights = [numpy_helper.from_array(v, k) for k, v in self.parameters[side].items() if k in read]
        graph = helper.make_graph(self.nodes[side], side, self.inputs, infos, weights)
        opset = helper.make_opsetid("", self.opset)
        version = max(7, helper.find_min_ir_version_for([opset]))
        model = helper.make_model(graph, opset_imports=[opset], ir_version=version)
        onnx.checker.check_model(model, full_check=True)
        return model


def _ungrouped(node: onnx.NodeProto, feeds: Sequence[Array]) -> tuple[onnx.NodeProto, list[Array]]:
    """Put zeros between the groups of a ConvTranspose, of which onnx.reference runs the ordinary one only."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    groups, weight = attributes.pop("group"), feeds[1]
    blocks = weight.reshape(groups, -1, *weight.shape[1:])
    dense = np.zeros((*blocks.shape[:2], groups, *weight.shape[1:]))
    for group in range(groups):
        dense[group, :, group] = blocks[group]
    plain = helper.make_node(node.op_type, node.input, node.output, **attributes)
    return plain, [feeds[0], dense.reshape(weight.shape[0], -1, *weight.shape[2:]), *feeds[2:]]


def _any(name: str) -> onnx.ValueInfoProto:
    return helper.make_value_info(name, onnx.TypeProto())


def _first(values: Array, axis: int) -> Array:
    """Return the first entry along each axis but one."""
    rows: Array = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])
    return rows[0]  # type: ignore[no-any-return]


def _describe(name: str, trials: Sequence[Array], axis: int, kinds: Any) -> Tensor:
    """Return the tensor that came out of the trials; a channel with one value in all of them is constant."""
    rows = np.concatenate([np.moveaxis(trial, axis, -1).reshape(-1, trial.shape[axis]) for trial in trials])
    same = np.isfinite(rows).all(0) & (np.ptp(np.where(np.isfinite(rows), rows, 0), axis=0) <= 1e-12 * np.abs(rows[0]))
    fill = np.where(same, rows[0], np.nan).astype(np.float64)
    return Tensor(name, trials[0].shape, axis, np.full(len(fill), LIVE) if kinds is None else kinds, fill)
