"""A Softmax whose rows of minus infinity, which come out as NaN, are set to zero, as in torch's attention."""

from __future__ import annotations

from onnxsqueeze.canonicalization.patterns.expression import Data, Expression, Match, Number, Operation, Softmax
from onnxsqueeze.canonicalization.patterns.pattern import Fused, Pattern
from onnxsqueeze.canonicalization.patterns.scope import Scope


def _guarded_softmax() -> Expression:
    softmax = Softmax(Data())
    return Operation("Where", (Operation("IsNaN", (softmax,)), Number(0.0), softmax))


def _named(match: Match, scope: Scope) -> Fused:
    return Fused("GuardedSoftmax", {"axis": match.axis})


PATTERNS = (Pattern(_guarded_softmax(), ("x",), (), _named),)
