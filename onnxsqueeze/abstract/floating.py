"""The floating-point types that rules compute with; those of eight bits and fewer are stored as codes."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper

FLOATING = frozenset((TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE))
"""As ONNX numbers them."""
_NAMES = frozenset(helper.tensor_dtype_to_np_dtype(kind).name for kind in FLOATING)


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Return whether a numpy dtype is one of them."""
    return dtype.name in _NAMES
