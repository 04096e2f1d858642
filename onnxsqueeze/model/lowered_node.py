"""A fused node of onnxruntime's own, and the plain nodes that stand for it while a model is minimized."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx

from onnxsqueeze.model.initializer import Initializer

Place = tuple[int, int]
"""A member by its number, and one of its inputs."""


@dataclass(frozen=True, eq=False)
class Lowered:
    """What a fused node was lowered to, and how it can be put together again.

    Attributes:
        fused: the node as it came.
        members: what computes the same; each writes one tensor at least. What the fused node writes keeps its name.
        reads: by place, the position in the fused node's inputs of what a member reads there, also where the fused node
            has no such input and could have one.
        constants: what the members read besides.
        implied: the places of constants that follow from inputs of the fused node, and change with those.
        optional: by place at which a member may come to read what a node of its own decodes, the position of the codes
            in the fused node's inputs.
        carried: attributes that the fused node has in common with the member of most attributes.
    """

    fused: onnx.NodeProto
    members: Sequence[onnx.NodeProto]
    reads: Mapping[Place, int]
    constants: Sequence[Initializer] = ()
    implied: Collection[Place] = ()
    optional: Mapping[Place, int] | None = None
    carried: Collection[str] = ()

    def put_together(
        self,
        producers: Mapping[str, onnx.NodeProto],
        reads: Counter[str],
        changed: Collection[str],
        same_form: Callable[[str, str], bool],
    ) -> tuple[Sequence[onnx.NodeProto], onnx.NodeProto] | None:
        """Return the nodes that the members have become, and the fused node in their place; None if there is none.

        Args:
            producers: by tensor, the node that writes it now. reads: how often each tensor is read now.
            changed: constants that are new, under whatever name.
            same_form: whether a tensor may stand where another one of the original did ("" where there was none).
        """
        match = _Match(self, producers, changed, same_form)
        if not all(match.writes(name) for name in self.fused.output if name and name in self._written):
            return None
        if len(match.found) != len(self.members) or not match.stands_alone(reads):
            return None
        return match.nodes, match.fused()

    @property
    def _written(self) -> set[str]:
        return {name for member in self.members for name in member.output}

    def maker(self, name: str) -> tuple[int, int] | None:
        """Return the member that writes a tensor, and which of its outputs that is; None if none does."""
        for index, member in enumerate(self.members):
            if name and name in member.output:
                return index, list(member.output).index(name)
        return None


_BEHIND = 3  # nodes that a rule may put behind another one


class _Match:
    """The members of a lowered node among the nodes of a graph under change, found from what they write backwards."""

    def __init__(
        self,
        lowered: Lowered,
        producers: Mapping[str, onnx.NodeProto],
        changed: Collection[str],
        same_form: Callable[[str, str], bool],
    ) -> None:
        self._lowered, self._producers = lowered, producers
        self._changed, self._same_form = changed, same_form
        self.found: dict[int, onnx.NodeProto] = {}
        self._added: list[onnx.NodeProto] = []
        self._inputs: dict[int, str] = {}
        self._outputs: dict[str, str] = {}

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes that were found."""
        return [*self.found.values(), *self._added]

    def writes(self, name: str) -> bool:
        """Whether members still write an output of the fused node, or what nodes behind them make it of."""
        made, written = self._lowered.maker(name), name
        if made is None:
            return False
        for _ in range(_BEHIND):
            node = self._producers.get(written)
            if node is None or _alike(node, self._lowered.members[made[0]], self._lowered.carried) or not node.input:
                break
            written = node.input[0]
        self._outputs[name] = written
        return self._made(made, written)

    def _made(self, made: tuple[int, int], name: str) -> bool:
        """Whether a tensor is what a member writes."""
        (index, output), node = made, self._producers.get(name)
        if node is None or list(node.output).index(name) != output:
            return False
        if index in self.found:
            return self.found[index] is node
        member = self._lowered.members[index]
        if not _alike(node, member, self._lowered.carried):
            return False
        self.found[index] = node
        places = range(max(len(node.input), len(member.input)))
        return all(self._read((index, place), _input(member, place), _input(node, place)) for place in places)

    def _read(self, place: Place, before: str, now: str) -> bool:
        """Whether a member reads at a place what the fused node can, or what another member writes."""
        position, made = self._lowered.reads.get(place), self._lowered.maker(before)
        if position is not None:
            return self._inputs.setdefault(position, now) == now and self._same_form(before, now)
        if made is not None:
            return self._made(made, now)
        optional = (self._lowered.optional or {}).get(place)
        if optional is not None and not before:
            return not now or self._decoded(optional, now)
        return place in self._lowered.implied or (before == now and now not in self._changed)

    def _decoded(self, position: int, name: str) -> bool:
        """Whether a node that was added decodes a tensor, whose codes the fused node reads itself."""
        node = self._producers.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return False
        self._added.append(node)
        return bool(self._inputs.setdefault(position, node.input[0]) == node.input[0])

    def stands_alone(self, reads: Counter[str]) -> bool:
        """Whether only the parts read what the fused node does not write."""
        own = Counter(name for node in self.nodes for name in node.input)
        written = {self._outputs.get(name, name) for name in self._lowered.fused.output}
        inner = {name for node in self.nodes for name in node.output if name} - written
        return all(reads[name] == own[name] for name in inner)

    def fused(self) -> onnx.NodeProto:
        """Return the fused node that reads what the members read now."""
        fused = onnx.NodeProto()
        fused.CopyFrom(self._lowered.fused)
        names = [self._inputs.get(position, "") for position in range(max(self._inputs, default=-1) + 1)]
        while len(names) > len(fused.input) and not names[-1]:
            names.pop()
        fused.input[:] = names
        fused.output[:] = [self._outputs.get(name, name) for name in fused.output]
        own = {attribute.name: attribute for attribute in fused.attribute}
        for attribute in self._carried():
            if attribute.name in own:
                own[attribute.name].CopyFrom(attribute)
            else:
                fused.attribute.append(attribute)
        return fused

    def _carried(self) -> Iterator[onnx.AttributeProto]:
        for node in self.found.values():
            for attribute in node.attribute:
                if attribute.name in self._lowered.carried:
                    yield attribute


def _input(node: onnx.NodeProto, place: int) -> str:
    return str(node.input[place]) if place < len(node.input) else ""


def _alike(node: onnx.NodeProto, member: onnx.NodeProto, apart: Collection[str]) -> bool:
    """Whether two nodes compute the same, but for some attributes."""
    if (node.op_type, node.domain) != (member.op_type, member.domain) or len(node.output) != len(member.output):
        return False
    return _attributes(node, apart) == _attributes(member, apart)


def _attributes(node: onnx.NodeProto, apart: Collection[str]) -> list[bytes]:
    given = [attribute for attribute in node.attribute if attribute.name not in apart]
    return sorted(attribute.SerializeToString(deterministic=True) for attribute in given)
