"""Say in one line why a module does not run or does not export: what, where in it, and what to do."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from types import FrameType

import torch
from torch import nn

from onnxsqueeze.errors import one_line

__all__ = ["depends_on_values", "describe_export_failure", "names_operator", "place_of"]

_LONGEST = 200  # characters of what torch says
_OPERATOR = re.compile(r"OpOverload\(op='([\w.:]+)'|operator '([\w:]+)'|target=torch\.ops\.([\w.]+)\]")
_CONTROL_FLOW = ("data-dependent", "DataDependent", "_local_scalar_dense")


def describe_export_failure(error: BaseException, module: nn.Module) -> str:
    """Describe what an exporter of torch raised.

    Args:
        error: what was raised; its causes are looked at as well.
        module: the module that was exported.
    """
    operator = names_operator(error)
    if operator:
        what = f"torch cannot write its operator {operator} to ONNX"
        mend = "replace the operator by others, or export the network without that part"
    elif depends_on_values(error):
        what = "what it does depends on the values of tensors, which an ONNX graph cannot express"
        mend = "write that part with torch.where or torch.cond, or export the network without it"
    else:
        what = f"torch cannot trace it: {_short(_root(error))}"
        mend = "change that part so that torch.onnx.export takes it, or export the network without it"
    return f"the module {type(module).__name__} does not export{place_of(error, module)}: {what}; {mend}"


def depends_on_values(error: BaseException) -> bool:
    """Whether an exporter met control flow that depends on the values of tensors."""
    return any(mark in f"{type(entry).__name__} {entry}" for entry in _chain(error) for mark in _CONTROL_FLOW)


def names_operator(error: BaseException) -> str:
    """Return the operator that an exporter does not know, "" where the error is about something else."""
    for entry in _chain(error):
        told = any(mark in str(entry) for mark in ("No ONNX function found", "is not supported"))
        if told and (found := _OPERATOR.search(str(entry))):
            return next(group for group in found.groups() if group)
    return ""


def place_of(error: BaseException, module: nn.Module) -> str:
    """Return " in 'layers.3' (Conv2d)" for the innermost part of a module that an error comes from, or ""."""
    names = {id(part): (name, type(part).__name__) for name, part in module.named_modules() if name}
    found = ""
    for entry in _chain(error):
        for frame, _ in traceback.walk_tb(entry.__traceback__):
            name, kind = names.get(id(frame.f_locals.get("self")), ("", "")) or ("", "")
            if not name:
                name, kind = _of_node(frame)
            if name:
                found = f" in '{name}' ({kind})"
    return found


def _of_node(frame: FrameType) -> tuple[str, str]:
    """Return the module that a node of a traced graph comes from, if that is what a frame is busy with."""
    node = frame.f_locals.get("node")
    stack = node.meta.get("nn_module_stack") if isinstance(node, torch.fx.Node) else None
    if not stack:
        return "", ""
    path, kind = list(stack.values())[-1]
    plain = str(path).removeprefix("L['self'].").removeprefix("module.")
    return ("" if plain == "module" else plain), str(getattr(kind, "__name__", kind)).rpartition(".")[-1]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from, the first cause last."""
    entry: BaseException | None = error
    while entry is not None:
        yield entry
        entry = entry.__cause__ or (None if entry.__suppress_context__ else entry.__context__)


def _root(error: BaseException) -> BaseException:
    *_, root = _chain(error)
    return root


def _short(error: BaseException) -> str:
    text = one_line(error) if isinstance(error, Exception) else str(error)
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."
