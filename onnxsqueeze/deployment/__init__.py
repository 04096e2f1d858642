"""Deploy a model: what a runtime loads, a manifest of it, and how far it deviates from the model."""

from onnxsqueeze.deployment.deployment import Options, deploy
from onnxsqueeze.deployment.manifest import Manifest

__all__ = ["Manifest", "Options", "deploy"]
