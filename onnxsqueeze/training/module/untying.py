"""What is changed in a model before it is trained: initializers that exporters merged, layers left in training mode.

All of it leaves the function that the model computes at inference as it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from onnx import ModelProto, NodeProto

from onnxsqueeze.graph.graph import Graph, Node
from onnxsqueeze.model.loading import Initializer
from onnxsqueeze.model.model import Model
from onnxsqueeze.rules.registry import rule_for
from onnxsqueeze.rules.traits import Trait
from onnxsqueeze.training.module.trainable import listed, reads_shape, roles_of

TIED = "onnxsqueeze.tied"
"""Key of a model's metadata: a JSON list of lists of names that are one parameter. A model that has it merged nothing
else."""

_REPEATED = 8
"""How often values come in a tensor that is taken to be made by a formula, at least, on average."""

_MASK_OUTPUTS = {"BatchNormalization": 1, "Dropout": 1}


@dataclass(frozen=True)
class Preparation:
    """What was changed.

    Attributes:
        untied: by initializer, the names of the copies that nodes read now instead of it.
        shared: initializers that several nodes go on to read, since they were taken to be one parameter in truth.
        live: nodes that the file had in training mode; they follow the module's mode now.
    """

    untied: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shared: tuple[str, ...] = ()
    live: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return a line for each change, to show a user."""
        found = [f"'{name}' was merged from {len(copies) + 1} parameters" for name, copies in self.untied.items()]
        return found + [f"'{name}' was exported in training mode" for name in self.live]


def prepared(model: Model, untie: Literal["constructed", "all", "none"]) -> tuple[Preparation, Model]:
    """Return a model to train, and what was changed in it; the argument stays as it is."""
    skeleton = ModelProto()
    skeleton.CopyFrom(model.skeleton)
    own = replace(model, skeleton=skeleton, initializers=dict(model.initializers))
    live = _leave_training_mode(own)
    if any(entry.key == TIED for entry in skeleton.metadata_props):
        untie = "none"
    untied, shared = _untie(own, untie)
    return Preparation(untied, shared, live), own


def _leave_training_mode(model: Model) -> tuple[str, ...]:
    """A BatchNormalization in training mode has outputs for its statistics, a Dropout an input that switches it on."""
    graph = Graph(model)
    changed = []
    for node, proto in zip(graph.nodes, model.skeleton.graph.node, strict=True):
        if node.domain or node.op not in _MASK_OUTPUTS:
            continue
        extra = [name for name in node.outputs[1:] if name]
        if any(graph.readers.get(name) or name in graph.outputs for name in extra):
            continue
        modes = [attribute for attribute in proto.attribute if attribute.name == "training_mode" and attribute.i]
        if node.op == "BatchNormalization" and (modes or extra):
            for attribute in modes:
                proto.attribute.remove(attribute)
            del proto.output[1:]
            changed.append(node.label)
        elif node.op == "Dropout" and node.input(2) and _is_true(graph, node.inputs[2]):
            del proto.input[2:]
            changed.append(node.label)
    return tuple(changed)


def _is_true(graph: Graph, name: str) -> bool:
    if name in graph.initializers:
        return bool(graph.initializers[name].array.all())
    producer = graph.producers.get(name)
    if producer is None or producer.op != "Constant" or "value" not in producer.attributes:
        return False
    return bool(any(producer.attributes["value"].raw_data) or any(producer.attributes["value"].int32_data))


def _untie(model: Model, untie: str) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    graph = Graph(model)
    roles = roles_of(graph)
    taken = {*model.initializers, *graph.producers, *graph.inputs}
    tied = {name for group in listed(model, TIED) for name in group}
    untied: dict[str, tuple[str, ...]] = {}
    shared = []
    dropped: set[int] = set()
    for name in sorted(roles.trained | roles.statistics):
        aliases = _aliases(graph, name)
        uses = _uses(graph, name, aliases)
        if len(uses) < 2:
            continue
        if not _merged(graph.model.initializers[name], uses, untie) or name in tied:
            shared.append(name)
            continue
        untied[name] = _copies(model, name, uses, taken)
        dropped.update(node.index for node in aliases if node.outputs[0] not in graph.outputs)
    protos = list(model.skeleton.graph.node)
    if dropped:
        del model.skeleton.graph.node[:]
        model.skeleton.graph.node.extend(proto for index, proto in enumerate(protos) if index not in dropped)
    return untied, tuple(shared)


def _aliases(graph: Graph, name: str) -> list[Node]:
    """Return the nodes by which an exporter gave an initializer other names."""
    found = []
    for node, _ in graph.readers.get(name, ()):
        if Trait.ALIAS in rule_for(node).traits:
            found += [node, *_aliases(graph, node.outputs[0])]
    return found


@dataclass(frozen=True)
class _Use:
    """A node that reads an initializer at a position, under the name that it or an alias has."""

    node: Node
    position: int
    name: str


def _uses(graph: Graph, name: str, aliases: Sequence[Node]) -> list[_Use]:
    names = [name, *(node.outputs[0] for node in aliases)]
    skipped = {node.index for node in aliases}
    return [
        _Use(node, position, alias)
        for alias in names
        for node, position in graph.readers.get(alias, ())
        if node.index not in skipped and position >= 0 and not reads_shape(node)
    ]


def _merged(initializer: Initializer, uses: Sequence[_Use], untie: str) -> bool:
    """Whether parameters that are not one were given one initializer because they began equal."""
    if untie == "none" or (initializer.array.ndim > 1 and any(use.node.op == "Gather" for use in uses)):
        return False
    return untie == "all" or _constructed(initializer)


def _constructed(initializer: Initializer) -> bool:
    """Zero biases, unit gammas and what else a formula fills has few values; what was drawn is not equal by chance.

    Zeros are not looked at, since a mask may have made them.
    """
    array = initializer.array.astype(np.float64).ravel()
    values = array[array != 0]
    distinct = len(np.unique(values))
    return distinct <= 1 or distinct * _REPEATED <= len(values)


def _copies(model: Model, name: str, uses: Sequence[_Use], taken: set[str]) -> tuple[str, ...]:
    """Give each use an initializer of its own, named as its alias where no other use is; the first keeps the name."""
    by_alias: dict[str, list[_Use]] = defaultdict(list)
    for use in uses:
        by_alias[use.name].append(use)
    new = []
    for alias, own in by_alias.items():
        for place, use in enumerate(own):
            if use is uses[0]:
                chosen = name
            elif place == 0 and alias != name:
                chosen = alias
            else:
                chosen = _fresh(alias, taken)
            if chosen != name:
                taken.add(chosen)
                new.append(chosen)
                model.initializers[chosen] = Initializer.from_array(chosen, model.initializers[name].array)
            proto: NodeProto = model.skeleton.graph.node[use.node.index]
            proto.input[use.position] = chosen
    return tuple(new)


def _fresh(name: str, taken: set[str]) -> str:
    number = 1
    while f"{name}.untied_{number}" in taken:
        number += 1
    return f"{name}.untied_{number}"
