"""What an attempt at minimizing a graph can teach, and the record of all that was learned.

A plan cannot foresee everything: whether a folded constant fits its data type, or whether copies of a tied weight cost
more than they save, is known when it has been carried out. An attempt then ends with a lesson, and the next one begins
where the lesson matters:

    learned                                              by           begins again at
    ---------------------------------------------------  -----------  ---------------
    a rule fails at a node (`RuleFailed`)                any          analysis
    constant wherever it is kept (`ConstantWhereKept`)   planning     analysis
    no reader can reconstruct it (`KeepWhole`)           rewriting    analysis
    a stored weight became copies (`SliceOnce`)          costing      analysis
    a constant branch overflows (`KeepSummand`)          rewriting    analysis
    a layer ties channels beside it (`PassBeside`)       costing      analysis
    a fold overflows (`FoldOverflow`)                    rewriting    planning
    no code stands for a fold (`NotACode`)               rewriting    planning
    the last channel is still read (`KeepOne`)           rewriting    planning
    larger than before (`TooLarge`)                      costing      planning
    part of a weight is not zero (`NonzeroPart`)         rewriting    narrowing
    narrowed layers do not pay (`NotNarrowed`)           costing      narrowing

What is learned only grows, and there are finitely many things to learn, so that a search in which every lesson must
teach something new ends.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import ClassVar

import numpy as np

from onnxsqueeze.abstract.compact import Bools
from onnxsqueeze.coupling.keep_reason import Pin, Reason

Used = tuple[Bools, Bools]
"""The columns [in] and the rows [out] of a weight that are no zeros."""


@dataclass(frozen=True)
class Failure:
    """An error that nobody foresaw in the rule of a node.

    Attributes:
        operator, node: the node's, as a user knows them. callback: the function of the rule that was asked.
        error: its type and message, one line. traceback: several.
        effect: what the run did without an answer.
        refused: why the node cannot run at all, which is the model's fault then; "" if it can.
    """

    operator: str
    node: str
    callback: str
    error: str
    traceback: str
    effect: str = "the channels around it stay"
    refused: str = ""

    def __str__(self) -> str:
        if self.refused:
            return f"onnxruntime cannot run {self.operator} ({self.node}): {self.refused}; {self.effect}"
        cause = f"internal error in the rule of {self.operator} ({self.node}): {self.error}"
        return f"{cause}; {self.effect}; please report it with the model"


@dataclass(frozen=True)
class Learned:
    """What earlier attempts at the same graph found out. It only grows.

    Attributes:
        failed: by node index, what its rule raised; it is treated as an unknown operator.
        constant: activations that are constant wherever they are kept.
        tied: stored weights with several users that are to be sliced alike, since copies would be larger.
        whole: activations that are to be whole although what they are computed from is narrowed.
        summands: activations that are constant and added where they are, since no other constant can hold the sum.
        beside: by index, nodes that let channels along other axes pass (see `OpRule.beside`).
        pins: elements that must stay.
        used: by node index, the columns and rows of a layer's weight that are no zeros once channels have gone.
        narrows: whether layers may compute with a part of their weights.
        specials: graph inputs that may be infinite or NaN, with the flags of `abstract.specials`: those of a body.
    """

    failed: Mapping[int, Failure] = field(default_factory=dict)
    constant: frozenset[str] = frozenset()
    tied: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()
    summands: frozenset[str] = frozenset()
    beside: frozenset[int] = frozenset()
    pins: tuple[Pin, ...] = ()
    used: Mapping[int, Used] = field(default_factory=dict)
    narrows: bool = True
    specials: Mapping[str, int] = field(default_factory=dict)

    def with_pins(self, pins: Collection[Pin]) -> Learned:
        """Return this with some more pins, each once."""
        return replace(self, pins=tuple(dict.fromkeys((*self.pins, *pins))))

    def with_used(self, used: Mapping[int, Used]) -> Learned:
        """Return this with more columns and rows that are no zeros."""
        joined = dict(self.used)
        for index, (columns, rows) in used.items():
            before = joined.get(index)
            joined[index] = (columns, rows) if before is None else (before[0] | columns, before[1] | rows)
        return replace(self, used=joined)

    def adds_to(self, earlier: Learned) -> bool:
        """Whether there is anything in this that was not known before."""
        more = replace(self, used={}) != replace(earlier, used={})
        return more or self.used.keys() != earlier.used.keys() or any(map(self._more_used, earlier.used.items()))

    def _more_used(self, entry: tuple[int, Used]) -> bool:
        return not all(np.array_equal(*pair) for pair in zip(self.used[entry[0]], entry[1], strict=True))


_MOST_CHANNELS = 16  # of one tensor that are pinned one by one


class Stage(Enum):
    """Where an attempt begins again."""

    ANALYSIS = 1
    PLANNING = 2
    NARROWING = 3


class Lesson(Exception):
    """Why an attempt did not do, and what to do otherwise. Repairs raise it; planning and costing return it."""

    begins_at: ClassVar[Stage] = Stage.ANALYSIS

    def join(self, learned: Learned) -> Learned:
        """Return what is known with this lesson; never less than before."""
        raise NotImplementedError


class RuleFailed(Lesson):
    """The rule of a node raised an error that nobody foresaw (see `rules/guard.py`). Whoever asked may be the cause."""

    def __init__(self, node: int, failure: Failure) -> None:
        super().__init__(str(failure))
        self.node = node
        self.failure = failure

    def join(self, learned: Learned) -> Learned:
        """Add the node, unless it was known to fail."""
        return replace(learned, failed={self.node: self.failure, **learned.failed})


class ConstantWhereKept(Lesson):
    """Of some activations everything that stays is constant: whoever combines them can take them for constants."""

    def __init__(self, tensors: Collection[str]) -> None:
        super().__init__(*tensors)
        self.tensors = frozenset(tensors)

    def join(self, learned: Learned) -> Learned:
        """Add the tensors."""
        return replace(learned, constant=learned.constant | self.tensors)


class KeepWhole(Lesson):
    """A tensor's removed elements follow from others, but not all of its readers can compute with those instead."""

    def __init__(self, tensor: str) -> None:
        super().__init__(tensor)
        self.tensor = tensor

    def join(self, learned: Learned) -> Learned:
        """Add the tensor."""
        return replace(learned, whole=learned.whole | {self.tensor})


class SliceOnce(Lesson):
    """WeightSource weights became several, since their users kept different parts."""

    def __init__(self, weights: Collection[str]) -> None:
        super().__init__(*weights)
        self.weights = frozenset(weights)

    def join(self, learned: Learned) -> Learned:
        """Add the weights."""
        return replace(learned, tied=learned.tied | self.weights)


class FoldOverflow(Lesson):
    """A folded constant does not fit the data type.

    Attributes:
        tensor: the activation that must keep its constants.
        channel: (axis, position) of the only one of them that must stay, None for all.
    """

    begins_at = Stage.PLANNING

    def __init__(self, tensor: str, channel: tuple[int, int] | None = None) -> None:
        super().__init__(tensor, channel)
        self.tensor = tensor
        self.channel = channel

    def join(self, learned: Learned) -> Learned:
        """Pin the constants; where one after the other is too much, all of them."""
        earlier = [pin for pin in learned.pins if pin.tensor == self.tensor and pin.reason is Reason.OVERFLOW]
        channel = self.channel if len(earlier) < _MOST_CHANNELS else None
        return learned.with_pins([Pin(self.tensor, Reason.OVERFLOW, channel=channel)])


class NotACode(Lesson):
    """What removed constants add up to cannot be written in the codes of a quantized layer's bias.

    Attributes:
        tensor: the activation that must keep its constants. channels: (axis, position) of those of them that must stay.
    """

    begins_at = Stage.PLANNING

    def __init__(self, tensor: str, channels: Collection[tuple[int, int]]) -> None:
        super().__init__(tensor, channels)
        self.tensor = tensor
        self.channels = tuple(channels)

    def join(self, learned: Learned) -> Learned:
        """Pin the constants."""
        return learned.with_pins([Pin(self.tensor, Reason.NOT_A_CODE, channel=channel) for channel in self.channels])


class KeepSummand(Lesson):
    """A tensor that is one constant would be folded into another one, whose data type cannot hold the sum."""

    def __init__(self, tensor: str) -> None:
        super().__init__(tensor)
        self.tensor = tensor

    def join(self, learned: Learned) -> Learned:
        """Let the tensor be added where it is."""
        return replace(learned, summands=learned.summands | {self.tensor})


class PassBeside(Lesson):
    """Layers tie channels along other axes to each other: without, more may leave than along those they work along."""

    def __init__(self, nodes: Collection[int]) -> None:
        super().__init__(*nodes)
        self.nodes = frozenset(nodes)

    def join(self, learned: Learned) -> Learned:
        """Let the channels pass."""
        return replace(learned, beside=learned.beside | self.nodes)


class KeepOne(Lesson):
    """A node that stays reads a tensor of which the plan keeps nothing. ``tensor`` names it."""

    begins_at = Stage.PLANNING

    def __init__(self, tensor: str) -> None:
        super().__init__(tensor)
        self.tensor = tensor

    def join(self, learned: Learned) -> Learned:
        """Pin the tensor."""
        return learned.with_pins([Pin(self.tensor, Reason.NOT_EMPTY)])


class TooLarge(Lesson):
    """The result holds more than the original did: some tensors stay as they are."""

    begins_at = Stage.PLANNING

    def __init__(self, tensors: Collection[str]) -> None:
        super().__init__(*tensors)
        self.tensors = tuple(tensors)

    def join(self, learned: Learned) -> Learned:
        """Pin the tensors."""
        return learned.with_pins([Pin(name, Reason.LARGER) for name in self.tensors])


class NonzeroPart(Lesson):
    """Layers need rows or columns of their weights that are zeros in the file: others came to stand for removed ones.

    ``used`` holds by node index the columns [in] and rows [out] that are no zeros then.
    """

    begins_at = Stage.NARROWING

    def __init__(self, used: Mapping[int, Used]) -> None:
        super().__init__(*used)
        self.used = used

    def join(self, learned: Learned) -> Learned:
        """Add the columns and rows."""
        return learned.with_used(self.used)


class NotNarrowed(Lesson):
    """The result holds more than the original did, with layers that compute with a part of their weights."""

    begins_at = Stage.NARROWING

    def join(self, learned: Learned) -> Learned:
        """Let all layers compute with their whole weights."""
        return replace(learned, narrows=False)
