"""Obeys a plan: rules rewrite their nodes through an `Editor`, which slices, adds and replaces by onnx-graphsurgeon.

Graphsurgeon sees a bare copy of the graph, without attributes that it would lose and without weights. Nodes that no
rule touched are written back exactly as they came, and what the file says beside its nodes is never rebuilt.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
from onnx import ModelProto, helper

from onnxsqueeze.abstract.compact import Array, Floats
from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.graph.graph import PATTERN_DOMAIN, Node
from onnxsqueeze.graph.weight_source import stored, uses
from onnxsqueeze.model import local_functions as functions
from onnxsqueeze.rewriting.deferred import Handing
from onnxsqueeze.rewriting.graphsurgeon import attributes_of, bare, exported_node, node_names
from onnxsqueeze.rewriting.plan_view import Remaining
from onnxsqueeze.rewriting.slicing import kept_part
from onnxsqueeze.rules.lessons import FoldOverflow
from onnxsqueeze.rules.plan import Plan, Used
from onnxsqueeze.rules.queries import absorbed_by_readers
from onnxsqueeze.shapes.computed_shapes import Sizes

_SMALL = 4096  # elements up to which equal new constants are shared


class Editor(Remaining, Handing):
    """The graph under change. All names and axes are those of the original graph.

    ``options`` are a user's choices among forms that a rule can write, by name.
    """

    def __init__(self, analysis: Analysis, plan: Plan, options: Mapping[str, str] | None = None) -> None:
        Remaining.__init__(self, analysis.context, plan)
        Handing.__init__(self, analysis.context)
        self.options = options or {}
        self.used: dict[int, Used] = {}  # by node index, where more of a weight is than the plan expects
        self._graph = analysis.graph
        self._surgeon = gs.import_onnx(bare(analysis.graph))
        self._tensors: dict[str, gs.Tensor] = self._surgeon.tensors()
        self._nodes = list(self._surgeon.nodes)
        self._before: dict[int, list[gs.Node]] = defaultdict(list)
        self._after: dict[int, list[gs.Node]] = defaultdict(list)
        self._edited: set[int] = set()
        self._constants: dict[int, tuple[gs.Variable, Array, str]] = {}
        self._shared: dict[tuple[str, bytes], gs.Variable] = {}
        self._selected: dict[tuple[int, int, bytes], gs.Tensor] = {}
        self._inner = {name for group in self._graph.model.fusion.groups.values() for name in group.inner}
        self._node_names = node_names(self._graph)
        self._functions: dict[tuple[str, str], onnx.FunctionProto] = {}

    @cached_property
    def sizes(self) -> Sizes:
        """The sizes that the narrowed model computes."""
        return Sizes(self)

    @property
    def opset(self) -> int:
        """The version of the standard operators that the model imports."""
        return int(self._graph.opsets.get("", 0))

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the numpy dtype of a tensor."""
        return helper.tensor_dtype_to_np_dtype(self.context.dtypes[name])

    def sliced(self, array: Array, name: str) -> Array:
        """Return the part of a constant that broadcasts against ``name`` which belongs to its kept elements."""
        return kept_part(array, self.mask(name))

    def check_finite(self, array: Array, tensor: str, dtype: np.dtype[Any]) -> None:
        """Raise FoldOverflow if float64 results do not fit ``dtype``."""
        if array.dtype == np.float64 and dtype != np.float64 and array.size:
            with np.errstate(over="ignore"):
                if not np.isfinite(np.asarray([array.max(), array.min()]).astype(dtype).astype(np.float64)).all():
                    raise FoldOverflow(tensor)

    def set_attribute(self, node: Node, name: str, value: Any) -> None:
        """Set an attribute; None removes it. A fused node has only those that are constants of its group."""
        attributes = self._edit(node).attrs
        if node.group is not None:
            position, before = node.group.numbers[name]
            number = np.asarray(value, dtype=np.float64).astype(before.dtype).reshape(before.shape)
            self._put(node, position, self._constant(number, node.group.inputs[position], f"{node.label}.{name}"))
        if value is None:
            attributes.pop(name, None)
        else:
            attributes[name] = value

    def set_constant(self, node: Node, position: int, array: Array) -> None:
        """Give a node a new constant at an input position, named after the tensor that it replaces.

        Of a weight with several readers, some of which read it transposed, it is the stored form that is replaced.
        """
        name, hint = node.input(position), f"{node.label}.constant"
        source = stored(self._graph, name, array.ndim) if name not in self._graph.initializers else None
        if source is None or self.context.rank(name) != array.ndim or uses(self._graph, source.name) < 2:
            self._put(node, position, self._constant(array, name, hint))
            return
        constant: gs.Tensor = self._constant(array.transpose(np.argsort(source.order)), source.name, hint)
        if source.order != tuple(range(array.ndim)):
            constant = self.compute(node, "Transpose", [constant], perm=list(source.order))
        self._put(node, position, constant)

    def drop_inputs(self, node: Node, positions: Sequence[int]) -> None:
        """Remove inputs of a node that takes any number of them."""
        if positions:
            inputs = self._edit(node).inputs
            for position in sorted(positions, reverse=True):
                del inputs[position]

    def clear_inputs(self, node: Node, positions: Sequence[int]) -> None:
        """Leave out optional inputs of a node without moving those behind them."""
        for position in positions:
            self._put(node, position, gs.Variable.empty())

    def drop_output(self, node: Node, position: int) -> None:
        """Remove an output, which nothing reads any more."""
        outputs = self._edit(node).outputs
        del outputs[position]

    def replace(
        self,
        node: Node,
        op: str,
        inputs: Sequence[str | Array | gs.Tensor],
        function: onnx.FunctionProto | None = None,
        **attributes: Any,
    ) -> None:
        """Turn a node into another operator with the same outputs, one that ``function`` defines if that is given."""
        edited = self._edit(node)
        edited.op, edited.domain, edited.attrs = op, None, dict(attributes)
        edited.inputs = [self._operand(entry, node) for entry in inputs]
        if function is not None:
            edited.domain = function.domain
            self._functions[function.domain, function.name] = function

    def compute(self, node: Node, op: str, inputs: Sequence[str | Array | gs.Tensor], **attributes: Any) -> gs.Tensor:
        """Compute something in front of a node by a new one, and return it."""
        operands = [self._operand(entry, node) for entry in inputs]
        result = self._variable(f"{node.label}.{op}")
        self._before[node.index].append(self._new_node(op, operands, result, attributes))
        return result

    def set_values(self, node: Node, values: Sequence[Array]) -> None:
        """Let constants stand for all that a node writes, so that it falls away."""
        edited = self._edit(node)
        outputs, edited.inputs, edited.outputs = list(edited.outputs), [], []
        for name, output, value in zip(node.outputs, outputs, values, strict=True):
            if not name:
                continue
            constant = self._constant(value, "", name)
            if name in self._graph.outputs or any(place < 0 for _, place in self._graph.readers.get(name, ())):
                self._after[node.index].append(self._new_node("Identity", [constant], output, {}))
            else:
                self._reroute(output, constant, name)

    def insert_before(
        self, node: Node, position: int, op: str, inputs: Sequence[str | Array | None], **attributes: Any
    ) -> None:
        """Compute an input by a new node. None among its inputs stands for what the node reads there now."""
        edited = self._edit(node)
        operands = [edited.inputs[position] if entry is None else self._operand(entry, node) for entry in inputs]
        result = self._variable(f"{node.label}.{op}")
        self._before[node.index].append(self._new_node(op, operands, result, attributes))
        self._put(node, position, result)

    def select(self, node: Node, position: int, places: npt.NDArray[np.int64], axis: int) -> None:
        """Let a node read only some places along an axis of an input. Nodes that read the same ones share them."""
        source = self._edit(node).inputs[position]
        key = (id(source), axis, places.tobytes())
        if key not in self._selected:
            self._selected[key] = self.compute(node, "Gather", [source, places], axis=axis)
        self._put(node, position, self._selected[key])

    def insert_after(
        self, node: Node, op: str, inputs: Sequence[Array | None], position: int = 0, **attributes: Any
    ) -> None:
        """Compute an output's value further by a new node. None among its inputs stands for what the node wrote."""
        edited = self._edit(node)
        output = edited.outputs[position]
        inner = self._variable(f"{node.label}.{op}")
        edited.outputs[position] = inner
        operands = [inner if entry is None else self._operand(entry, node) for entry in inputs]
        self._after[node.index].insert(0, self._new_node(op, operands, output, attributes))

    def offset(self, node: Node, axis: int, vector: Floats, bias_position: int, dtype: np.dtype[Any]) -> None:
        """Add a vector (one entry for each kept position) along an axis of the first output of a linear node.

        It joins the constants of the readers where those can take it up, else becomes the node's own bias, else a new
        Add.
        """
        output = node.outputs[0]
        if self._graph.sole_reader(output) is not None and absorbed_by_readers(self.context, output, axis):
            self.hand_on(output, axis, vector)
            return
        self.check_finite(vector, output, dtype)
        if bias_position >= 0:
            self.set_constant(node, bias_position, vector.astype(dtype))
            return
        shape = (-1,) + (1,) * (self.context.rank(output) - 1 - axis)
        self.insert_after(node, "Add", [None, vector.astype(dtype).reshape(shape)])

    def constant_at(self, node: Node, position: int) -> Array | None:
        """Return the constant that a node has at an input by now, None if it has none there."""
        inputs = self._nodes[node.index].inputs
        if position >= len(inputs) or inputs[position].is_empty():
            return None
        held = self._constants.get(id(inputs[position]))
        if held is not None:
            return held[1]
        return self.context.value(node.input(position)) if node.input(position) else None

    def bypass(self, node: Node, position: int, written: int = 0) -> None:
        """Let the readers of one of a node's outputs read one of its inputs instead, so that the node falls away."""
        output, source = self._nodes[node.index].outputs[written], self._nodes[node.index].inputs[position]
        if node.outputs[written] in self._graph.outputs:
            self.replace(node, "Identity", [source])
            self._nodes[node.index].outputs = [output]
            return
        self._reroute(output, source, node.outputs[written])

    def finish(self) -> tuple[ModelProto, dict[str, Array], dict[str, str]]:
        """Return the new skeleton, the new constants by name, and for each the name of the tensor that it replaces."""
        self._surgeon.nodes = [
            node
            for index, original in enumerate(self._nodes)
            for node in (*self._before[index], original, *self._after[index])
        ]
        self._release_sources()
        self._surgeon.cleanup(recurse_subgraphs=False, recurse_functions=False)
        names = self._name_constants()
        skeleton = ModelProto()
        skeleton.CopyFrom(self._graph.model.skeleton)
        del skeleton.graph.node[:]
        skeleton.graph.node.extend(self._exported_nodes())
        functions.define(skeleton, self._functions.values())
        edited = [self._graph.nodes[index] for index in self._edited]
        functions.drop_uncalled(skeleton, {(node.domain, node.op) for node in edited})
        arrays = {variable.name: array for variable, array, _ in self._constants.values() if variable.name in names}
        return skeleton, arrays, names

    def _release_sources(self) -> None:
        """What only asks for the shape of a tensor that was replaced becomes a constant, lest both be stored."""
        replaced = {source for _, _, source in self._constants.values()}
        for node in self._graph.nodes:
            values = [self.sizes.narrowed.value(name) for name in node.outputs if name]
            if (
                replaced.intersection(node.inputs)
                and len(values) == 1
                and values[0] is not None
                and values[0].dtype.kind == "i"
            ):
                self.replace(node, "Identity", [values[0]])

    def _reroute(self, old: gs.Tensor, new: gs.Tensor, name: str) -> None:
        """Let every reader of a tensor, called ``name`` in the original graph, read another one."""
        for reader in list(old.outputs):
            for place, tensor in enumerate(reader.inputs):
                if tensor is old:
                    reader.inputs[place] = new
        self._tensors[name] = new

    def _edit(self, node: Node) -> gs.Node:
        edited = self._nodes[node.index]
        if node.index not in self._edited:
            self._edited.add(node.index)
            edited.attrs = attributes_of(node)
        return edited

    def _put(self, node: Node, position: int, tensor: gs.Tensor) -> None:
        edited = self._edit(node)
        while len(edited.inputs) <= position:
            edited.inputs.append(gs.Variable.empty())
        edited.inputs[position] = tensor

    def _operand(self, entry: str | Array | gs.Tensor, node: Node) -> gs.Tensor:
        if isinstance(entry, gs.Tensor):
            return entry
        return self._tensors[entry] if isinstance(entry, str) else self._constant(entry, "", f"{node.label}.constant")

    def _constant(self, array: Array, source: str, hint: str) -> gs.Variable:
        """Make a constant; equal slices of one shared tensor, and small equal ones, are stored once."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        shared = array.size <= _SMALL or uses(self._graph, source) > 1
        header = f"{source}|{array.dtype}|{array.shape}"
        key = (
            (header, hashlib.blake2b(array.tobytes()).digest()) if shared else (f"{header}|{len(self._constants)}", b"")
        )
        if key not in self._shared:
            variable = self._variable(source or hint)
            self._shared[key] = variable
            self._constants[id(variable)] = (variable, array, source)
        return self._shared[key]

    def _variable(self, hint: str) -> gs.Variable:
        name, count = f"{hint}.squeezed", 1
        while name in self._tensors or name in self._inner:
            count += 1
            name = f"{hint}.squeezed_{count}"
        variable = gs.Variable(name)
        self._tensors[name] = variable
        return variable

    def _new_node(self, op: str, inputs: list[gs.Tensor], output: gs.Tensor, attributes: dict[str, Any]) -> gs.Node:
        name, count = output.name, 1
        while name in self._node_names:  # many a node is called what it writes
            count += 1
            name = f"{output.name}_{count}"
        self._node_names.add(name)
        return gs.Node(op=op, name=name, attrs=attributes, inputs=inputs, outputs=[output])

    def _name_constants(self) -> dict[str, str]:
        """Give a new constant the name of the tensor that it replaces wherever nothing reads that one any more."""
        used = {tensor.name for node in self._surgeon.nodes for tensor in node.inputs} | set(self._graph.outputs)
        names = {}
        for variable, _, source in self._constants.values():
            if variable.name not in used:
                continue
            if source in self._graph.initializers and source not in used:
                used.add(source)
                variable.name = source
            names[variable.name] = source
        return names

    def _exported_nodes(self) -> list[onnx.NodeProto]:
        """Write all nodes, those of groups that no rule touched where they stood in the file."""
        hosts = {id(node): index for index, node in enumerate(self._nodes)}
        for added in (self._before, self._after):
            hosts.update({id(node): index for index, nodes in added.items() for node in nodes})
        positions = self._graph.model.fusion.positions or range(len(self._nodes))
        placed: list[tuple[int, onnx.NodeProto]] = []
        for node in self._surgeon.nodes:
            index = hosts[id(node)]
            group = self._graph.nodes[index].group
            if node is not self._nodes[index]:
                placed.append((positions[index], exported_node(node)))
            elif group is None or node.domain != PATTERN_DOMAIN:
                placed.append((positions[index], self._exported(node, index)))
            else:
                members = group.written_back([tensor.name for tensor in node.inputs], node.outputs[0].name)
                places = group.positions if index not in self._edited else [positions[index]] * len(members)
                placed.extend(zip(places, members, strict=True))
        return [proto for _, proto in sorted(placed, key=lambda entry: entry[0])]

    def _exported(self, node: gs.Node, index: int) -> onnx.NodeProto:
        original = self._graph.nodes[index].proto
        if index not in self._edited:
            exported = onnx.NodeProto()
            exported.CopyFrom(original)
            exported.input[:] = [tensor.name for tensor in node.inputs][: len(original.input)]
            return exported
        exported = exported_node(node)
        exported.doc_string = original.doc_string
        exported.overload = original.overload
        exported.metadata_props.extend(original.metadata_props)
        if hasattr(original, "device_configurations"):
            exported.device_configurations.extend(original.device_configurations)
        return exported
