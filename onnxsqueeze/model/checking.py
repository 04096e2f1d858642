"""Whether a model keeps to the ONNX standard, asked without its weights."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnx.checker
import onnx.defs
from onnx import ModelProto, OperatorSetIdProto

from onnxsqueeze.errors import InvalidModelError, one_line

_DEFAULT_DOMAIN = ""
_RUNTIME_OPERATORS = ("SimplifiedLayerNormalization", "LayerNormalization")  # the latter before opset 17


def check_encoded(encoded: bytes) -> None:
    """Run the checker of the onnx package on an encoded model.

    Raises:
        InvalidModelError: with the checker's reason.
    """
    try:
        onnx.checker.check_model(encoded)
    except Exception as error:  # the checker lets errors of several C++ types through
        if "No Op registered" in str(error) and (moved := _with_runtime_operators_apart(encoded)) is not None:
            check_encoded(moved)
            return
        raise InvalidModelError(
            f"the model breaks the ONNX standard: {one_line(error)}; export it again or repair it"
        ) from None


def _with_runtime_operators_apart(encoded: bytes) -> bytes | None:
    """Put operators of onnxruntime's own that its tools write into ONNX's domain into another, None if there are none.

    onnxruntime runs such models, and makes most language models in this form.
    """
    model = ModelProto.FromString(encoded)
    nodes = [node for node in model.graph.node if node.op_type in _RUNTIME_OPERATORS and node.domain in ("", "ai.onnx")]
    for node in nodes:
        node.domain = "com.microsoft"
    if all(entry.domain != "com.microsoft" for entry in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return model.SerializeToString() if nodes else None


def check_opsets(model: ModelProto) -> None:
    """Refuse versions of the standard operator sets that the installed onnx does not know, and contradictory ones.

    The checker would judge such a model by the newest version it knows. Other domains are not judged.

    Raises:
        InvalidModelError: naming the operator set.
    """
    _check_imports(model.opset_import, "the model")
    for function in model.functions:
        _check_imports(function.opset_import, f"its function '{function.name}'")


def check_names(model: ModelProto) -> None:
    """Refuse names that are not text: they are bytes to Python, and equal to no other name.

    Raises:
        InvalidModelError: naming the node.
    """
    for index, node in enumerate(model.graph.node):
        try:
            "".join((node.name, node.op_type, node.domain, *node.input, *node.output))
        except TypeError:
            raise InvalidModelError(f"node {index} has a name that is not UTF-8; the file is damaged") from None


def _check_imports(imports: Iterable[OperatorSetIdProto], what: str) -> None:
    known = onnx.defs.C.schema_version_map()
    seen: dict[str, int] = {}
    for entry in imports:
        domain = _DEFAULT_DOMAIN if entry.domain == "ai.onnx" else entry.domain
        name = domain or "ai.onnx"
        if seen.setdefault(domain, entry.version) != entry.version:
            raise InvalidModelError(
                f"{what} imports the operator set {name} twice, as version {seen[domain]} and {entry.version}; "
                "export it again"
            )
        oldest, newest = known.get(domain, (entry.version, entry.version))
        if not oldest <= entry.version <= newest:
            raise InvalidModelError(
                f"{what} uses version {entry.version} of the operator set {name}, "
                f"but the installed onnx {onnx.__version__} knows {oldest} to {newest}; "
                "upgrade onnx or export the model with another opset"
            )
