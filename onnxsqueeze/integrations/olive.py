"""A pass for Olive's workflows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from olive.hardware import AcceleratorSpec
from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.package_config import OlivePackageConfig
from olive.passes.olive_pass import Pass
from olive.passes.pass_config import BasePassConfig, PassConfigParam

from onnxsqueeze.pipeline.minimize import minimize


class OnnxSqueezeMinimize(Pass):  # type: ignore[misc]  # Olive has no types
    """Rewrites a masked ONNX model exactly into a smaller dense one, as `onnxsqueeze.minimize` does."""

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        return {
            "round_to": PassConfigParam(
                type_=str, default_value="auto", description="Keep counts of channels that are fast, or multiples of K."
            ),
            "keep": PassConfigParam(
                type_=list[str], default_value=[], description="Tensors of which no channel may go."
            ),
            "only": PassConfigParam(
                type_=list[str], default_value=[], description="Tensors of which alone channels may go."
            ),
            "fix_inputs": PassConfigParam(
                type_=bool, default_value=False, description="Make initializers that are inputs constants."
            ),
            "verify": PassConfigParam(
                type_=bool, default_value=True, description="Compare both models in onnxruntime before writing."
            ),
        }

    def _run_for_config(
        self, model: ONNXModelHandler, config: type[BasePassConfig], output_model_path: str
    ) -> ONNXModelHandler:
        target = Path(resolve_onnx_path(output_model_path, Path(model.model_path).name))
        given: dict[str, Any] = {name: getattr(config, name) for name in ("keep", "only", "fix_inputs", "verify")}
        rounded = config.round_to if config.round_to == "auto" else int(config.round_to)
        result = minimize(model.model_path, round_to=rounded, **given)
        result.save(target)
        if result.has_data_file:
            return ONNXModelHandler(model_path=target.parent, onnx_file_name=target.name)
        return ONNXModelHandler(model_path=target)


def package_config() -> dict[str, Any]:
    """Return Olive's own list of passes with this one in it, which ``olive.run(package_config=)`` takes as a file."""
    config: dict[str, Any] = json.loads(Path(OlivePackageConfig.get_default_config_path()).read_text(encoding="utf-8"))
    config["passes"][OnnxSqueezeMinimize.__name__] = {
        "module_path": f"{OnnxSqueezeMinimize.__module__}.{OnnxSqueezeMinimize.__name__}",
        "supported_providers": ["*"],
        "supported_accelerators": ["*"],
        "supported_precisions": ["*"],
    }
    return config
