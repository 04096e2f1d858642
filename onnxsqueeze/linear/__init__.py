"""What Conv, ConvTranspose, Gemm and MatMul have in common."""

from __future__ import annotations

from onnxsqueeze.linear.rule import linear_rule
from onnxsqueeze.linear.view import Linear, all_finite, constant_weight, linear_of

__all__ = ["Linear", "all_finite", "constant_weight", "linear_of", "linear_rule"]
