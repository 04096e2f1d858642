"""The nodes that a fused one is lowered to, while they are put together."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxsqueeze.graph.graph import ONNX_DOMAIN, Node
from onnxsqueeze.model.initializer import Initializer
from onnxsqueeze.model.lowered_node import Lowered

DOMAIN = "com.microsoft"
_SLOT = "\0"  # no name of a model begins like this


class Parts:
    """Nodes with their constants, under names that the model does not have."""

    def __init__(self, node: Node, taken: Collection[str]) -> None:
        self._node = node
        self._core = 0
        self._taken = taken
        self._own: set[str] = set()
        self._label = node.outputs[0]
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[Initializer] = []

    def slot(self, position: int) -> str:
        """Return what stands for an input of the fused node, which it need not have."""
        return f"{_SLOT}{position}"

    def given(self, name: str) -> str:
        """Return the name of a tensor that a graph inside of a part captures, "" for an input that is left out."""
        return self._node.input(int(name[len(_SLOT) :])) if name.startswith(_SLOT) else name

    def add(
        self,
        op: str,
        *inputs: str,
        outputs: Iterable[str] = (),
        domain: str = ONNX_DOMAIN,
        copied: Iterable[onnx.AttributeProto] = (),
        **attributes: Any,
    ) -> str:
        """Add a node and return what it writes first, a new name unless there are ``outputs``."""
        name = self._fresh(f"{op}_{len(self._nodes)}")
        written = list(outputs) or [name]
        written[0] = written[0] or name
        label = self._node.label if len(self._nodes) == self._core else f"{self._node.label}.{op}_{len(self._nodes)}"
        node = helper.make_node(op, inputs, written, label, domain=domain, **attributes)
        node.attribute.extend(copied)
        self._nodes.append(node)
        return written[0]

    def name_next(self) -> None:
        """Let the node that is added next have the name of the fused one, instead of the first."""
        self._core = len(self._nodes)
        for index, earlier in enumerate(self._nodes):
            earlier.name = f"{self._node.label}.{earlier.op_type}_{index}"

    def constant(self, value: Any) -> str:
        """Add a constant and return its name."""
        name = self._fresh(f"constant_{len(self._constants)}")
        self._constants.append(Initializer.from_array(name, np.asarray(value)))
        return name

    def name(self, hint: str) -> str:
        """Return a new name."""
        return self._fresh(hint)

    def take(self, node: onnx.NodeProto, inputs: Iterable[str], outputs: Iterable[str]) -> None:
        """Add a copy of a node that reads and writes tensors under other names."""
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copied.name = f"{self._node.label}.{node.name or node.op_type}_{len(self._nodes)}"
        copied.input[:], copied.output[:] = inputs, outputs
        self._nodes.append(copied)

    def writes(self, names: Iterable[str]) -> bool:
        """Whether the nodes write all of these."""
        return set(filter(None, names)) <= {name for node in self._nodes for name in node.output}

    def lowered(self) -> Lowered:
        """Return the whole; the last node writes what the fused one writes first, unless another one does."""
        if not self.writes(self._node.outputs[:1]):
            self._nodes[-1].output[0] = self._node.outputs[0]
        reads = {}
        for index, node in enumerate(self._nodes):
            for place, name in enumerate(node.input):
                if name.startswith(_SLOT):
                    reads[index, place] = int(name[len(_SLOT) :])
                    node.input[place] = self.given(name)
            while node.input and not node.input[-1]:
                del node.input[-1]
        return Lowered(self._node.proto, self._nodes, reads, self._constants)

    def _fresh(self, ending: str) -> str:
        name = f"{self._label}.{ending}"
        while name in self._taken or name in self._own:
            name += "_"
        self._own.add(name)
        return name
