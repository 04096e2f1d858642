"""A network under construction: one graph, and the shape of every tensor at two sizes of the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

BATCHES = (1, 3)  # where the batch is dynamic
MICROSOFT = "com.microsoft"
MASKS = ("units", "inputs", "elements", "none")


@dataclass(frozen=True)
class Tensor:
    """A tensor; its channels are along axis 1, behind the batch and before the spatial axes.

    Attributes:
        name: what it is called. shapes: its shape at both sizes of the input.
        values: what it holds at both, if that is known. dtype: its type, if it is not the network's own.
    """

    name: str
    shapes: tuple[Shape, Shape]
    values: tuple[Array, Array] | None = None
    dtype: Any = None

    @property
    def channels(self) -> int:
        """The number of channels."""
        return self.shapes[0][1]

    @property
    def width(self) -> int:
        """The length of the last axis, along which tokens have their channels."""
        return self.shapes[0][-1]

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shapes[0])

    @property
    def spatial(self) -> int:
        """The number of spatial axes."""
        return self.rank - 2

    @property
    def space(self) -> list[int]:
        """The spatial axes."""
        return list(range(2, self.rank))

    @property
    def least(self) -> int:
        """The smallest extent of a spatial axis."""
        return min((extent for shape in self.shapes for extent in shape[2:]), default=1)

    @property
    def fixed(self) -> bool:
        """Whether the spatial extents are always the same."""
        return self.shapes[0][2:] == self.shapes[1][2:]

    @property
    def static(self) -> bool:
        """Whether all extents but the batch are always the same."""
        return self.shapes[0][1:] == self.shapes[1][1:]

    @property
    def elements(self) -> int:
        """The larger number of elements for one entry of the batch."""
        return max(int(np.prod(shape[1:])) for shape in self.shapes)

    def fits(self, other: Tensor) -> bool:
        """Say whether another tensor has the same shape but for its channels."""
        return all(a[:1] + a[2:] == b[:1] + b[2:] for a, b in zip(self.shapes, other.shapes, strict=True))


class Network:
    """A graph under construction; what is not said about it is drawn at random."""

    def __init__(self, random: np.random.Generator, opset: int, dtype: type[np.floating[Any]]) -> None:
        self.random = random
        self.opset = opset
        self.dtype = dtype
        self.inputs: list[onnx.ValueInfoProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.made: list[tuple[str, Tensor]] = []  # by what operator
        self._kernels: dict[Shape, Tensor] = {}
        self._count = 0

    # -- drawing --------------------------------------------------------------------------------------------------

    def chance(self, probability: float) -> bool:
        """Return True with a probability."""
        return bool(self.random.random() < probability)

    def pick(self, *options: Any) -> Any:
        """Return one of the options."""
        return options[int(self.random.integers(len(options)))]

    def whole(self, low: int, high: int) -> int:
        """Return an integer from low to high, both included."""
        return int(self.random.integers(low, high + 1))

    def normal(self, *shape: int) -> Array:
        """Return random numbers of about one."""
        return np.asarray(self.random.standard_normal(shape))

    def sparse(self, *shape: int, share: float = 0.3) -> Array:
        """Return random numbers, some of which are zero."""
        return self.normal(*shape) * (self.random.random(shape) >= share)

    # -- what stands in the graph -----------------------------------------------------------------------------------

    def input(
        self, dims: Sequence[int | str], sizes: tuple[Shape, Shape], name: str = "input", dtype: Any = None
    ) -> Tensor:
        """Add an input (of the network's type) with the dims of its declaration and its shapes at both sizes."""
        elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype or self.dtype))
        self.inputs.append(helper.make_tensor_value_info(name, elem_type, dims))
        return Tensor(name, sizes, dtype=dtype)

    @property
    def elem_type(self) -> int:
        """The type of all floats of the network."""
        return helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))

    def constant(self, value: Any, dtype: Any = None) -> Tensor:
        """Store a constant (of the network's type), mostly as an initializer and sometimes as a Constant node."""
        array = np.asarray(value, dtype or self.dtype)
        self._count += 1
        name = f"constant_{self._count}"
        tensor = numpy_helper.from_array(array, name)
        if self.chance(0.15):
            self.nodes.append(helper.make_node("Constant", [], [name], name=f"node_{self._count}", value=tensor))
        else:
            self.initializers.append(tensor)
        return Tensor(name, (array.shape, array.shape), (array, array))

    def integers(self, *values: int) -> Tensor:
        """Store a vector of int64."""
        return self.constant(values, np.int64)

    def weight(self, *shape: int, axes: tuple[int, int] = (0, 1)) -> Tensor:
        """Store a masked weight, or read one of the same shape a second time.

        Args:
            shape: its shape. axes: where its units and its inputs are.
        """
        if shape in self._kernels and self.chance(0.3):
            return self._kernels[shape]
        units, inputs = axes
        values = self.normal(*shape) / np.sqrt(np.prod(shape) / shape[units])
        kind = self.pick(*MASKS)
        if kind == "elements":
            values *= self.random.random(shape) < 0.1
        elif kind != "none":
            axis = units if kind == "units" else inputs
            values[(slice(None),) * axis + (self.random.random(shape[axis]) < 0.5,)] = 0
        self._kernels[shape] = self.constant(values)
        return self._kernels[shape]

    def bias(self, units: int) -> list[Tensor]:
        """Store a bias with some zeros, or none."""
        return [self.constant(self.sparse(units))] if self.chance(0.7) else []

    def per_channel(self, x: Tensor, values: Any) -> Tensor:
        """Store one number for each channel, shaped to broadcast."""
        return self.constant(np.asarray(values).reshape(-1, *[1] * x.spatial))

    # -- nodes ------------------------------------------------------------------------------------------------------

    def add(
        self, op: str, *inputs: Tensor | None, values: tuple[Array, Array] | None = None, **attributes: Any
    ) -> Tensor:
        """Add a node with one output, of which the values may be known."""
        made = self.split(op, *inputs, outputs=1, **attributes)[0]
        return Tensor(made.name, made.shapes, values)

    def split(self, op: str, *inputs: Tensor | None, outputs: int, **attributes: Any) -> list[Tensor]:
        """Add a node with several outputs; an input that is None is absent."""
        self._count += 1
        names = [f"{op.lower()}_{self._count}_{index}" for index in range(outputs)]
        read = [tensor.name if tensor else "" for tensor in inputs]
        node = helper.make_node(op, read, names, name=f"node_{self._count}", **attributes)
        self.nodes.append(node)
        at = [self._shapes(node, [tensor for tensor in inputs if tensor], case) for case in (0, 1)]
        tensors = [Tensor(name, (at[0][name], at[1][name])) for name in names]
        self.made += [(op, tensor) for tensor in tensors]
        return tensors

    def foreign(self, op: str, *inputs: Tensor | None, like: tuple[Shape, Shape], **attributes: Any) -> Tensor:
        """Add a node of com.microsoft with one output, whose shapes must be given."""
        self._count += 1
        made = Tensor(f"{op.lower()}_{self._count}", like)
        read = [tensor.name if tensor else "" for tensor in inputs]
        name = f"node_{self._count}"
        self.nodes.append(helper.make_node(op, read, [made.name], name=name, domain=MICROSOFT, **attributes))
        self.made.append((op, made))
        return made

    def _shapes(self, node: onnx.NodeProto, inputs: Sequence[Tensor], case: int) -> dict[str, Shape]:
        types, data = {}, {}
        for tensor in inputs:
            value = tensor.values[case] if tensor.values else None
            dtype = tensor.dtype or self.dtype if value is None else value.dtype
            elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            types[tensor.name] = helper.make_tensor_type_proto(elem_type, tensor.shapes[case])
            if value is not None:
                data[tensor.name] = numpy_helper.from_array(value)
        schema = onnx.defs.get_schema(node.op_type, self.opset)
        opsets = [helper.make_opsetid("", self.opset)]
        made = onnx.shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=opsets)
        return {name: tuple(d.dim_value for d in kind.tensor_type.shape.dim) for name, kind in made.items()}

    def with_axes(self, op: str, x: Tensor, axes: Sequence[int], since: int = 13, **attributes: Any) -> Tensor:
        """Add a node whose axes are an attribute, or an input since some opset."""
        if self.opset >= since:
            return self.add(op, x, self.integers(*axes), **attributes)
        return self.add(op, x, axes=list(axes), **attributes)

    def shape(self, x: Tensor) -> Tensor:
        """Read the shape of a tensor."""
        return self.add("Shape", x, values=(np.array(x.shapes[0]), np.array(x.shapes[1])))

    def extent(self, x: Tensor, axis: int) -> Tensor:
        """Compute the extent of an axis, as a vector of one: Shape, Gather, Unsqueeze."""
        shape = self.shape(x)
        size = (np.array(x.shapes[0][axis]), np.array(x.shapes[1][axis]))
        entry = self.add("Gather", shape, self.constant(axis, np.int64), axis=0, values=size)
        vector = self.with_axes("Unsqueeze", entry, [0])
        return Tensor(vector.name, vector.shapes, (size[0].reshape(1), size[1].reshape(1)))

    def sizes(self, *parts: int | Tensor) -> Tensor:
        """Put sizes together: a constant if all of them are, else computed by a Concat."""
        if all(isinstance(part, int) for part in parts):
            return self.integers(*parts)  # type: ignore[arg-type]
        vectors = [part if isinstance(part, Tensor) else self.integers(part) for part in parts]
        known = [np.concatenate([vector.values[case] for vector in vectors if vector.values]) for case in (0, 1)]
        return self.add("Concat", *vectors, axis=0, values=(known[0], known[1]))

    def extents(self, x: Tensor) -> list[int | Tensor]:
        """Return the spatial extents as constants where they are fixed, or computed."""
        fixed = x.fixed and self.chance(0.6)
        return [x.shapes[0][axis] if fixed else self.extent(x, axis) for axis in x.space]

    def model(self, *outputs: Tensor) -> onnx.ModelProto:
        """Return the checked model; a dim of an output is dynamic where it differs between the two sizes."""
        infos = []
        for number, x in enumerate(outputs):
            extents = enumerate(zip(*x.shapes, strict=True))
            dims = [a if a == b else f"output_{number}_{axis}" for axis, (a, b) in extents]
            infos.append(helper.make_tensor_value_info(x.name, self.elem_type, dims))
        graph = helper.make_graph(self.nodes, "random", self.inputs, infos, self.initializers)
        opset = helper.make_opsetid("", self.opset)
        version = max(7, helper.find_min_ir_version_for([opset]))
        foreign = [helper.make_opsetid(MICROSOFT, 1)] if any(node.domain for node in self.nodes) else []
        model = helper.make_model(graph, opset_imports=[opset, *foreign], ir_version=version)
        onnx.checker.check_model(model, full_check=True)
        return model
