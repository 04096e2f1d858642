"""Rewrite an ONNX model whose weights were masked by pruning exactly into a smaller dense model."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxsqueeze.errors import InvalidModelError, SqueezeError, UsageError, VerificationError
    from onnxsqueeze.minimizing import Result, inspect, minimize
    from onnxsqueeze.plan import Plan
    from onnxsqueeze.report import Report
    from onnxsqueeze.verification import VerifyReport, verify

__version__ = "0.1.0"
__all__ = [
    "InvalidModelError",
    "Plan",
    "Report",
    "Result",
    "SqueezeError",
    "UsageError",
    "VerificationError",
    "VerifyReport",
    "inspect",
    "minimize",
    "verify",
]

_HOMES = {
    "InvalidModelError": "errors",
    "SqueezeError": "errors",
    "UsageError": "errors",
    "VerificationError": "errors",
    "Plan": "plan",
    "Report": "report",
    "Result": "minimizing",
    "inspect": "minimizing",
    "minimize": "minimizing",
    "VerifyReport": "verification",
    "verify": "verification",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that no command pays for what it does not need."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
