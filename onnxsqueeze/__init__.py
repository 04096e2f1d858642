"""Rewrite an ONNX model whose weights were masked by pruning exactly into a smaller dense model.

The packages lie in layers. A file may import from its own package and from those in lower lines; imports under
TYPE_CHECKING and inside of functions count. (tests/test_layers.py reads this table and checks every import.)

    13  cli
    12  onnxsqueeze
    11  bench, training, integrations
    10  squeezing
     9  units, deployment
     8  pipeline
     7  reporting, canonicalization, planning, rewriting
     6  analysis, operators
     5  shapes
     4  rules, runtimes
     3  graph, verification
     2  model, coupling
     1  errors, abstract, processes, _version

Besides, no files import each other in a circle; only ``pipeline.frontend`` imports the operators; ``verification``
shares no code with ``rules``, ``graph``, ``coupling``, ``shapes`` and ``operators``; only ``training`` imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from onnxsqueeze._version import __version__ as __version__

if TYPE_CHECKING:
    from onnxsqueeze.errors import GoalError, InvalidModelError, SqueezeError, UsageError
    from onnxsqueeze.pipeline.minimize import Result, inspect, minimize
    from onnxsqueeze.reporting.report import Report
    from onnxsqueeze.rules.plan import Plan
    from onnxsqueeze.squeezing.squeeze import Squeezed, squeeze
    from onnxsqueeze.training.export.minimized import minimize_module
    from onnxsqueeze.verification import VerifyReport, verify
    from onnxsqueeze.verification.report import VerificationError

__all__ = [
    "GoalError",
    "InvalidModelError",
    "Plan",
    "Report",
    "Result",
    "SqueezeError",
    "Squeezed",
    "UsageError",
    "VerificationError",
    "VerifyReport",
    "inspect",
    "minimize",
    "minimize_module",
    "squeeze",
    "verify",
]

_HOMES = {
    "GoalError": "errors",
    "InvalidModelError": "errors",
    "SqueezeError": "errors",
    "UsageError": "errors",
    "VerificationError": "verification.report",
    "Plan": "rules.plan",
    "Report": "reporting.report",
    "Result": "pipeline.minimize",
    "inspect": "pipeline.minimize",
    "minimize": "pipeline.minimize",
    "minimize_module": "training.export.minimized",
    "Squeezed": "squeezing.squeeze",
    "squeeze": "squeezing.squeeze",
    "VerifyReport": "verification",
    "verify": "verification",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that no command pays for what it does not need."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
