"""An ONNX model as a torch module that is trained under masks and written back without an export."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
import torch.fx
from onnx import ModelProto
from torch import Tensor, nn

from onnxsqueeze.canonicalization.branches import without_constant_branches
from onnxsqueeze.errors import UsageError
from onnxsqueeze.model.constant_nodes import with_initializers
from onnxsqueeze.model.initializer import Initializer
from onnxsqueeze.model.loading import load
from onnxsqueeze.model.model import Model
from onnxsqueeze.training.lowerings.node_call import as_torch
from onnxsqueeze.training.module.inputs import bound, check_inputs, misfit
from onnxsqueeze.training.module.masking import masked
from onnxsqueeze.training.module.program import Program
from onnxsqueeze.training.module.storage import Container, Slot, place
from onnxsqueeze.training.module.untying import Preparation, prepared

Untie = Literal["constructed", "all", "none"]


class OnnxModule(nn.Module):
    """The network of an ONNX model, trainable.

    Its floating-point initializers, and those that hold codes of real numbers, are parameters under their own names,
    nested at the dots: codes are trained as what they stand for, and rounded in the forward pass. The means and
    variances of BatchNormalization are buffers that follow the data in training mode. All of it is computed in float32
    (or in what the module is moved to) whatever narrower type the file has, and inputs of such a type are taken in any.

    Attributes:
        model: the model that `write_back` fills in; nothing here changes it.
        preparation: what was changed in the model before, such as initializers that were untied.
    """

    def __init__(self, model: Model, preparation: Preparation | None = None) -> None:
        super().__init__()
        self._program = Program(model)
        self.preparation = preparation or Preparation()
        self._slots: dict[str, Slot] = {}
        for name in self._program.weights:
            tensor = as_torch(self.stored(name))
            statistic = name in self._program.statistics
            self._slots[name] = place(self, name, tensor if statistic else nn.Parameter(tensor))
        held = self._modules["held_constants"] = Container()
        for position, value in enumerate(self._program.constants):
            held.register_buffer(f"c{position}", value.clone(), persistent=False)
        held.register_buffer("floating", torch.empty(0), persistent=False)
        self._modules["mask_buffers"] = Container()
        self._mask_slots: dict[str, Slot] = {}

    @property
    def model(self) -> Model:
        """The model that `write_back` fills in."""
        return self._program.model

    @property
    def input_names(self) -> tuple[str, ...]:
        """The model's inputs, in the order of positional arguments."""
        return self._program.inputs

    @property
    def output_names(self) -> tuple[str, ...]:
        """The model's outputs."""
        return self._program.outputs

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """The tensors that `run` can give, by their names in the normalised graph."""
        return self._program.tensor_names

    @property
    def graph(self) -> torch.fx.Graph:
        """A copy of what `forward` computes; its placeholders are as `Program` says."""
        return self._program.graph()

    @property
    def initializers(self) -> dict[str, nn.Parameter]:
        """The parameters, by the name of their initializer."""
        named = {name: slot.tensor for name, slot in self._slots.items() if name not in self._program.statistics}
        return {name: tensor for name, tensor in named.items() if isinstance(tensor, nn.Parameter)}

    @property
    def statistics(self) -> dict[str, Tensor]:
        """The moving averages, by the name of their initializer."""
        return {name: self._slots[name].tensor for name in self._program.weights if name in self._program.statistics}

    @property
    def masks(self) -> dict[str, Tensor]:
        """The masks in force, by the name of their initializer: True where an element stays."""
        return {name: slot.tensor for name, slot in self._mask_slots.items()}

    def set_masks(self, masks: Mapping[str, Tensor | np.ndarray[Any, Any]]) -> None:
        """Compute from now on with zeros where a mask is False. It replaces all masks before; {} removes them.

        Args:
            masks: by initializer, a boolean array of its shape.

        Raises:
            UsageError: when a name is no trained initializer or a mask does not fit; the masks are then as before.
        """
        fitted = {name: self._fitted_mask(name, mask) for name, mask in masks.items()}
        root = self._modules["mask_buffers"] = Container()
        self._mask_slots = {name: place(root, name, mask) for name, mask in fitted.items()}

    def _fitted_mask(self, name: str, mask: Tensor | np.ndarray[Any, Any]) -> Tensor:
        if name not in self._slots or name in self._program.statistics:
            raise UsageError(f"cannot mask '{name}': it is no trained initializer of the model")
        parameter = self._slots[name].tensor
        tensor = torch.as_tensor(mask)
        if tensor.dtype != torch.bool or tensor.shape != parameter.shape:
            raise UsageError(
                f"the mask of '{name}' is {tensor.dtype} {list(tensor.shape)}, not bool {list(parameter.shape)}"
            )
        return tensor.detach().to(parameter.device, copy=True)

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        """Compute the model's outputs: one tensor, or a tuple of several.

        Args:
            inputs: the model's inputs, in its order. named: those not given by position, by name.

        Raises:
            UsageError: when an input is missing, there are others than the model's, or one of another shape or type
                cannot be computed with.
        """
        given = bound(self.input_names, inputs, named)
        if torch.compiler.is_compiling():
            results = self._computed((), given)
            return results[0] if len(results) == 1 else results
        try:
            results = self._computed((), given)
        except Exception as error:  # torch's operators raise anything; what does not fit in is said in one line
            if said := misfit(self.model, self.input_names, given):
                raise UsageError(
                    f"{said}, and cannot be computed with that; leave such sizes open at export"
                ) from error
            raise
        return results[0] if len(results) == 1 else results

    def run(
        self, inputs: Sequence[Tensor] | Mapping[str, Tensor], tensors: Sequence[str] = ()
    ) -> tuple[Any, dict[str, Tensor]]:
        """Compute the outputs, and activations on the way to them, all differentiable.

        Args:
            inputs: the model's inputs in order, or by name.
            tensors: names out of `tensor_names`.

        Returns:
            What `forward` returns, and the tensors by name.

        Raises:
            UsageError: when a name is not known.
        """
        positional, named = ((), inputs) if isinstance(inputs, Mapping) else (tuple(inputs), {})
        given = bound(self.input_names, positional, named)
        names = tuple(dict.fromkeys(tensors))
        results = self._computed(names, given)
        count = len(self.output_names)
        outputs = results[0] if count == 1 else results[:count]
        return outputs, dict(zip(names, results[count:], strict=True))

    def check_inputs(self, *inputs: Tensor, **named: Tensor) -> None:
        """Compare inputs with what the model declares.

        Raises:
            UsageError: when a number of axes, a fixed size or the kind of numbers does not fit.
        """
        check_inputs(self.model, self.input_names, bound(self.input_names, inputs, named))

    def _computed(self, tensors: tuple[str, ...], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        weights = [
            masked(slot.tensor, self._mask_slots[name].tensor) if name in self._mask_slots else slot.tensor
            for name, slot in self._slots.items()
        ]
        *constants, floating = self._constants()
        return self._program.function(tensors)(self.training, floating, *weights, *constants, *inputs)

    def _constants(self) -> list[Tensor]:
        held = self._modules["held_constants"]
        assert held is not None
        return [tensor for tensor in held._buffers.values() if tensor is not None]

    def write_back(self) -> Model:
        """Return the model with the parameters and statistics as they are now, exact zeros where masks are False.

        Raises:
            UsageError: when a value is too large for the type that it has in the file.
        """
        new = {name: self._written(name, slot) for name, slot in self._slots.items()}
        return replace(self.model, initializers={**self.model.initializers, **new})

    def stored(self, name: str) -> np.ndarray[Any, Any]:
        """Return the numbers that the model has for an initializer, those that codes stand for where it holds codes."""
        array, codes = self._program.model.initializers[name].array, self._program.coded.get(name)
        return array if codes is None else codes.decoded(array)

    def _written(self, name: str, slot: Slot) -> Initializer:
        stored = self.model.initializers[name]
        if name in self._program.coded:
            return stored.with_array(self._codes(name, slot))
        array = slot.tensor.detach().to("cpu", torch.float64 if stored.dtype == np.float64 else torch.float32).numpy()
        with np.errstate(over="ignore"):
            cast = array.astype(stored.dtype)
        if name in self._mask_slots:
            cast[~self._mask_slots[name].tensor.cpu().numpy()] = 0
        if np.isinf(cast.astype(np.float64)).any() and np.isfinite(array).all():
            raise UsageError(f"parameter '{name}' holds values that are too large for the file's {stored.dtype}")
        cast.flags.writeable = False
        return stored.with_array(cast)

    def _codes(self, name: str, slot: Slot) -> np.ndarray[Any, Any]:
        """Return the codes that stand for a parameter: the nearest ones, those of 0 where masks are False."""
        codes, real = self._program.coded[name], slot.tensor.detach().to("cpu", torch.float64).numpy()
        if name in self._mask_slots:
            real = np.where(self._mask_slots[name].tensor.cpu().numpy(), real, 0.0)
        written = codes.nearest(real)
        written.flags.writeable = False
        return written

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """Take masks as they come, and a state without any: the masks then stay."""
        start = f"{prefix}mask_buffers."
        paths = {slot.path: name for name, slot in self._mask_slots.items()}
        given = {key[len(start) :] for key in state_dict if key.startswith(start)}
        if given:
            by_path = {slot.path: name for name, slot in self._slots.items()}
            self.set_masks({by_path[path]: state_dict[start + path] for path in given if path in by_path})
        else:
            state_dict.update({start + path: self._mask_slots[name].tensor for path, name in paths.items()})
        for key in [key for key in state_dict if key.startswith(prefix) and self._foreign(key[len(prefix) :])]:
            del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def _foreign(self, key: str) -> bool:
        """Whether a source network's state has an entry that is no parameter here, and rightly so."""
        constant = key in self.model.initializers and key not in self._slots
        return constant or key.rpartition(".")[2] == "num_batches_tracked"


def from_onnx(
    source: str | os.PathLike[str] | ModelProto | Model,
    device: torch.device | str | None = None,
    untie: Untie | bool = True,
) -> OnnxModule:
    """Make a trainable module of an ONNX model.

    Args:
        source: a path, or a model in memory, which stays as it is.
        device: where to put it; the CPU by default.
        untie: which initializers that are read at several places become one for each: with True ("constructed"),
            zero biases, unit gammas and what else holds few values, which exporters merge though their layers have
            nothing to do with each other; with "all" any but embedding tables; with False ("none") no one. Nothing is
            untied where the model's metadata has ``onnxsqueeze.tied``.

    Raises:
        InvalidModelError: when the model cannot be read or is not valid.
        UsageError: when an operator has no torch form.
    """
    model = source if isinstance(source, Model) else load(source)
    if isinstance(untie, bool):
        untie = "constructed" if untie else "none"
    whole = with_initializers(without_constant_branches(model))  # so that what is in a branch can be trained
    preparation, ready = prepared(whole, untie)
    module = OnnxModule(ready, preparation)
    return module if device is None else module.to(device)
