"""A pass for pipelines of onnx-ir and onnxscript."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnx_ir.passes import FunctionalPass, PassResult

from onnxsqueeze.pipeline.minimize import minimize


class MinimizePass(FunctionalPass):
    """Rewrites a masked model exactly into a smaller dense one, as `onnxsqueeze.minimize` does.

    The model that is given is not changed. Models over 2 GB are files: use `onnxsqueeze.minimize` with their path.
    """

    def __init__(self, **options: Any) -> None:
        """Take the options of `onnxsqueeze.minimize`."""
        self.options = options

    def call(self, model: ir.Model) -> PassResult:
        """Return the smaller model.

        Raises:
            SqueezeError: as `onnxsqueeze.minimize` does; a PassManager makes a PassError of it.
        """
        result = minimize(model, **self.options)
        return PassResult(ir.from_proto(result.model), modified=result.changed)
