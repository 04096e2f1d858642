"""What one node leaves to the nodes behind it: a vector to be added, or a reconstruction to be computed with."""

from __future__ import annotations

from dataclasses import replace

from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context
from onnxsqueeze.rules.reconstruction import Reconstruction
from onnxsqueeze.rules.rewriter import Offset


class Deferred:
    """Offsets and reconstructions by tensor, on their way to readers. All names are the original graph's."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._offsets: dict[str, Offset] = {}
        self._reconstructions: dict[str, Reconstruction] = {}

    def defer_offset(self, name: str, offset: Offset) -> None:
        self._offsets[name] = offset

    def defer_reconstruction(self, name: str, reconstruction: Reconstruction) -> None:
        self._reconstructions[name] = reconstruction

    def deferred_reconstruction(self, name: str) -> Reconstruction | None:
        return self._reconstructions.get(name)

    def pass_on(self, node: Node) -> None:
        """Hand what is to be done to a node's inputs on to the readers of its outputs, if it only carries them on."""
        carries = self.context.rules[node.index].carries
        if carries is None:
            return
        for position, name in enumerate(node.inputs):
            offset, reconstruction = self._offsets.get(name), self._reconstructions.get(name)
            if offset is not None and (axis := carries(node, self.context, position, offset.axis)) is not None:
                for output in node.outputs:
                    self.defer_offset(output, replace(offset, axis=axis))
            if (
                reconstruction is not None
                and (axis := carries(node, self.context, position, reconstruction.axis)) is not None
            ):
                for output in node.outputs:
                    self.defer_reconstruction(output, replace(reconstruction, axis=axis))

    def deferred_offset(self, name: str) -> Offset | None:
        return self._offsets.get(name)
