"""What a model can be deployed to: which runtimes load what is written, and which number types they take."""

from __future__ import annotations

from dataclasses import dataclass, field

UNCHANGED, FLOAT16, INT8 = "unchanged", "float16", "int8"


@dataclass(frozen=True)
class Target:
    """One target of `deploy`.

    Attributes:
        name: what it is called.
        runtimes: the names of the runtimes whose files are written, each of which is then run.
        optional: those among them that need not be installed, since another one loads the very same files.
        converter_halves: whether float16 is left to the runtime's converter, which stores weights so; else the ONNX
            model is converted before, and computes in float16 too.
        refused: why it cannot have a number type, by the type's name.
    """

    name: str
    runtimes: tuple[str, ...]
    optional: frozenset[str] = frozenset()
    converter_halves: bool = False
    refused: dict[str, str] = field(default_factory=dict)


_TARGETS = (
    Target("ort", ("onnxruntime", "ort")),
    Target("openvino", ("openvino",), converter_halves=True),
    Target(
        "ncnn",
        ("ncnn",),
        converter_halves=True,
        refused={INT8: "pnnx stores quantized weights as floats again; ncnn2table and ncnn2int8 quantize for ncnn"},
    ),
    Target(
        "litert",
        ("litert",),
        converter_halves=True,
        refused={INT8: "onnx2tf takes no QuantizeLinear; LiteRT's own ai-edge-quantizer quantizes the tflite file"},
    ),
    Target("web", ("onnxruntime", "web"), optional=frozenset({"web"})),
)
TARGETS = {target.name: target for target in _TARGETS}
"""All targets by name."""
