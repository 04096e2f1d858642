"""Check what users hand in and what their loops leave behind; each problem is one line that says how to mend it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from onnx import TensorProto, ValueInfoProto
from torch import nn

from onnxsqueeze.errors import SqueezeError, UsageError, one_line
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.protobuf import declared_size
from onnxsqueeze.training.module import OnnxModule


def metric_of(value: Any, where: str) -> float:
    """Return what an evaluation gave as a float.

    Raises:
        UsageError: when it is no finite number.
    """
    try:
        found = float(value)
    except (TypeError, ValueError, RuntimeError):
        kind = type(value).__name__
        raise UsageError(
            f"evaluate returned {'nothing' if value is None else f'a {kind}'} for {where}: "
            "let it return one number, larger is better"
        ) from None
    if not math.isfinite(found):
        raise UsageError(
            f"evaluate returned {found} for {where}: let it return a finite number, larger is better; "
            "what was finished before is kept"
        )
    return found


def check_loop(name: str, loop: Any, arguments: Sequence[str]) -> None:
    """Refuse what cannot be called as a loop is.

    Raises:
        UsageError: when it is no function, or takes other arguments.
    """
    if not callable(loop):
        raise UsageError(f"{name}: give a function, not {type(loop).__name__}")
    try:
        signature = inspect.signature(loop)
    except (TypeError, ValueError):  # of what is built in nothing is known
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise UsageError(
            f"{name}: is called as {name}({', '.join(arguments)}), which it does not take: {error}"
        ) from None


def in_order(
    example: torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor], names: Sequence[str]
) -> tuple[torch.Tensor, ...]:
    """Return example inputs in the order of a model's inputs.

    Raises:
        UsageError: when one is missing, or is no tensor.
    """
    if isinstance(example, Mapping):
        if set(example) != set(names):
            raise UsageError(f"example_inputs: {', '.join(example)} given, the model has {', '.join(names)}")
        example = [example[name] for name in names]
    values = (example,) if isinstance(example, torch.Tensor) else tuple(example)
    for value in values:
        if not isinstance(value, torch.Tensor):
            raise UsageError(f"example_inputs: holds a {type(value).__name__}; give tensors")
    return values


def check_example(model: Model, example: Sequence[torch.Tensor]) -> None:
    """Compare example inputs with the declared inputs of a model.

    Raises:
        UsageError: when their number, a rank, a static size or a type differs.
    """
    inputs = [value for value in model.skeleton.graph.input if value.name not in model.initializers]
    if len(example) != len(inputs):
        names = ", ".join(value.name for value in inputs)
        raise UsageError(f"example_inputs: {len(example)} given, the model has {len(inputs)}: {names}")
    for value, tensor in zip(inputs, example, strict=True):
        declared = _sizes(value)
        if declared is not None and not fits(declared, tuple(tensor.shape)):
            wanted = ", ".join(str(size) for size in declared)
            raise UsageError(
                f"example_inputs: {value.name} has the shape {tuple(tensor.shape)}, the model wants ({wanted})"
            )
        kind = value.type.tensor_type.elem_type
        if kind == TensorProto.FLOAT and not tensor.is_floating_point():
            raise UsageError(f"example_inputs: {value.name} is {tensor.dtype}, the model wants float32")
        if kind in (TensorProto.INT64, TensorProto.INT32) and tensor.is_floating_point():
            raise UsageError(f"example_inputs: {value.name} is {tensor.dtype}, the model wants integers")


def check_runs(module: nn.Module, example: Sequence[torch.Tensor], argument: str = "example_inputs") -> None:
    """Run a module once in eval mode.

    Raises:
        UsageError: when it does not take the example inputs.
    """
    module.eval()
    try:
        with torch.no_grad():
            module(*example)
    except Exception as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in example)
        raise UsageError(f"{argument} of the shapes {shapes} do not run: {one_line(error)}") from error


def declared_sizes(model: Model, name: str) -> list[int | str] | None:
    """Return the sizes that a model declares for an input, numbers and names; None if it says nothing."""
    return next((_sizes(value) for value in model.skeleton.graph.input if value.name == name), None)


def _sizes(value: ValueInfoProto) -> list[int | str] | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return [declared_size(dim) for dim in kind.shape.dim]


def fits(declared: Sequence[int | str], shape: tuple[int, ...]) -> bool:
    """Whether a shape has the declared sizes; what is a name may be of any."""
    return len(declared) == len(shape) and all(
        isinstance(wanted, str) or wanted == size for wanted, size in zip(declared, shape, strict=True)
    )


@dataclass(frozen=True)
class Before:
    """What a module is before a training loop gets it.

    Attributes:
        parameters: by name; held on to, so that one that takes another's place is another object.
        kinds: shape and dtype of each. masks: copies. sums: of each, which no training leaves as they are.
    """

    parameters: Mapping[str, nn.Parameter]
    kinds: Mapping[str, tuple[torch.Size, torch.dtype]]
    masks: Mapping[str, torch.Tensor]
    sums: Mapping[str, float]

    @classmethod
    def of(cls, module: OnnxModule) -> Before:
        """Take down what must stay as it is."""
        parameters = dict(module.named_parameters())
        kinds = {name: (parameter.shape, parameter.dtype) for name, parameter in parameters.items()}
        return cls(parameters, kinds, {name: mask.clone() for name, mask in module.masks.items()}, _sums(module))

    def warning(self, module: OnnxModule, returned: Any) -> str:
        """Return what may be a mistake of a training loop, "" if nothing is."""
        if isinstance(returned, nn.Module) and getattr(returned, "module", returned) is not module:
            return "returned another module, which does not count; train the one that it is given, in place"
        if self.sums and self.sums == _sums(module):
            return "changed no parameter; make an optimizer of module.parameters() and step it"
        return ""

    def problem(self, module: OnnxModule, where: str) -> SqueezeError | None:
        """Return what a training loop has done to the module that it must not do; None if all is well."""
        said = self._misuse(module)
        if said is not None:
            return UsageError(f"train, {where}: {said}; what was finished before is kept")
        name = next((name for name, tensor in _changing(module) if not bool(torch.isfinite(tensor).all())), None)
        if name is not None:
            return SqueezeError(
                f"train, {where}: left values in {name} that are not finite; lower the learning rate or clip the "
                "gradients, then resume; what was finished before is kept"
            )
        return None

    def _misuse(self, module: OnnxModule) -> str | None:
        if not module.training:
            return "left the module in eval mode; call module.train() after evaluating and before returning"
        found = dict(module.named_parameters())
        for name, parameter in self.parameters.items():
            if found.get(name) is not parameter:
                return f"swapped the parameter {name} for another; change the values in place, under torch.no_grad()"
            if (parameter.shape, parameter.dtype) != self.kinds[name]:
                return f"changed {name} to {parameter.dtype} {tuple(parameter.shape)}; train in autocast instead"
        if len(found) > len(self.parameters):
            added = next(name for name in found if name not in self.parameters)
            return f"added the parameter {added}, which the network cannot keep; keep it outside of the module"
        masks = module.masks
        if masks.keys() != self.masks.keys() or any(
            not torch.equal(mask.to(masks[name].device), masks[name]) for name, mask in self.masks.items()
        ):
            return "changed the masks; leave set_masks to the cycle"
        return None


def _sums(module: OnnxModule) -> dict[str, float]:
    return {name: float(tensor.double().sum()) for name, tensor in _changing(module)}


def _changing(module: OnnxModule) -> list[tuple[str, torch.Tensor]]:
    """Return what training may change: parameters and moving averages, not constants, which may be infinite."""
    named = [*module.named_parameters(), *module.statistics.items()]
    return [(name, tensor.detach()) for name, tensor in named if tensor.is_floating_point()]
