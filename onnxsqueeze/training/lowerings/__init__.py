"""How operators are computed in torch, one module for each module of rules; importing this package registers all forms.

A form is a function on a `Call`, written in plain torch and traced once by torch.fx::

    @form("Softplus")
    def softplus(call: Call) -> Tensor:
        return F.softplus(call.tensor(0))
"""

from __future__ import annotations

import importlib
import pkgutil

from onnxsqueeze.training.lowerings.registry import Call, Form, Result, form, form_for, form_of, forms, leaf

__all__ = ["Call", "Form", "Result", "form", "form_for", "form_of", "forms", "leaf"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
