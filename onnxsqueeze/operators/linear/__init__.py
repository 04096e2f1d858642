"""Operators that multiply by a constant weight: Conv, Gemm, MatMul, Einsum and their kin."""
