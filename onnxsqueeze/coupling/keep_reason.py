"""Why channels that could have gone stayed, and why a tensor could not be narrowed: a closed list."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

PAGE = "docs/troubleshooting.md"
"""The page that explains each reason, under its anchor."""


class Reason(Enum):
    """A reason: the words that a report shows for it, which are its value, and what its reader can do."""

    remedy: str

    def __new__(cls, words: str, remedy: str) -> Reason:
        """Let the words stand for the reason, as they do in reports."""
        made = object.__new__(cls)
        made._value_, made.remedy = words, remedy
        return made

    NEEDED = (
        "it shares its place with a channel that a reader needs",
        "Give layers whose outputs are added the same mask; the nodes beside the reason are where they are read.",
    )
    GRAPH_INPUT = (
        "it is a graph input",
        "Nothing, if callers rely on the input; else export the network with a narrower input.",
    )
    GRAPH_OUTPUT = (
        "it is a graph output",
        "Nothing, if callers rely on the output; else export the network with fewer outputs.",
    )
    KEPT_BY_USER = (
        "kept on request",
        "Leave out `--keep` (`keep=`), or give it narrower patterns.",
    )
    NOT_ASKED = (
        "not among the tensors that were asked for",
        "Leave out `--only` (`only=`), or give it wider patterns.",
    )
    OVERRIDABLE = (
        "an initializer that is also a graph input can be overridden",
        "If nobody replaces the weights: `--fix-inputs`, or export without `keep_initializers_as_inputs`.",
    )
    UNKNOWN_OPERATOR = (
        "read by an operator without a rule",
        "Export it as standard operators, or add a rule.",
    )
    INTERNAL_ERROR = (
        "internal error in the rule of",
        "Report it, with the model: this is a mistake in the rule, and no fault of the model.",
    )
    NOT_RUNNABLE = (
        "onnxruntime cannot run",
        "Export the model again; the warning has what onnxruntime says of the node.",
    )
    SUBGRAPH = (
        "read from inside a subgraph",
        "Export without control flow, or with conditions that are constants, where that says the same.",
    )
    INSIDE = (
        "it lies inside of a node, whose graphs are left as they are",
        "Export without control flow, or let the exporter inline functions, where that says the same.",
    )
    CAPTURED = (
        "it comes from outside of the subgraph of",
        "Export without control flow, or with conditions that are constants, where that says the same.",
    )
    HANDED_OUT = (
        "it is handed out of the subgraph of",
        "Export without control flow, or with conditions that are constants, where that says the same.",
    )
    CARRIED = (
        "it is carried from round to round by",
        "Export recurrent layers as LSTM, GRU or RNN instead of a loop, where that says the same.",
    )
    COMPUTED_WEIGHT = (
        "its reader computes its weights at run time",
        "Export with constant folding, so that the weight is stored; a weight made from inputs cannot be narrowed.",
    )
    NOT_FINITE = (
        "its reader's weights hold NaN or Inf",
        "Look for where the training diverged: weights that are NaN or Inf rarely mean what they say.",
    )
    UNSUPPORTED_DTYPE = (
        "its reader's weights have a data type that is not folded",
        "Store the weights as float16, bfloat16, float32 or float64, or quantize after minimizing.",
    )
    UNKNOWN_SHAPE = (
        "the shape is not known well enough",
        "Export with a named or a fixed size of that axis.",
    )
    SINGLE_ELEMENTS = (
        "its reader takes or writes single elements",
        "Index whole slices (Gather, Slice) where that says the same.",
    )
    EMPTY = (
        "a tensor beside its reader holds no elements",
        "Export without the empty tensor, such as a cache that nothing is in.",
    )
    CONSTANT_VARIES = (
        "constant, but different at each position",
        "Let the mask take all that writes the channel, also what depends on the position.",
    )
    CONSTANT_READ = (
        "constant, but its reader cannot absorb a constant",
        "Let the mask take biases along with the weights: many readers absorb 0 and no other constant.",
    )
    NORMALISED = (
        "its value is set against that of every other channel",
        "Nothing: each channel changes the sum that all are divided by.",
    )
    COMPARED = (
        "its reader compares, orders or adds up the channels",
        "Nothing: each channel counts where channels are compared, ordered or added up.",
    )
    COUPLED = (
        "it shares its place with channels that are needed",
        "Give what is added, or stands in one head, the same mask.",
    )
    REPRESENTATIVE = (
        "stands for the constants that left",
        "Let the mask take biases along with the weights: before a padded convolution, channels that are 0 need none.",
    )
    REGULAR = (
        "kept so that groups stay equal",
        "Mask equally many channels in each group, or dims in each head.",
    )
    BROADCAST = (
        "kept because a tensor that broadcasts against it is",
        "Let the mask take the same channels of both tensors.",
    )
    NOT_EMPTY = (
        "the last channel of a tensor that is still read",
        "Nothing: ONNX has no way to leave out a tensor of which something is still read.",
    )
    ROUNDED = (
        "kept so that the channel count suits the runtime",
        "`--round-to 1` takes the smallest model instead of the fastest.",
    )
    OVERFLOW = (
        "folding its constant would overflow the data type",
        "Minimize the float32 model, and convert what comes out to float16.",
    )
    MEASURED = (
        "its reader measures it: the largest element sets the scale",
        "Minimize the float network first, or quantize with calibration instead of dynamically.",
    )
    NOT_A_CODE = (
        "the codes of its reader's bias cannot hold its constant",
        "Minimize the float network first, and quantize what comes out.",
    )
    PADDED = (
        "a constant beside padding by zeros, which quantized weights cannot stand for",
        "Set the biases of masked rows to 0 before quantization, or minimize the float network first.",
    )
    SLOWER = (
        "computing without it would not be faster",
        "`--round-to 1` takes the smallest model instead of the fastest.",
    )
    LARGER = (
        "removing it would make the model larger",
        "Store a weight of its own for each node that shares it, if they are masked differently.",
    )

    @property
    def words(self) -> str:
        """What a report shows for it."""
        return str(self.value)

    @property
    def anchor(self) -> str:
        """Where it is explained: a heading of docs/troubleshooting.md."""
        return self.name.lower()

    @classmethod
    def of(cls, text: str) -> Reason | None:
        """Return the reason that a line of a report gives, with its detail or without; None for another text."""
        return next((reason for reason in cls if text.startswith(reason.words)), None)


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
