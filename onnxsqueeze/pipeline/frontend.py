"""The way in: every model is canonicalized and analysed here, so that every rule is registered before it is asked for.

Nothing else imports the operators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnxsqueeze.operators  # noqa: F401  (registers the rules)
from onnxsqueeze.analysis.forward import Analysis, analysed
from onnxsqueeze.canonicalization.passes import canonicalized
from onnxsqueeze.coupling.keep_reason import Pin
from onnxsqueeze.graph.graph import Graph
from onnxsqueeze.model.model import Model
from onnxsqueeze.rules.lessons import Learned


def canonical_graph(model: Model, keep: Sequence[str] = ()) -> Graph:
    """Return the graph of the model that is easier to analyse.

    Args:
        model: any; it is not changed.
        keep: names or glob patterns of tensors that no group of nodes may swallow.
    """
    return canonicalized(model, keep)


def analyse(
    model: Model,
    keep: Sequence[str] = (),
    pins: Sequence[Pin] = (),
    only: Sequence[str] = (),
    specials: Mapping[str, int] | None = None,
) -> Analysis:
    """Canonicalize a model and run the forward sweep over it.

    Args:
        model: any; it is not changed.
        keep: names or glob patterns of tensors of which no channel may go. only: of those of which alone some may.
        pins: elements that must stay, with reasons.
        specials: inputs that may be infinite or NaN, with the flags of `abstract.specials`.
    """
    learned = Learned(pins=tuple(pins), specials=specials or {})
    return analysed(canonical_graph(model, (*keep, *only)), keep, learned, only=only)
