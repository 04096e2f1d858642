"""What Conv, ConvTranspose, Gemm and MatMul have in common."""

from __future__ import annotations

from onnxsqueeze.linear.narrowing import Candidate, Narrowing, Used, zeros_of
from onnxsqueeze.linear.rule import linear_rule
from onnxsqueeze.linear.view import Linear, all_finite, constant_weight, linear_of

__all__ = [
    "Candidate",
    "Linear",
    "Narrowing",
    "Used",
    "all_finite",
    "constant_weight",
    "linear_of",
    "linear_rule",
    "zeros_of",
]
