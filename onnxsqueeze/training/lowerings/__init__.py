"""How operators are computed in torch, one module for each module of rules; importing this package registers them.

A lowering is a function on a `NodeCall`, written in plain torch and traced once by torch.fx::

    @lowering("Softplus")
    def softplus(call: NodeCall) -> Tensor:
        return F.softplus(call.tensor(0))
"""

from __future__ import annotations

import importlib
import pkgutil

from onnxsqueeze.training.lowerings.registry import (
    Lowering,
    NodeCall,
    Result,
    leaf,
    lowering,
    lowering_for,
    lowering_of,
    lowerings,
)

__all__ = ["NodeCall", "Lowering", "Result", "lowering", "lowering_for", "lowering_of", "lowerings", "leaf"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
