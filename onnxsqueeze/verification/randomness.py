"""Random operators: both models must draw the same numbers, or nothing can be compared."""

from __future__ import annotations

import zlib

from onnx import ModelProto, NodeProto, helper

from onnxsqueeze.model.model import Model
from onnxsqueeze.model.walk import all_nodes
from onnxsqueeze.verification.model_source import Source

_RANDOM = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
}
_SEED_LIMIT = 2**20  # exact in a float32, which the attribute of most of these operators is


def random_operators(model: ModelProto) -> list[str]:
    """Return the random operators that a model uses; Dropout is one where its training mode is an input."""
    return sorted({node.op_type for node in all_nodes(model) if _is_random(node)})


def seeded(source: Source) -> Source:
    """Return the model with a seed in each random operator that has none, derived from its output's name.

    onnxruntime starts each operator that has a seed at the same number when a session begins, so two sessions that run
    the same inputs in the same order draw alike, whatever other nodes their models have.
    """
    model = source.model()
    skeleton = ModelProto()
    skeleton.CopyFrom(model.skeleton)
    for node in all_nodes(skeleton):
        if _is_random(node) and not any(attribute.name == "seed" for attribute in node.attribute):
            seed = zlib.crc32(node.output[0].encode()) % _SEED_LIMIT
            value = seed if node.op_type == "Dropout" else float(seed)
            node.attribute.append(helper.make_attribute("seed", value))
    return Source(Model(skeleton, model.initializers))


def _is_random(node: NodeProto) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return False
    return node.op_type in _RANDOM or (node.op_type == "Dropout" and len(node.input) > 2)
