"""A fused node of onnxruntime's own, and the plain nodes that stand for it while a model is minimized."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx

from onnxsqueeze.model.initializer import Initializer


@dataclass(frozen=True, eq=False)
class Lowered:
    """What a fused node was lowered to, and how it can be put together again.

    Attributes:
        fused: the node as it came.
        members: what computes the same; each writes one tensor at least. What the fused node writes keeps its name.
        reads: by (member, its input), the position in the fused node's inputs of what it reads there, also where the
            fused node has no such input and could have one.
        constants: what the members read besides.
    """

    fused: onnx.NodeProto
    members: Sequence[onnx.NodeProto]
    reads: Mapping[tuple[int, int], int]
    constants: Sequence[Initializer] = ()

    @property
    def inner(self) -> set[str]:
        """The tensors that only members write and read."""
        return {name for member in self.members for name in member.output if name} - set(self.fused.output)

    def found_in(self, producers: Mapping[str, onnx.NodeProto]) -> list[onnx.NodeProto] | None:
        """Return the nodes that the members have become, if nothing but what they read has changed; else None."""
        found = [producers.get(next(name for name in member.output if name)) for member in self.members]
        pairs = list(zip(found, self.members, strict=True))
        if all(node is not None and _alike(node, member) for node, member in pairs):
            return [node for node in found if node is not None]
        return None

    def fused_again(
        self, found: Sequence[onnx.NodeProto], changed: Collection[str], same_form: Callable[[str, str], bool]
    ) -> onnx.NodeProto | None:
        """Return the fused node that reads what the members read now; None if there is no such node.

        Args:
            found: what the members have become.
            changed: constants that are new, under whatever name.
            same_form: whether a tensor may stand where another one of the original did ("" where there was none).
        """
        inputs: dict[int, str] = {}
        for index, (node, member) in enumerate(zip(found, self.members, strict=True)):
            for place in range(max(len(node.input), len(member.input))):
                before, now = _input(member, place), _input(node, place)
                position = self.reads.get((index, place))
                if position is None:
                    if before != now or now in changed:
                        return None
                elif inputs.setdefault(position, now) != now or not same_form(before, now):
                    return None
        fused = onnx.NodeProto()
        fused.CopyFrom(self.fused)
        names = [inputs.get(position, "") for position in range(max(inputs, default=-1) + 1)]
        while len(names) > len(self.fused.input) and not names[-1]:
            names.pop()
        fused.input[:] = names
        return fused


def _input(node: onnx.NodeProto, place: int) -> str:
    return str(node.input[place]) if place < len(node.input) else ""


def _alike(node: onnx.NodeProto, member: onnx.NodeProto) -> bool:
    """Whether two nodes compute and write the same."""
    if (node.op_type, node.domain, list(node.output)) != (member.op_type, member.domain, list(member.output)):
        return False
    return _attributes(node) == _attributes(member)


def _attributes(node: onnx.NodeProto) -> list[bytes]:
    return sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
