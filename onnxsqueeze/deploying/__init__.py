"""Deploy a model: what a runtime loads, a manifest of it, and how far it deviates from the model."""

from onnxsqueeze.deploying.deployment import Options, deploy
from onnxsqueeze.deploying.manifest import Manifest

__all__ = ["Manifest", "Options", "deploy"]
