"""From a module with masks to a masked ONNX file: the first step of making a pruned network small."""

from __future__ import annotations

import io
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onnxsqueeze.errors import SqueezeError, UsageError, one_line
from onnxsqueeze.model.compensated_function import FIRST_OPSET
from onnxsqueeze.model.loading import load
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.saving import save
from onnxsqueeze.training.export.agreement import disagreement
from onnxsqueeze.training.export.calling import Flat, Inputs, NodeCall, distinct, named_outputs
from onnxsqueeze.training.export.exported import completed, model_of_program
from onnxsqueeze.training.export.failure import depends_on_values, describe_export_failure, names_operator, place_of
from onnxsqueeze.training.export.hooks import same, without_watchers
from onnxsqueeze.training.export.input_sizes import Sizes, batch_sizes, given_sizes, other_values
from onnxsqueeze.training.export.pruned import carry_out_masks, plain_copy, unwrapped
from onnxsqueeze.training.export.returned import Form, form_of
from onnxsqueeze.training.module import OnnxModule
from onnxsqueeze.training.modules.compensated_layer_norm import CompensatedLayerNorm

__all__ = ["describe_export_failure", "export_masked"]

_OLDER_OPSET = 17  # the first with LayerNormalization, and the last that the older exporter was made for

_RANDOM_WHEN_TRAINED = ("droppath", "stochasticdepth")  # parts of the names of classes that drop whole branches


def export_masked(
    module: nn.Module,
    inputs: Inputs,
    path: str | os.PathLike[str],
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_shapes: Mapping[str, Any] | Sequence[Any] | None = None,
    opset: int | None = None,
    keep_dropout: bool = False,
) -> Path:
    """Write a module as an ONNX file in which masked weights are exact zeros; `onnxsqueeze.minimize` does the rest.

    Parameters keep their names, BatchNormalization stays as it is, and the file computes what the module computes in
    evaluation mode, which is checked in onnxruntime before it is written. The module itself is not changed.
    Where the newer exporter of torch fails, the older one is tried, with a warning.

    Args:
        module: the module, with masks of `torch.nn.utils.prune`, with parametrizations, or plain; or an `OnnxModule`,
            which is written under its masks as it is: its inputs, and all that is asked for here, do not matter.
        inputs: what to call it with: a tensor, a sequence of positional arguments or a mapping of keyword arguments.
            All tensors in it become inputs of the graph, everything else is constant.
        path: the file to write. It is there whole afterwards, or as it was before.
        input_names: names of the graph's inputs; the parameters of the module's forward by default.
        output_names: names of its outputs; ``output``, ``output_0``, or the keys of a mapping by default.
        dynamic_shapes: which axes may have any size: by input name, or one entry for each input, as
            `torch.onnx.export` takes them: ``{"x": {0: "batch", 1: "tokens"}}``. By default the first axis of all
            inputs that have the same size there, if the module exports that way; ``{}`` for none.
        opset: version of the standard operators; by default what the exporter prefers.
        keep_dropout: write Dropout nodes, which pass everything on until a trainer uses them.

    Returns:
        The path.

    Raises:
        UsageError: when the inputs do not fit, when the module does not export, or when the path cannot be written to.
        SqueezeError: when the file cannot be written, as on a full disk.
    """
    target = Path(path)
    _check_target(target)
    given = unwrapped(module)
    if isinstance(given, OnnxModule):
        save(given.write_back(), target)
        return target
    with torch.random.fork_rng(devices=[]), _silence():
        copied = plain_copy(module)
        _without_caches(copied)
        _check_opset(copied, opset)
        call = NodeCall.of(copied, inputs)
        call, names = _named(copied, call, input_names, output_names)
        sizes = _all_sizes(copied, call, dynamic_shapes)
        model, said = _Export(Flat(copied, call), call, names, opset).first_that_agrees(sizes, keep_dropout)
    for line in said:
        warnings.warn(line, stacklevel=2)
    save(model, target)
    return target


def returned_form(module: nn.Module, inputs: Inputs) -> Form:
    """Return how a module returns what it computes of example inputs, see `form_of`."""
    with torch.random.fork_rng(devices=[]), _silence():
        copied = plain_copy(module)
        _without_caches(copied)
        return form_of(_first_run(copied, NodeCall.of(copied, inputs)))


@dataclass(frozen=True)
class _Export:
    """A module that is to be exported, in whichever way works."""

    flat: Flat
    call: NodeCall
    outputs: tuple[str, ...]
    opset: int | None

    def first_that_agrees(self, sizes: Sequence[Sizes], keep_dropout: bool) -> tuple[Model, list[str]]:
        """Return the model of the first way that works, and what a user should know about it."""
        said: list[str] = []
        failed: Exception | None = None
        ways: list[tuple[_Modes, _Exporter]] = [(_resting, _newer), (_resting, _older)]
        if keep_dropout:
            ways = [(_training, _newer), (_dropping, _newer), *ways]
        for modes, exporter in ways:
            for chosen in sizes:
                try:
                    model = self._exported(exporter, modes, chosen)
                except Exception as error:  # torch's exporters raise anything
                    failed = failed or error
                    if depends_on_values(error):  # of which the older exporter would write one branch
                        raise UsageError(self._described(error)) from error
                    if names_operator(error):
                        break
                    continue
                if keep_dropout and modes is _resting:
                    said.append("the module exports only without its Dropout")
                if exporter is _older:
                    assert failed is not None
                    said.append(f"written by the older exporter of torch: {self._described(failed)}")
                if sizes[0].dynamic and not chosen.dynamic:
                    said.append(f"the batch is fixed at {chosen.tensors[0].shape[0]}: it exports with no other")
                return model, said
        assert failed is not None
        raise UsageError(self._described(failed)) from failed

    def _exported(self, exporter: _Exporter, modes: _Modes, sizes: Sizes) -> Model:
        self.flat.eval()
        modes(self.flat.module)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            model = exporter(self, sizes)
        model = completed(model, self.flat.module, keep_dropout=modes is not _resting)
        self.flat.eval()
        cases = sizes.cases if exporter is _newer else (*sizes.cases, *self._more_cases(sizes))
        if said := self._renamed(model) or disagreement(model, self.flat, cases):
            raise _DisagreementError(said)
        return model

    def _more_cases(self, sizes: Sizes) -> list[tuple[Tensor, ...]]:
        """Return inputs that may take other branches, of which the older exporter writes the one that it sees."""
        more = other_values(sizes.tensors)
        try:
            with torch.no_grad():
                self.flat(*more)
        except Exception:  # a module need not take just any values
            return []
        return [more]

    def _renamed(self, model: Model) -> str:
        """Say what an exporter has called otherwise than it was told, "" if all is well."""
        graph = model.skeleton.graph
        for values, names in ((graph.input, self.call.names), (graph.output, self.outputs)):
            found = tuple(value.name for value in values)
            if found != names:
                return f"{', '.join(found) or 'nothing'} instead of {', '.join(names)}"
        return ""

    def _described(self, error: Exception) -> str:
        if isinstance(error, _DisagreementError):
            return (
                f"the module {type(self.flat.module).__name__} is exported as something else: {error}; "
                "take out what is random in evaluation mode or depends on the values of tensors"
            )
        return describe_export_failure(error, self.flat.module)


class _DisagreementError(SqueezeError):
    """What an exporter wrote does not compute what the module computes."""


_Modes = Callable[[nn.Module], None]
_Exporter = Callable[[_Export, Sizes], Model]


def _newer(export: _Export, sizes: Sizes) -> Model:
    program = torch.onnx.export(
        export.flat,
        tuple(sizes.tensors),
        dynamo=True,
        optimize=False,
        verbose=False,
        report=False,
        opset_version=export.opset,
        input_names=list(export.call.names),
        output_names=list(export.outputs),
        dynamic_shapes=(tuple(sizes.axes),) if sizes.dynamic else None,
    )
    assert program is not None
    return model_of_program(program)


def _older(export: _Export, sizes: Sizes) -> Model:
    with tempfile.TemporaryDirectory(prefix="onnxsqueeze-") as folder, _quiet_log():
        file = os.path.join(folder, "model.onnx")
        torch.onnx.export(
            export.flat,
            tuple(sizes.tensors),
            file,
            dynamo=False,
            verbose=False,
            opset_version=export.opset or _OLDER_OPSET,
            input_names=list(export.call.names),
            output_names=list(export.outputs),
            dynamic_axes=sizes.names(export.call.names),
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            # Else equal parameters, such as two biases that are zero, would become one.
            keep_initializers_as_inputs=True,
        )
        model = load(file, check=False)
    inputs = [value for value in model.skeleton.graph.input if value.name not in model.initializers]
    del model.skeleton.graph.input[:]
    model.skeleton.graph.input.extend(inputs)
    return model


@contextmanager
def _quiet_log() -> Iterator[None]:
    """Take the log away from the older exporter, which turns it on by itself and prints graphs on standard output."""
    log = torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *_: None
    try:
        yield
    finally:
        torch._C._jit_onnx_log = log
        torch._C._jit_set_onnx_log_enabled(False)


def _resting(module: nn.Module) -> None:
    """Everything as in evaluation: no Dropout is written."""


def _training(module: nn.Module) -> None:
    """Everything as in training but normalisations that would update their statistics, and random paths."""
    for part in module.modules():
        name = type(part).__name__.lower()
        normalises = isinstance(part, nn.modules.batchnorm._NormBase)
        part.training = not normalises and not any(word in name for word in _RANDOM_WHEN_TRAINED)


def _dropping(module: nn.Module) -> None:
    """Nothing as in training but Dropout modules."""
    for part in module.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd):
            part.training = True


def _named(
    module: nn.Module, call: NodeCall, input_names: Sequence[str] | None, output_names: Sequence[str] | None
) -> tuple[NodeCall, tuple[str, ...]]:
    """Run the module and carry out its masks; return the call and the outputs with their names."""
    names = _chosen(input_names, call.names, "input_names", "inputs")
    call = replace(call, names=names)
    found = named_outputs(_first_run(module, call))
    expected = [tensor for _, tensor in found]
    carry_out_masks(module)
    if not same(
        expected, without_watchers(module, lambda: [out for _, out in named_outputs(_first_run(module, call))])
    ):
        raise UsageError(
            f"the module {type(module).__name__} does not compute the same twice, or not with its masks carried out; "
            "take out what is random in evaluation mode, and mask parameters with torch.nn.utils.prune alone"
        )
    outputs = distinct([name for name, _ in found], names)
    return call, _chosen(output_names, outputs, "output_names", "outputs", names)


def _chosen(
    given: Sequence[str] | None, default: tuple[str, ...], argument: str, what: str, taken: Sequence[str] = ()
) -> tuple[str, ...]:
    if given is None:
        return default
    if isinstance(given, str) or len(given) != len(default):
        raise UsageError(f"{argument} must hold {len(default)} names, one for each of the {what} {', '.join(default)}")
    if distinct(given, taken) != tuple(given):
        raise UsageError(f"{argument} must be names of which none occurs twice, among inputs and outputs together")
    return tuple(given)


def _first_run(module: nn.Module, call: NodeCall) -> Any:
    try:
        with torch.no_grad():
            return call.run(module)
    except Exception as error:  # a module raises anything
        shapes = ", ".join(
            f"{name} {list(tensor.shape)}" for name, tensor in zip(call.names, call.tensors, strict=True)
        )
        raise UsageError(
            f"the module {type(module).__name__} does not run on the example inputs ({shapes})"
            f"{place_of(error, module)}: {one_line(error)[:300]}; give inputs that it takes"
        ) from error


def _all_sizes(
    module: nn.Module, call: NodeCall, dynamic_shapes: Mapping[str, Any] | Sequence[Any] | None
) -> tuple[Sizes, ...]:
    """Return in which ways to export: first with a dynamic batch, and with all sizes fixed."""
    if dynamic_shapes is not None:
        return (given_sizes(call, dynamic_shapes),)
    fixed = given_sizes(call, {})
    batch = batch_sizes(call)
    if batch is None:
        return (fixed,)
    try:
        with torch.no_grad():
            for tensors in batch.cases:
                call.with_tensors(tensors).run(module)
    except Exception:  # the first axis is no batch
        return (fixed,)
    return batch, fixed


def _without_caches(module: nn.Module) -> None:
    """Let language models return no cache of keys and values, which is no tensor."""
    for part in module.modules():
        config = getattr(part, "config", None)
        if config is not None and getattr(config, "use_cache", None) is True:
            config.use_cache = False


def _check_opset(module: nn.Module, opset: int | None) -> None:
    narrowed = any(isinstance(part, CompensatedLayerNorm) for part in module.modules())
    if narrowed and opset is not None and opset < FIRST_OPSET:
        raise UsageError(f"opset {opset} is too old for CompensatedLayerNorm; give {FIRST_OPSET} or later")


def _check_target(target: Path) -> None:
    """Refuse an output path before any work is done for it."""
    if target.is_dir():
        raise UsageError(f"{target} is a folder; give the name of the output file")
    folder = target.parent
    if not folder.is_dir():
        raise UsageError(f"{target}: the folder {folder} does not exist; create it or choose another output path")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{target}: nothing can be written into {folder}; choose another output path")


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporters from talking about themselves; what goes wrong comes as an error."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)  # torch has dozens of loggers with levels of their own
        try:
            yield
        finally:
            logging.disable(disabled)
