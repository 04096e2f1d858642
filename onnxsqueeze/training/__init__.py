"""Training of networks that ONNX files describe. The only part of the package that imports torch, in what it loads."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxsqueeze.training.criteria import CriterionContext, criteria_names, criterion
    from onnxsqueeze.training.cycle.front import Best, Point
    from onnxsqueeze.training.cycle.phase import Phase
    from onnxsqueeze.training.cycle.settings import Goal
    from onnxsqueeze.training.cycle.squeeze_release import SqueezeRelease
    from onnxsqueeze.training.export.export import export_masked
    from onnxsqueeze.training.export.failure import describe_export_failure
    from onnxsqueeze.training.module import OnnxModule, from_onnx
    from onnxsqueeze.training.modules.compensated_layer_norm import CompensatedLayerNorm
    from onnxsqueeze.training.squeezing.distillation import Distillation, distilled
    from onnxsqueeze.training.squeezing.learning import Learning
    from onnxsqueeze.training.squeezing.lessons import augmented, lessons
    from onnxsqueeze.training.squeezing.release import ReleaseReport, release
    from onnxsqueeze.training.squeezing.squeeze import SqueezeOutcome, SqueezeSettings, squeeze
    from onnxsqueeze.training.units import Units, unit_scores, units_of

__all__ = [
    "Best",
    "CompensatedLayerNorm",
    "CriterionContext",
    "Distillation",
    "Goal",
    "Learning",
    "OnnxModule",
    "Phase",
    "Point",
    "ReleaseReport",
    "SqueezeOutcome",
    "SqueezeRelease",
    "SqueezeSettings",
    "Units",
    "augmented",
    "criteria_names",
    "criterion",
    "describe_export_failure",
    "distilled",
    "export_masked",
    "from_onnx",
    "lessons",
    "release",
    "squeeze",
    "unit_scores",
    "units_of",
]

_HOMES = {
    "Best": "cycle.front",
    "CompensatedLayerNorm": "modules.compensated_layer_norm",
    "CriterionContext": "criteria",
    "Distillation": "squeezing.distillation",
    "Goal": "cycle.settings",
    "Learning": "squeezing.learning",
    "OnnxModule": "module",
    "Phase": "cycle.phase",
    "Point": "cycle.front",
    "ReleaseReport": "squeezing.release",
    "SqueezeOutcome": "squeezing.squeeze",
    "SqueezeRelease": "cycle.squeeze_release",
    "SqueezeSettings": "squeezing.squeeze",
    "Units": "units",
    "augmented": "squeezing.lessons",
    "criteria_names": "criteria",
    "criterion": "criteria",
    "describe_export_failure": "export.failure",
    "distilled": "squeezing.distillation",
    "export_masked": "export.export",
    "from_onnx": "module",
    "lessons": "squeezing.lessons",
    "release": "squeezing.release",
    "squeeze": "squeezing.squeeze",
    "unit_scores": "units",
    "units_of": "units",
}

if importlib.util.find_spec("torch") is None:
    raise ModuleNotFoundError("onnxsqueeze.training needs PyTorch: pip install 'onnxsqueeze[train]'", name="torch")


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    return found


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
