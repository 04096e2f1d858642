"""A group of nodes that one fused node stands for, and how it is written back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

if TYPE_CHECKING:
    from onnxsqueeze.model.lowered_node import Lowered
    from onnxsqueeze.model.model import Model


@dataclass(frozen=True, eq=False)
class Group:
    """Nodes of a model that belong together.

    Attributes:
        members: the nodes as they came, in the model's order; the last one writes what the fused node writes.
        positions: where they stand among the model's nodes.
        attributes: those of the fused node. Floats are those of the constants, not rounded to an attribute's float32.
        inputs: the fused node's inputs ("" where absent), and behind them the other constants that the members read.
        reads: by (member, its input), the position in ``inputs`` of what it reads there, if no other member writes it.
        numbers: by attribute, (position in ``inputs``, value) of the constant that it comes from.
    """

    members: Sequence[onnx.NodeProto]
    positions: Sequence[int]
    attributes: Mapping[str, Any]
    inputs: Sequence[str]
    reads: Mapping[tuple[int, int], int]
    numbers: Mapping[str, tuple[int, np.ndarray[Any, Any]]]

    def written_back(self, inputs: Sequence[str], output: str) -> list[onnx.NodeProto]:
        """Return copies of the members that read ``inputs`` (as long as the group's own) and write ``output``.

        Raises:
            ValueError: when an input was given that no member reads, such as a bias where there was none.
        """
        unread = set(range(len(inputs))) - set(self.reads.values())
        if len(inputs) != len(self.inputs) or any(inputs[position] for position in unread):
            raise ValueError(f"the nodes up to {self.members[-1].name or output} cannot take up another input")
        copies = [onnx.NodeProto.FromString(member.SerializeToString()) for member in self.members]
        for (member, place), position in self.reads.items():
            copies[member].input[place] = inputs[position]
        copies[-1].output[0] = output
        return copies

    @property
    def inner(self) -> list[str]:
        """The tensors that only members read."""
        return [name for member in self.members[:-1] for name in member.output]


@dataclass(frozen=True, eq=False)
class Fusion:
    """What was fused and lowered in a model.

    Attributes:
        groups: by the output of the fused node.
        positions: for each node of the model where it, or the last member of its group, stood before.
        lowered: the fused nodes of the file that were lowered to some of the model's.
        file: the model as it came; None where it is the model itself.
    """

    groups: Mapping[str, Group] = field(default_factory=dict)
    positions: Sequence[int] = ()
    lowered: Sequence[Lowered] = ()
    file: Model | None = None

    @cached_property
    def between_parts(self) -> Collection[str]:
        """The tensors between parts of lowered nodes: what is put behind one keeps that from being fused again."""
        parts = ((entry, name) for entry in self.lowered for member in entry.members for name in member.output)
        return {name for entry, name in parts if name and name not in entry.fused.output}

    @cached_property
    def of_parts(self) -> Collection[str]:
        """The tensors that parts of lowered nodes write."""
        return {name for entry in self.lowered for member in entry.members for name in member.output if name}
