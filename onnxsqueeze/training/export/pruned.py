"""A copy of a module in which masks have become zeros, whatever made them, and the module itself is as it was."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

from onnxsqueeze.errors import UsageError, one_line

__all__ = ["carry_out_masks", "plain_copy", "unwrapped"]

_FORWARD_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_BACKWARD_HOOKS = ("_backward_hooks", "_backward_pre_hooks")


def plain_copy(module: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode, on the CPU, with the forward hooks of the module itself.

    Args:
        module: any module; wrappers of `torch.compile` and of data parallelism are taken off. Nothing of it changes.

    Raises:
        UsageError: when it cannot be copied.
    """
    return _copied(unwrapped(module)).cpu().eval()


def carry_out_masks(module: nn.Module) -> None:
    """Let the parameters of a module hold what it computes with, in place.

    Masks of `torch.nn.utils.prune`, parametrizations and the older weight and spectral norms are carried out: pruned
    weights are exact zeros, and each parameter has its own name again. A parameter that is used elsewhere as well stays
    there what it was.
    """
    with torch.no_grad():
        for part in list(module.modules()):
            _carry_out_hooks(part)
            _carry_out_parametrizations(part)


def unwrapped(module: nn.Module) -> nn.Module:
    """Return what `torch.compile`, DataParallel or DistributedDataParallel was given."""
    while True:
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            module = module.module
        elif isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):
            module = inner
        else:
            return module


def _copied(module: nn.Module) -> nn.Module:
    memo: dict[int, Any] = {}
    for part in module.modules():
        for value in vars(part).values():
            # What hooks and parametrizations have computed from parameters: torch copies no such tensor.
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
        # A hook may be a method of an object that holds anything, a data set for one: it is shared, not copied.
        for name in _FORWARD_HOOKS:
            hooks = getattr(part, name)
            memo[id(hooks)] = OrderedDict(hooks)
        for name in _BACKWARD_HOOKS:
            memo[id(getattr(part, name))] = OrderedDict()
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:  # whatever an attribute of the module raises
        raise UsageError(
            f"the module {type(module).__name__} cannot be copied: {one_line(error)}; "
            "let copy.deepcopy work on it, for instance by taking open files and locks out of it"
        ) from error


def _carry_out_parametrizations(part: nn.Module) -> None:
    """Store what parametrizations compute as parameters, also where torch would make buffers of them."""
    if not parametrize.is_parametrized(part):
        return
    # torch gives a parametrized module a class of its own, which its copies share, and takes properties off the class.
    shared = type(part)
    own = {name: value for name, value in vars(shared).items() if name not in ("__dict__", "__weakref__")}
    part.__class__ = type(shared.__name__, shared.__bases__, own)
    parametrizations = part.parametrizations
    assert isinstance(parametrizations, nn.ModuleDict)
    for name, entry in list(parametrizations.items()):
        trained = [parameter.requires_grad for parameter in entry.parameters()]
        # The result is written over the original, which another module may use as it is.
        for original, value in list(entry.named_parameters(recurse=False)):
            setattr(entry, original, nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad))
        parametrize.remove_parametrizations(part, name, leave_parametrized=True)
        if trained and name in part._buffers:
            value = getattr(part, name).detach()
            del part._buffers[name]
            part.register_parameter(name, nn.Parameter(value, requires_grad=any(trained)))


def _carry_out_hooks(part: nn.Module) -> None:
    """Let hooks that compute a parameter before every run do so once, and for good."""
    for hook in list(part._forward_pre_hooks.values()):
        name = getattr(hook, "_tensor_name", None)
        if isinstance(hook, prune.BasePruningMethod) and isinstance(name, str):
            _carry_out_pruning(part, hook, name)
        elif isinstance(hook, WeightNorm):
            remove_weight_norm(part, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(part, hook.name)


def _carry_out_pruning(part: nn.Module, hook: prune.BasePruningMethod, name: str) -> None:
    """Do what `torch.nn.utils.prune.remove` does, but make a new parameter: the old one may have other users."""
    original = part._parameters[f"{name}_orig"]
    assert original is not None
    value: Tensor = hook.apply_mask(part)  # type: ignore[no-untyped-call]
    del part._parameters[f"{name}_orig"], part._buffers[f"{name}_mask"]
    part.__dict__.pop(name, None)
    part.register_parameter(name, nn.Parameter(value.detach().clone(), requires_grad=original.requires_grad))
    for key in [key for key, entry in part._forward_pre_hooks.items() if entry is hook]:
        del part._forward_pre_hooks[key]
