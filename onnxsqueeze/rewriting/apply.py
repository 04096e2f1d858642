"""Carry out a plan: let each touched node repair itself, then put the narrowed model together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial

import onnx

from onnxsqueeze.abstract.compact import Array
from onnxsqueeze.abstract.symbolic import Symbolic
from onnxsqueeze.analysis.forward import Analysis
from onnxsqueeze.graph.graph import Graph, Node
from onnxsqueeze.model.constant_nodes import constant_node, with_constant_nodes
from onnxsqueeze.model.loading import Initializer
from onnxsqueeze.model.local_functions import drop_uncalled
from onnxsqueeze.model.model import Model
from onnxsqueeze.rewriting.editor import Editor
from onnxsqueeze.rewriting.fusing import fuse_again
from onnxsqueeze.rules.lessons import KeepOne, NonzeroPart
from onnxsqueeze.rules.plan import Plan
from onnxsqueeze.rules.weight_source import encoder_of


def apply(analysis: Analysis, plan: Plan, options: Mapping[str, str] | None = None) -> tuple[Model, frozenset[str]]:
    """Return the model that the plan describes, and which stored tensors became several. The original is not changed.

    Raises:
        Lesson: when the plan cannot be carried out; it says what another one must do otherwise.
    """
    editor = Editor(analysis, plan, options)
    for node in analysis.graph.nodes:
        if node.index in editor.shapes.fixed:
            editor.set_values(node, editor.shapes.fixed[node.index])
        elif _touched(node, editor) and not all(plan.gone(name) for name in node.outputs if name):
            analysis.rules[node.index].repair(node, analysis.context, editor)
            editor.pass_on(node)
            analysis.graph.let_go(node)
    if editor.used:
        raise NonzeroPart(editor.used)
    skeleton, arrays, sources = editor.finish()
    lowered = analysis.graph.fusion.lowered
    computed = _computed(skeleton.graph, {*arrays, *analysis.graph.initializers}) if lowered else set()
    same_form = partial(_same_form, analysis, arrays, computed)
    fuse_again(skeleton.graph, lowered, arrays, same_form)
    drop_uncalled(skeleton, {(entry.fused.domain, entry.fused.op_type) for entry in lowered})
    for name in dict.fromkeys(name for names in Graph.read_names(skeleton.graph) for name in names):
        if plan.gone(name):
            raise KeepOne(name)
    model = analysis.graph.model
    initializers = _initializers(analysis.graph, skeleton.graph, arrays, sources)
    _update_shapes(skeleton.graph, editor, initializers)
    counts = Counter(sources.values())
    copied = {name for name in model.initializers if counts[name] + (name in initializers and name not in arrays) > 1}
    made = replace(model, skeleton=skeleton, initializers=initializers, notes=())
    return with_constant_nodes(made), frozenset(copied)


def _computed(graph: onnx.GraphProto, stored: Collection[str]) -> set[str]:
    """Return what nodes make of nothing but stored tensors, as that which decodes codes does."""
    found: set[str] = set()
    for node in graph.node:
        if all(not name or name in stored or name in found for name in node.input):
            found.update(node.output)
    return found


def _same_form(
    analysis: Analysis, arrays: Mapping[str, Array], computed: Collection[str], before: str, now: str
) -> bool:
    """Whether a tensor can be read in the place of another: a constant of its rank, or an activation like it."""
    if not before or not now:
        return True
    stored, context = analysis.graph.model.initializers, analysis.context
    constant = before in stored or context.value(before) is not None  # stored, or computed of what is
    if now in arrays:
        return constant and arrays[now].ndim == context.rank(before)
    if now in stored:
        return constant and len(stored[now].shape) == context.rank(before)
    return constant or now not in computed


def _touched(node: Node, editor: Editor) -> bool:
    if node.index in editor.plan.narrowings or editor.plan.drops_summand(node.index):
        return True
    inner = editor.context.elements.inner.get(node.index, "")
    if any(editor.narrowed(name) for name in (*node.inputs, *node.outputs, inner)):
        return True
    asked = editor.context.rules[node.index].requested
    if asked is not None and asked(node, editor.options):
        return True
    return any(editor.deferred_offset(name) or editor.deferred_reconstruction(name) for name in node.inputs)


def _initializers(
    graph: Graph, proto: onnx.GraphProto, arrays: Mapping[str, Array], sources: Mapping[str, str]
) -> dict[str, Initializer]:
    """Return the initializers that are still used, the new ones among them, in the original's order."""
    used = {name for node in Graph.read_names(proto) for name in node}
    used |= {value.name for value in proto.output} | graph.overridable
    found = {name: initializer for name, initializer in graph.model.initializers.items() if name in used}
    legacy = graph.model.skeleton.ir_version < 4
    for name, array in arrays.items():
        if name not in used:  # what followed from others in a node that is fused again
            continue
        source = graph.model.initializers.get(sources[name])
        if name in found:
            found[name] = found[name].with_array(array)
        elif legacy:  # before IR 4 an initializer had to be a graph input too
            proto.node.insert(0, constant_node(Initializer.from_array(name, array)))
        elif source is not None:
            renamed = source.with_array(array)
            renamed.header.name = name
            found[name] = renamed
        else:
            found[name] = Initializer.from_array(name, array)
    if legacy:
        _declare_inputs(graph, proto, found)
    return found


def _declare_inputs(graph: Graph, proto: onnx.GraphProto, initializers: Mapping[str, Initializer]) -> None:
    """Let the graph inputs that stand for initializers agree with what is left of them."""
    kept = [value for value in proto.input if value.name in graph.inputs or value.name in initializers]
    for value in kept:
        if value.name in initializers:
            kind = value.type.tensor_type
            kind.shape.CopyFrom(onnx.TensorShapeProto())
            for length in initializers[value.name].shape:
                kind.shape.dim.add().dim_value = length
    copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in kept]
    del proto.input[:]
    proto.input.extend(copies)


def _update_shapes(proto: onnx.GraphProto, editor: Editor, initializers: Mapping[str, Initializer]) -> None:
    """Bring the declared shapes of tensors up to date; drop those of tensors that are gone."""
    declared, stale = proto.value_info, _stale(proto, editor) | _of_another_rank(proto, editor, initializers)
    kept = [value for value in declared if value.name not in stale and not _is_gone(value.name, editor, initializers)]
    copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in kept]
    del declared[:]
    declared.extend(copies)
    for value in declared:
        for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
            if value.name in initializers:
                dimension.dim_value = initializers[value.name].shape[axis]
            elif editor.narrowed(value.name) and (length := editor.new_length(value.name, axis)) is not None:
                if isinstance(length, Symbolic):
                    dimension.Clear()
                else:
                    dimension.dim_value = length


def _of_another_rank(proto: onnx.GraphProto, editor: Editor, initializers: Mapping[str, Initializer]) -> set[str]:
    """Return what is declared with more or fewer axes than it has, which runtimes overlook, and would be updated."""
    found = set()
    for value in proto.value_info:
        initializer = initializers.get(value.name)
        if initializer is not None or editor.narrowed(value.name):
            rank = editor.context.rank(value.name) if initializer is None else len(initializer.shape)
            if len(value.type.tensor_type.shape.dim) not in (0, rank):
                found.add(value.name)
    return found


def _stale(proto: onnx.GraphProto, editor: Editor) -> set[str]:
    """Return the tensors inside of groups that were not written back, or whose shapes may have changed.

    Those between a layer and its encoding among them, where rows of zeros come back only behind that.
    """
    context, made = editor.context, {name for node in proto.node for name in node.output}
    shared = [index for index, part in editor.plan.narrowings.items() if part.shared_zero_row >= 0]
    between = {context.graph.nodes[index].outputs[0] for index in shared}
    return {name for name in between if encoder_of(context, name) is not None} | {
        name
        for node in context.graph.nodes
        if node.group is not None
        for name in node.group.inner
        if name not in made or any(editor.narrowed(tensor) for tensor in (*node.inputs, *node.outputs))
    }


def _is_gone(name: str, editor: Editor, initializers: Mapping[str, Initializer]) -> bool:
    """Whether a tensor fell away, or is an initializer that did or whose rank changed."""
    if name in editor.context.graph.initializers:
        return name not in initializers or len(initializers[name].shape) != editor.context.rank(name)
    return editor.plan.gone(name)
