"""What one node leaves to the nodes behind it: a vector to be added, or a mixture to be computed with."""

from __future__ import annotations

from dataclasses import replace

from onnxsqueeze.graph.graph import Node
from onnxsqueeze.rules.contract import Context
from onnxsqueeze.rules.reconstruction import Mixture
from onnxsqueeze.rules.rewriter import Offset


class Handing:
    """Offsets and mixtures by tensor, on their way to readers that take them up. All names are the original graph's."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._offsets: dict[str, Offset] = {}
        self._mixtures: dict[str, Mixture] = {}

    def hand_on(self, name: str, offset: Offset) -> None:
        self._offsets[name] = offset

    def mix(self, name: str, mixture: Mixture) -> None:
        """Leave it to the readers of a tensor, who all can, to compute with a mixture of what is left of it."""
        self._mixtures[name] = mixture

    def mixture(self, name: str) -> Mixture | None:
        """Return the mixture that the readers of ``name`` must compute with; None if it holds what it always did."""
        return self._mixtures.get(name)

    def pass_on(self, node: Node) -> None:
        """Hand what is to be done to a node's inputs on to the readers of its outputs, if it only carries them on."""
        carries = self.context.rules[node.index].carries
        if carries is None:
            return
        for position, name in enumerate(node.inputs):
            offset, mixture = self._offsets.get(name), self._mixtures.get(name)
            if offset is not None and (axis := carries(node, self.context, position, offset.axis)) is not None:
                for output in node.outputs:
                    self.hand_on(output, replace(offset, axis=axis))
            if mixture is not None and (axis := carries(node, self.context, position, mixture.axis)) is not None:
                for output in node.outputs:
                    self.mix(output, replace(mixture, axis=axis))

    def taken_offset(self, name: str) -> Offset | None:
        return self._offsets.get(name)
