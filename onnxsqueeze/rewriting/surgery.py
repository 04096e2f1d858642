"""Surgery on the graph by onnx-graphsurgeon: nodes and constants are changed, added and replaced.

Graphsurgeon sees a bare copy of the graph, without attributes that it would lose and without weights. Nodes that no
rule touched are written back exactly as they came, and what the file says beside its nodes is never rebuilt.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
from onnx import ModelProto

from onnxsqueeze.abstract.compact import Array
from onnxsqueeze.graph.graph import Graph, Node
from onnxsqueeze.model import local_functions
from onnxsqueeze.processes.spilling import SPILLED_FROM, spilled
from onnxsqueeze.rewriting.export import exported_nodes
from onnxsqueeze.rewriting.graphsurgeon import attributes_of, bare, node_names
from onnxsqueeze.rewriting.stored_form import Form, computed_form, grows, indices, part_kept
from onnxsqueeze.rules.contract import Context
from onnxsqueeze.rules.kept import Kept, part_of
from onnxsqueeze.rules.weight_source import codes_of, source_of, use_count

_SMALL = 4096  # elements up to which equal new constants are shared


class Surgery:
    """The graph under change; see `onnxsqueeze.rules.rewriter.Rewriter` for what its methods do."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._graph: Graph = context.graph
        self._surgeon = gs.import_onnx(bare(self._graph))
        self._tensors: dict[str, gs.Tensor] = self._surgeon.tensors()
        self._nodes = list(self._surgeon.nodes)
        self._before: dict[int, list[gs.Node]] = defaultdict(list)
        self._after: dict[int, list[gs.Node]] = defaultdict(list)
        self._edited: set[int] = set()
        self._constants: dict[int, tuple[gs.Variable, Array, str]] = {}
        self._computed: dict[int, tuple[gs.Tensor, Array]] = {}  # constants that the graph computes, by `id`
        self._shared: dict[tuple[str, bytes], gs.Variable] = {}
        self._forms: dict[tuple[str, bytes], gs.Tensor] = {}
        self._selected: dict[tuple[int, int, bytes], gs.Tensor] = {}
        self._inner = {name for group in self._graph.fusion.groups.values() for name in group.inner}
        self._node_names = node_names(self._graph)
        self._functions: dict[tuple[str, str], onnx.FunctionProto] = {}

    @property
    def opset(self) -> int:
        return int(self._graph.opsets.get("", 0))

    def set_attribute(self, node: Node, name: str, value: Any) -> None:
        attributes = self._edit(node).attrs
        if node.group is not None:
            position, before = node.group.numbers[name]
            number = np.asarray(value, dtype=np.float64).astype(before.dtype).reshape(before.shape)
            self._put(node, position, self._constant(number, node.group.inputs[position], f"{node.label}.{name}"))
        if value is None:
            attributes.pop(name, None)
        else:
            attributes[name] = value

    def set_constant(self, node: Node, position: int, array: Array, kept: Kept | None = None) -> None:
        name, hint = node.input(position), f"{node.label}.constant"
        computed = self._sliced_at_source(node, name, array, kept) or self._as_codes(node, name, array, kept)
        if computed is not None:
            self._put_computed(node, position, computed, array)
            return
        source = source_of(self._graph, name, array.ndim) if name not in self._graph.initializers else None
        if source is None or self.context.rank(name) != array.ndim or use_count(self._graph, source.name) < 2:
            self._put(node, position, self._constant(array, name, hint))
            return
        constant: gs.Tensor = self._constant(array.transpose(np.argsort(source.order)), source.name, hint)
        if source.order != tuple(range(array.ndim)):
            constant = self.compute(node, "Transpose", [constant], perm=list(source.order))
        self._put_computed(node, position, constant, array)

    def _put_computed(self, node: Node, position: int, tensor: gs.Tensor, value: Array) -> None:
        self._put(node, position, tensor)
        self._computed[id(tensor)] = (tensor, value)

    def _sliced_at_source(self, node: Node, name: str, array: Array, kept: Kept | None) -> gs.Tensor | None:
        """Return a part of a constant that the file computes, computed of less; None where its value is to be stored.

        Where the weights behind it cannot be sliced, and the value would take more bytes than they do, what is kept is
        gathered from what is computed: runtimes do so once, when they load the model.
        """
        if not name or name not in self._graph.producers or name in self._graph.initializers:
            return None
        if source_of(self._graph, name, array.ndim) is not None:
            return None  # its axes are in another order, and that is all
        part = part_kept(self.context, name, array, kept)
        if part is None:
            return None
        form = computed_form(self.context, name, part)
        if form is not None:
            return self._written(node, form)
        if not grows(self.context, name, array):
            return None
        tensor = self._tensors[name]
        for axis, places in indices(part):
            tensor = self._selected_from(node, tensor, places, axis)
        return tensor

    def _as_codes(self, node: Node, name: str, array: Array, kept: Kept | None) -> gs.Tensor | None:
        """Return an array decoded of codes, as the tensor was that it replaces; None where no codes stand for it."""
        codes = codes_of(self.context, name)
        part = codes if codes is None or codes.per_tensor or kept is None else codes.part(kept)
        if part is None or array.ndim != self.context.rank(name) or not part.suits(array.shape):
            return None
        found = part.encoded(array)
        if found is None:
            return None
        maker = self._graph.producers[name]
        result = self._variable(name)
        operands = [self._operand(entry, node) for entry in part.decoded_from(found)]
        copy = self._new_node(maker.op, operands, result, attributes_of(maker))
        copy.domain = maker.domain or None
        self._before[node.index].append(copy)
        return result

    def _written(self, node: Node, form: Form) -> gs.Tensor:
        """Write a form in front of a node, each part of a constant once."""
        key = form.name, form.key
        if key not in self._forms:
            if form.node is None:
                value = self.context.value(form.name)
                assert value is not None
                self._forms[key] = self._constant(part_of(value, form.kept), form.name, form.name)
            else:
                inputs = [self._written(node, entry) if isinstance(entry, Form) else entry for entry in form.inputs]
                operands = [self._operand(entry, node) for entry in inputs]
                result = self._variable(form.name)
                copy = self._new_node(form.node.op, operands, result, attributes_of(form.node))
                copy.domain = form.node.domain or None
                self._before[node.index].append(copy)
                self._forms[key] = result
        return self._forms[key]

    def constant_at(self, node: Node, position: int) -> Array | None:
        inputs = self._nodes[node.index].inputs
        if position >= len(inputs) or inputs[position].is_empty():
            return None
        tensor, name = inputs[position], node.input(position)
        held = self._constants.get(id(tensor)) or self._computed.get(id(tensor))
        if held is not None:
            return held[1]
        return self.context.value(name) if name and tensor is self._tensors.get(name) else None

    def drop_inputs(self, node: Node, positions: Sequence[int]) -> None:
        if positions:
            inputs = self._edit(node).inputs
            for position in sorted(positions, reverse=True):
                del inputs[position]

    def clear_inputs(self, node: Node, positions: Sequence[int]) -> None:
        for position in positions:
            self._put(node, position, gs.Variable.empty())

    def drop_output(self, node: Node, position: int) -> None:
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
        edited = self._edit(node)
        edited.op, edited.domain, edited.attrs = op, None, dict(attributes)
        edited.inputs = [self._operand(entry, node) for entry in inputs]
        if function is not None:
            edited.domain = function.domain
            self._functions[function.domain, function.name] = function

    def compute(
        self, node: Node, op: str, inputs: Sequence[str | Array | gs.Tensor], domain: str = "", **attributes: Any
    ) -> gs.Tensor:
        operands = [self._operand(entry, node) for entry in inputs]
        result = self._variable(f"{node.label}.{op}")
        made = self._new_node(op, operands, result, attributes)
        made.domain = domain or None
        self._before[node.index].append(made)
        return result

    def insert_before(
        self,
        node: Node,
        position: int,
        op: str,
        inputs: Sequence[str | Array | gs.Tensor | None],
        domain: str = "",
        **attributes: Any,
    ) -> None:
        edited = self._edit(node)
        operands = [edited.inputs[position] if entry is None else self._operand(entry, node) for entry in inputs]
        result = self._variable(f"{node.label}.{op}")
        made = self._new_node(op, operands, result, attributes)
        made.domain = domain or None
        self._before[node.index].append(made)
        self._put(node, position, result)

    def insert_after(
        self,
        node: Node,
        op: str,
        inputs: Sequence[str | Array | gs.Tensor | None],
        position: int = 0,
        domain: str = "",
        **attributes: Any,
    ) -> None:
        edited = self._edit(node)
        output = edited.outputs[position]
        inner = self._variable(f"{node.label}.{op}")
        edited.outputs[position] = inner
        operands = [inner if entry is None else self._operand(entry, node) for entry in inputs]
        made = self._new_node(op, operands, output, attributes)
        made.domain = domain or None
        self._after[node.index].insert(0, made)

    def select(self, node: Node, position: int, places: npt.NDArray[np.int64], axis: int) -> None:
        self._put(node, position, self._selected_from(node, self._edit(node).inputs[position], places, axis))

    def _selected_from(self, node: Node, source: gs.Tensor, places: npt.NDArray[np.int64], axis: int) -> gs.Tensor:
        key = (id(source), axis, places.tobytes())
        if key not in self._selected:
            self._selected[key] = self.compute(node, "Gather", [source, places], axis=axis)
        return self._selected[key]

    def bypass(self, node: Node, position: int, written: int = 0) -> None:
        output, source = self._nodes[node.index].outputs[written], self._nodes[node.index].inputs[position]
        if self._keeps_name(node.outputs[written]):
            self.replace(node, "Identity", [source])
            self._nodes[node.index].outputs = [output]
            return
        self._reroute(output, source, node.outputs[written])

    def set_values(self, node: Node, values: Sequence[Array]) -> None:
        """Let constants stand for all that a node writes, so that it falls away."""
        edited = self._edit(node)
        outputs, edited.inputs, edited.outputs = list(edited.outputs), [], []
        for name, output, value in zip(node.outputs, outputs, values, strict=True):
            if not name:
                continue
            constant = self._constant(value, "", name)
            if self._keeps_name(name):
                self._after[node.index].append(self._new_node("Identity", [constant], output, {}))
            else:
                self._reroute(output, constant, name)

    def finish(self) -> tuple[ModelProto, dict[str, Array], dict[str, str]]:
        """Return the new skeleton, the new constants by name, and for each the name of the tensor that it replaces."""
        placed = [
            (index, node)
            for index, original in enumerate(self._nodes)
            for node in (*self._before[index], original, *self._after[index])
        ]
        self._surgeon.nodes = [node for _, node in placed]
        self._surgeon.cleanup(recurse_subgraphs=False, recurse_functions=False)
        names = self._name_constants()
        skeleton = ModelProto()
        skeleton.CopyFrom(self._graph.model.skeleton)
        del skeleton.graph.node[:]
        hosts = {id(node): index for index, node in placed}
        left = [(hosts[id(node)], node) for node in self._surgeon.nodes]
        skeleton.graph.node.extend(exported_nodes(self._graph, self._nodes, left, self._edited))
        local_functions.define(skeleton, self._functions.values())
        edited = [self._graph.nodes[index] for index in self._edited]
        local_functions.drop_uncalled(skeleton, {(node.domain, node.op) for node in edited})
        arrays = {variable.name: array for variable, array, _ in self._constants.values() if variable.name in names}
        return skeleton, arrays, names

    def replaced(self) -> set[str]:
        """Return the names of the tensors for which new constants stand."""
        return {source for _, _, source in self._constants.values()}

    def _keeps_name(self, name: str) -> bool:
        """Whether readers know a tensor by its name: whoever runs the model, and the subgraphs that capture it."""
        return name in self._graph.outputs or any(place < 0 for _, place in self._graph.readers.get(name, ()))

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
        if isinstance(entry, str):
            return self._tensors[entry] if entry else gs.Variable.empty()
        return self._constant(entry, "", f"{node.label}.constant")

    def _constant(self, array: Array, source: str, hint: str) -> gs.Variable:
        """Make a constant; equal slices of one shared tensor, and small equal ones, are stored once."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        if self._graph.model.file_bytes > SPILLED_FROM:
            array = spilled(array)
        shared = array.size <= _SMALL or use_count(self._graph, source) > 1
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
