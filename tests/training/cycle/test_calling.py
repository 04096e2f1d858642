"""How loops call the network: with which sizes, and what they get back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training import Best, Phase, SqueezeRelease

STEPS, WIDTH, CLASSES = 5, 6, 3
Call = Callable[[nn.Module, Tensor], Tensor]


class Sequences(nn.Module):
    """Classes of sequences of any length."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.head = nn.Linear(WIDTH, 16), nn.Linear(16, CLASSES)

    def hidden(self, x: Tensor) -> Tensor:
        return functional.relu(self.inner(x))

    def forward(self, x: Tensor) -> Any:
        return self.head(self.hidden(x)).mean(-2)


class Placed(Sequences):
    """Adds to each of five steps what belongs to it, and takes no others."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(STEPS, WIDTH))

    def forward(self, x: Tensor) -> Any:
        return super().forward(x + self.places)


def samples(steps: int = STEPS, count: int = 32) -> Tensor:
    return torch.randn(count, steps, WIDTH, generator=torch.Generator().manual_seed(1))


def run(
    folder: Path, model: nn.Module | str, example: Any, inputs: Tensor, call: Call = lambda m, x: m(x), **more: Any
) -> Best:
    """Run a cycle whose loops call the module with these inputs in this way."""
    labels = torch.arange(len(inputs)) % CLASSES

    def train(module: nn.Module, phase: Phase) -> None:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
        for chosen in torch.arange(len(inputs)).split(16):
            optimizer.zero_grad()
            functional.cross_entropy(call(module, inputs[chosen]), labels[chosen]).backward()
            optimizer.step()
            if phase.teacher is not None:
                assert call(phase.teacher, inputs[chosen]).shape == (16, CLASSES)

    def evaluate(module: nn.Module) -> float:
        with torch.no_grad():
            return -float(functional.cross_entropy(call(module, inputs), labels))

    if SqueezeRelease.can_resume(folder):
        return SqueezeRelease.resume(folder, train, evaluate, progress=False).run(cycles=2, target_ratio=2.0)
    made = SqueezeRelease(model, example, train, evaluate, folder, progress=False, **more)
    return made.run(cycles=1, target_ratio=1.5)


def fixed(model: nn.Module, folder: Path) -> str:
    """Export with a batch of two and no other."""
    path = folder / "fixed.onnx"
    torch.onnx.export(model.eval(), (samples()[:2],), path, input_names=["x"], dynamo=False, opset_version=17)
    return str(path)


# -- sizes ---------------------------------------------------------------------------------------------------------


class Regrouped(Sequences):
    """Writes the batch down in a Reshape."""

    def forward(self, x: Tensor) -> Any:
        return self.head(self.hidden(x).reshape(x.shape[0], -1, 16)).mean(-2)


def test_a_file_with_a_fixed_batch_that_nothing_depends_on(tmp_path: Path) -> None:
    assert run(tmp_path / "run", fixed(Sequences(), tmp_path), samples()[:2], samples()).ratio >= 1.5


@pytest.mark.parametrize("example", [None, samples()[:2]])
def test_a_file_with_a_fixed_batch(tmp_path: Path, example: Any) -> None:
    said = r"input 'x' has the shape \[32, 5, 6\]; the model takes \[2, 5, 6\], and cannot be computed with that; leave"
    with pytest.raises(UsageError, match=said) as error:
        run(tmp_path / "run", fixed(Regrouped(), tmp_path), example, samples())
    assert "\n" not in str(error.value)


def test_an_example_without_a_batch(tmp_path: Path) -> None:
    said = r"the loop gives x the shape \(32, 5, 6\), the file takes \(.*\): give example_inputs with the axes"
    with pytest.raises(UsageError, match=said):
        run(tmp_path, Sequences(), samples()[0], samples())


def test_another_sequence_length(tmp_path: Path) -> None:
    """What the network can do and the file cannot is warned of; what neither can is an error."""
    with pytest.warns(
        UserWarning, match=r"shape \(32, 9, 6\), the file will take \(batch, 5, 6\) alone: .* dynamic_shapes"
    ):
        run(tmp_path / "run", Sequences(), samples()[:2], samples(9))
    with pytest.warns(UserWarning), pytest.raises(UsageError, match=r"\[32, 3, 6\]; the model takes \['batch', 5, 6\]"):
        run(tmp_path / "other", Placed(), samples()[:2], samples(3))


@pytest.mark.filterwarnings("error:the loop gives")
def test_sizes_that_may_vary(tmp_path: Path) -> None:
    shapes = {"x": {0: "batch", 1: "steps"}}
    found = run(tmp_path, Sequences(), samples()[:2], samples(9), dynamic_shapes=shapes)
    declared = onnx.load(found.onnx_path).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param for dim in declared] == ["batch", "steps", ""]


class StepsFirst(Sequences):
    """Takes [steps, batch, features]."""

    def forward(self, x: Tensor) -> Any:
        return self.head(self.hidden(x).mean(0))


@pytest.mark.parametrize("axes", [{1: "batch"}, {0: "steps", 1: "batch"}])
def test_a_batch_that_does_not_come_first(tmp_path: Path, axes: dict[int, str]) -> None:
    """Units are scored by samples, of which there are 32, not five."""
    inputs = samples().transpose(0, 1).contiguous()

    def call(module: nn.Module, x: Tensor) -> Tensor:
        return module(x.transpose(0, 1))  # type: ignore[no-any-return]

    options: dict[str, Any] = {"dynamic_shapes": {"x": axes}, "calibration": inputs}
    assert run(tmp_path, StepsFirst(), inputs[:, :2], samples(), call, **options).ratio >= 1.5


def test_the_loop_of_another_network(tmp_path: Path) -> None:
    run(tmp_path, Sequences(), samples()[:2], samples())
    with pytest.raises(UsageError, match=r"input 'x' has the shape \[16, 5, 4\]; the model takes \['batch', 5, 6\]"):
        run(tmp_path, Sequences(), None, samples()[:, :, :4])


# -- what a network returns ----------------------------------------------------------------------------------------


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None
    hidden: Tensor | None = None


class Named(NamedTuple):
    hidden: Tensor
    logits: Tensor


FORMS: dict[str, tuple[Callable[[Tensor, Tensor], Any], Callable[[Any], Tensor]]] = {
    "mapping": (lambda logits, hidden: {"hidden": hidden, "logits": logits}, lambda found: found["logits"]),
    "dataclass": (lambda logits, hidden: Output(logits, hidden=hidden), lambda found: found.logits),
    "one field": (lambda logits, hidden: Output(logits), lambda found: found[0]),
    "named tuple": (lambda logits, hidden: Named(hidden, logits), lambda found: found.logits),
    "nested": (lambda logits, hidden: {"all": [hidden, (logits,)], "no": None}, lambda found: found["all"][1][0]),
    "list": (lambda logits, hidden: [logits], lambda found: found[0]),
}


@pytest.mark.parametrize(("form", "teacher"), list(zip(FORMS, [True, "loop"] * 3, strict=True)))
def test_loops_get_what_the_network_returned(tmp_path: Path, form: str, teacher: Any) -> None:
    given, read = FORMS[form]

    class Network(Sequences):
        def forward(self, x: Tensor) -> Any:
            logits = super().forward(x)
            return given(logits, 2 * logits)

    def call(module: nn.Module, x: Tensor) -> Tensor:
        return read(module(x))

    assert run(tmp_path, Network(), samples()[:2], samples(), call, teacher=teacher).ratio >= 1.5
    assert len(run(tmp_path, Network(), None, samples(), call).front) == 3  # and after an interruption


def test_labels_are_no_input_unless_the_example_has_them(tmp_path: Path) -> None:
    def call(module: nn.Module, x: Tensor) -> Tensor:
        return module(x, labels=torch.zeros(len(x)))  # type: ignore[no-any-return]

    with pytest.raises(
        UsageError, match="input 'labels' is unknown .*; the model has x: compute losses of labels outside"
    ):
        run(tmp_path, Sequences(), samples()[:2], samples(), call)
