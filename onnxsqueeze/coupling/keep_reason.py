"""Why channels that could have gone stayed, and why a tensor could not be narrowed: a closed list."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Reason(Enum):
    """A reason, with the words that a report shows for it."""

    NEEDED = "it shares its place with a channel that a reader needs"
    GRAPH_INPUT = "it is a graph input"
    GRAPH_OUTPUT = "it is a graph output"
    KEPT_BY_USER = "kept on request"
    NOT_ASKED = "not among the tensors that were asked for"
    OVERRIDABLE = "an initializer that is also a graph input can be overridden"
    UNKNOWN_OPERATOR = "read by an operator without a rule"
    INTERNAL_ERROR = "internal error in the rule of"
    NOT_RUNNABLE = "onnxruntime cannot run"
    SUBGRAPH = "read from inside a subgraph"
    INSIDE = "it lies inside of a node, whose graphs are left as they are"
    CAPTURED = "it comes from outside of the subgraph of"
    HANDED_OUT = "it is handed out of the subgraph of"
    CARRIED = "it is carried from round to round by"
    COMPUTED_WEIGHT = "its reader computes its weights at run time"
    NOT_FINITE = "its reader's weights hold NaN or Inf"
    UNSUPPORTED_DTYPE = "its reader's weights have a data type that is not folded"
    UNKNOWN_SHAPE = "the shape is not known well enough"
    SINGLE_ELEMENTS = "its reader takes or writes single elements"
    EMPTY = "a tensor beside its reader holds no elements"
    CONSTANT_VARIES = "constant, but different at each position"
    CONSTANT_READ = "constant, but its reader cannot absorb a constant"
    NORMALISED = "its value is set against that of every other channel"
    COMPARED = "its reader compares, orders or adds up the channels"
    COUPLED = "it shares its place with channels that are needed"
    REPRESENTATIVE = "stands for the constants that left"
    REGULAR = "kept so that groups stay equal"
    BROADCAST = "kept because a tensor that broadcasts against it is"
    NOT_EMPTY = "the last channel of a tensor that is still read"
    ROUNDED = "kept so that the channel count suits the runtime"
    OVERFLOW = "folding its constant would overflow the data type"
    MEASURED = "its reader measures it: the largest element sets the scale"
    NOT_A_CODE = "the codes of its reader's bias cannot hold its constant"
    PADDED = "a constant beside padding by zeros, which quantized weights cannot stand for"
    SLOWER = "computing without it would not be faster"
    LARGER = "removing it would make the model larger"


class Why(NamedTuple):
    """Why something stays: a reason, its detail, and the node that brings it about ("" where none does)."""

    reason: Reason
    detail: str = ""
    node: str = ""


@dataclass(frozen=True)
class Pin:
    """Elements of one tensor that stay whatever happens: all, or those of one channel given as (axis, position)."""

    tensor: str
    reason: Reason
    detail: str = ""
    channel: tuple[int, int] | None = None
