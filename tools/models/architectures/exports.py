"""Both torch exporters with the options that change what they write; a traced program is masked, not traced anew."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from dataclasses import dataclass, field

import onnx
import onnx_ir
import torch
from torch import Tensor, nn

from tools.models.architectures.masks import MASKS
from tools.models.architectures.networks import ARCHITECTURES, Run, build, example


@dataclass(frozen=True)
class Exporter:
    """One of torch's exporters with its options.

    Attributes:
        opset: the opset version to write.
        dynamo: the newer exporter, else the older one.
        attention: the library's implementation of attention, ``eager`` or ``sdpa``.
        optimize: constant folding and the exporter's own rewriting.
    """

    opset: int
    dynamo: bool
    attention: str = "eager"
    optimize: bool = False

    @property
    def name(self) -> str:
        """A name for test ids."""
        parts = ["dynamo" if self.dynamo else "older", str(self.opset), self.attention]
        return "-".join([*parts, *["optimized"] * self.optimize])


@dataclass
class Source:
    """A network of one architecture with random weights, and its exports under all masks.

    Attributes:
        architecture: its name.
        full: in its published size.
        length: tokens of the inputs that it is traced with.
    """

    architecture: str
    full: bool = False
    length: int = 12
    _programs: dict[tuple[int, str], tuple[torch.onnx.ONNXProgram, bytes]] = field(default_factory=dict)

    def network(self, attention: str, mask: str = "") -> Run:
        """Return the network under a mask."""
        architecture = ARCHITECTURES[self.architecture]
        network = build(architecture, self.full, attention)
        if mask:
            with torch.no_grad():
                MASKS[mask](network, architecture)
        return network

    def feeds(self, batch: int, length: int) -> dict[str, Tensor]:
        """Return inputs for a run of the exported network."""
        architecture = ARCHITECTURES[self.architecture]
        length = architecture.unrolled or length
        return dict(zip(architecture.inputs, example(architecture, self.full, batch, length), strict=True))

    def export(self, exporter: Exporter, mask: str = "") -> onnx.ModelProto:
        """Export the network under a mask, with a dynamic batch and a dynamic number of tokens."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = self.network(exporter.attention, mask)
            return self._by_newer(network, exporter) if exporter.dynamo else self._by_older(network, exporter)

    @property
    def _sizes(self) -> dict[str, dict[int, str]]:
        architecture = ARCHITECTURES[self.architecture]
        fixed = architecture.unrolled > 0 or architecture.inputs[0] in ("pixel_values", "input_features")
        return {name: {0: "batch"} if fixed else {0: "batch", 1: "tokens"} for name in architecture.inputs}

    def _by_older(self, network: nn.Module, exporter: Exporter) -> onnx.ModelProto:
        file = io.BytesIO()
        folding = torch.onnx.TrainingMode.EVAL if exporter.optimize else torch.onnx.TrainingMode.PRESERVE
        feeds = self.feeds(2, self.length)
        torch.onnx.export(
            network,
            tuple(feeds.values()),
            file,
            dynamo=False,
            opset_version=exporter.opset,
            do_constant_folding=exporter.optimize,
            training=folding,
            input_names=list(feeds),
            output_names=["logits"],
            dynamic_axes=self._sizes | {"logits": {0: "batch"}},
        )
        return onnx.load_from_string(file.getvalue())

    def _by_newer(self, network: Run, exporter: Exporter) -> onnx.ModelProto:
        program, encoded = self._traced(exporter)
        model = onnx.load_from_string(encoded)
        state = network.state_dict()
        for tensor in model.graph.initializer:
            if tensor.name in state:
                tensor.CopyFrom(onnx.numpy_helper.from_array(state[tensor.name].numpy(), tensor.name))
        if exporter.optimize:
            program.model = onnx_ir.from_proto(model)
            program.optimize()
            model = program.model_proto
        return model

    def _traced(self, exporter: Exporter) -> tuple[torch.onnx.ONNXProgram, bytes]:
        key = (exporter.opset, exporter.attention)
        if key not in self._programs:
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision at every export
            feeds = self.feeds(2, self.length)
            dims = {name: torch.export.Dim(name) for name in ("batch", "tokens")}
            shapes = tuple({axis: dims[name] for axis, name in sizes.items()} for sizes in self._sizes.values())
            program = torch.onnx.export(
                copy.deepcopy(self.network(exporter.attention)),
                tuple(feeds.values()),
                dynamo=True,
                opset_version=exporter.opset,
                optimize=False,
                input_names=list(feeds),
                output_names=["logits"],
                dynamic_shapes=(shapes,),
                verbose=False,
            )
            assert program is not None
            self._programs[key] = program, program.model_proto.SerializeToString()
        return self._programs[key]
