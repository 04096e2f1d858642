"""One operator as a model: its torch lowering against onnxruntime, and its gradients against differences of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from onnxsqueeze.training.module import OnnxModule, from_onnx

Array = npt.NDArray[Any]
Sizes = Literal["fixed", "batch", "all"]
"""Which sizes of the inputs are dynamic: none, that of the first axis, or all but those of 1."""

FORWARD = 2e-5  # float32 against float32, relative to the largest output
GRADIENT = 1e-6  # float64 against central differences, relative to the largest of their terms
STEP = 1e-6  # the differences' own error is about its square


@dataclass(frozen=True)
class Case:
    """One node.

    Attributes:
        op, domain, opset, attributes: the node's.
        operands: its inputs in order, None where absent.
        stored: which of them are initializers; the others are inputs of the graph.
        outputs: how many outputs are compared; ``names`` says which exist if some are left out.
        fixed: whether its inputs must have fixed sizes.
        differentiable: whether it has a gradient.
        reference: whether onnx's reference is the judge, where onnxruntime does not take the node.
        label: what to add to the name in reports.
    """

    op: str
    operands: Sequence[Array | None]
    stored: tuple[int, ...] = ()
    outputs: int = 1
    opset: int = 21
    domain: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    fixed: bool = False
    differentiable: bool = True
    names: Sequence[str] = ()
    reference: bool = False
    label: str = ""

    def __str__(self) -> str:
        return "-".join(filter(None, (self.domain, self.op, str(self.opset), self.label)))

    @property
    def feeds(self) -> dict[str, Array]:
        """The inputs of the graph."""
        given = enumerate(self.operands)
        return {f"x{place}": array for place, array in given if array is not None and place not in self.stored}

    def model(self, sizes: Sizes = "fixed") -> onnx.ModelProto:
        """Return the model."""
        names = [f"x{place}" if array is not None else "" for place, array in enumerate(self.operands)]
        outputs = list(self.names) or [f"y{place}" for place in range(self.outputs)]
        node = helper.make_node(self.op, names, outputs, name="node", domain=self.domain, **self.attributes)
        inputs = [_declared(name, array, sizes) for name, array in self.feeds.items()]
        initializers = [numpy_helper.from_array(np.asarray(self.operands[place]), f"x{place}") for place in self.stored]
        declared = [helper.make_empty_tensor_value_info(name) for name in outputs if name]
        graph = helper.make_graph([node], "one", inputs, declared, initializers)
        return as_model(graph, self.opset, self.domain, feeds=self.feeds, reference=self.reference)


def as_model(
    graph: onnx.GraphProto,
    opset: int,
    *domains: str,
    feeds: Mapping[str, Array] | None = None,
    reference: bool = False,
) -> onnx.ModelProto:
    """Return a model of a graph, its outputs declared as they are inferred, else as they are for some inputs."""
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains if domain)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(model)
    if all(value.type.tensor_type.HasField("shape") for value in inferred.graph.output):
        return inferred
    assert feeds is not None
    for value, array in zip(model.graph.output, run(model, feeds, reference), strict=True):
        kind, axes = helper.np_dtype_to_tensor_dtype(array.dtype), range(array.ndim)
        value.CopyFrom(helper.make_tensor_value_info(value.name, kind, [f"{value.name}_{axis}" for axis in axes]))
    return model


def in_sizes(cases: Sequence[Case], dynamic: Sizes = "all") -> list[tuple[Case, Sizes]]:
    """Return all cases with dynamic sizes, and every third with fixed ones: that is numbers in place of symbols."""
    return [*((case, dynamic) for case in cases), *((case, "fixed") for case in cases[::3])]


def _declared(name: str, array: Array, sizes: Sizes) -> onnx.ValueInfoProto:
    """Axes of one length share one name, as they mostly do in networks."""
    dynamic = {"fixed": 0, "batch": 1, "all": array.ndim}[sizes]
    shape = [f"n{size}" if axis < dynamic and size > 1 else size for axis, size in enumerate(array.shape)]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape)


def check(case: Case, sizes: Sizes = "fixed", training: bool = False) -> OnnxModule:
    """Compare a node's lowering with onnxruntime and its gradients with differences; return the module."""
    model = case.model("fixed" if case.fixed else sizes)
    module = from_onnx(model).train(training)
    assert_same_outputs(module, model, case.feeds, reference=case.reference)
    if sizes != "fixed" and not case.fixed and not case.reference:
        _check_larger(module, model, case.feeds)
    if case.differentiable:
        assert_gradients(module, case.feeds)
    return module


def _check_larger(module: OnnxModule, model: onnx.ModelProto, feeds: Mapping[str, Array]) -> None:
    """Compare once more with one more along the first axis, if all inputs share that and the node takes it."""
    if any(array.ndim == 0 or len(array) < 2 for array in feeds.values()) or len({*map(len, feeds.values())}) > 1:
        return
    larger = {name: np.concatenate([array, array[:1]]) for name, array in feeds.items()}
    try:
        run(model, larger)
    except Exception:  # the runtime's own types of errors; such a size does not fit the node's constants
        return
    assert_same_outputs(module, model, larger)


def run(model: onnx.ModelProto, feeds: Mapping[str, Array], reference: bool = False) -> list[Array]:
    """Run a model in onnxruntime as it is, or in onnx's reference."""
    if reference:
        return [np.asarray(array) for array in ReferenceEvaluator(model).run(None, dict(feeds))]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def assert_same_outputs(
    module: OnnxModule,
    model: onnx.ModelProto,
    feeds: Mapping[str, Array],
    tolerance: float = FORWARD,
    reference: bool = False,
) -> None:
    """Demand equal outputs, types and shapes included."""
    expected = run(model, feeds, reference)
    with torch.no_grad():
        found = computed(module, feeds)
    assert len(found) == len(expected)
    for tensor, array in zip(found, expected, strict=True):
        assert tuple(tensor.shape) == array.shape
        ours = tensor.numpy()
        if array.dtype.kind != "f":
            assert ours.dtype.kind == array.dtype.kind and (ours == array).all()
            continue
        finite = np.isfinite(array)
        assert (np.isnan(ours) == np.isnan(array)).all()
        assert (ours[np.isinf(array)] == array[np.isinf(array)]).all()
        scale = max(1.0, float(np.abs(array[finite]).max(initial=0.0)))
        deviation = float(np.abs(ours[finite].astype(np.float64) - array[finite]).max(initial=0.0))
        assert deviation <= tolerance * scale, deviation


def computed(module: OnnxModule, feeds: Mapping[str, Array | Tensor]) -> list[Tensor]:
    """Return the outputs of a module for inputs by name."""
    given = {name: torch.as_tensor(np.array(x) if isinstance(x, np.ndarray) else x) for name, x in feeds.items()}
    found = module(**given)
    return list(found) if isinstance(found, tuple) else [found]


def assert_gradients(
    module: OnnxModule, feeds: Mapping[str, Array], tolerance: float = GRADIENT, needed: bool = True
) -> None:
    """Compare gradients of inputs and parameters, in float64, with differences along a random direction.

    With ``needed``, at least one gradient must not be zero.
    """
    module.double()
    random = torch.Generator().manual_seed(0)
    inputs = {name: torch.from_numpy(np.array(array)) for name, array in feeds.items()}
    inputs = {name: x.double().requires_grad_() if x.is_floating_point() else x for name, x in inputs.items()}
    variables = [x for x in inputs.values() if x.requires_grad] + list(module.initializers.values())
    assert variables
    with torch.no_grad():
        shapes = [y.shape if y.is_floating_point() else None for y in computed(module, inputs)]
    weights = [None if s is None else torch.randn(s, generator=random, dtype=torch.float64) for s in shapes]

    def loss() -> Tensor:
        pairs = zip(computed(module, inputs), weights, strict=True)
        return torch.stack([(y * weight).sum() for y, weight in pairs if weight is not None]).sum()

    gradients = torch.autograd.grad(loss(), variables, allow_unused=True)
    found = False
    for variable, gradient in zip(variables, gradients, strict=True):
        own = torch.zeros_like(variable) if gradient is None else gradient
        assert torch.isfinite(own).all()
        found |= bool(own.any())
        direction = torch.randn(variable.shape, generator=random, dtype=torch.float64)
        with torch.no_grad():
            variable += STEP * direction
            above = loss()
            variable -= 2 * STEP * direction
            below = loss()
            variable += STEP * direction
        difference = float((above - below) / (2 * STEP))
        terms = float((own.abs() * direction.abs()).sum())
        assert abs(difference - float((own * direction).sum())) <= tolerance * max(1.0, terms)
    assert found or not needed
