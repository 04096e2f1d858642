"""Distillation by a hook gives the gradients of the mixed loss, in any loop, and leaves nothing behind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training.module import from_onnx
from onnxsqueeze.training.squeezing.distillation import Distillation, distilled
from tests.support.training.apart import run_apart
from tests.support.training.graphs import perceptron

INPUTS = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(0, 4, (16,), generator=torch.Generator().manual_seed(1))


def network(seed: int, width: int = 8, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 4))


def gradients(module: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]


def hinton(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The textbook's loss, by torch's own KL divergence."""
    own = functional.log_softmax(student / temperature, -1)
    soft = functional.softmax(teacher / temperature, -1)
    return functional.kl_div(own, soft, reduction="batchmean") * temperature**2


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_gradients_are_those_of_the_mixed_loss(weight: float, temperature: float) -> None:
    student, teacher = network(0), network(1, 32)
    outputs = student(INPUTS)
    loss = (1 - weight) * functional.cross_entropy(outputs, LABELS)
    (loss + weight * hinton(outputs, teacher(INPUTS).detach(), temperature)).backward()
    expected = gradients(student)
    student.zero_grad()
    with distilled(student, teacher, weight, temperature):
        functional.cross_entropy(student(INPUTS), LABELS).backward()
    for found, wanted in zip(gradients(student), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)


def test_the_explicit_loss_is_that_of_the_textbook() -> None:
    student, teacher = network(0), network(1, 32).eval()
    loss = Distillation(teacher, 3.0).loss(student(INPUTS), INPUTS)
    torch.testing.assert_close(loss, hinton(student(INPUTS), teacher(INPUTS), 3.0))


def test_tokens_are_averaged_over_all_positions() -> None:
    tokens = torch.randn(3, 5, 6)
    student, teacher = network(0), network(1).eval()
    loss = Distillation(teacher).loss(student(tokens), tokens)
    flat = Distillation(teacher).loss(student(tokens).flatten(0, 1), tokens.flatten(0, 1))
    torch.testing.assert_close(loss, flat)


def test_pixels_have_their_classes_on_the_second_axis() -> None:
    images = torch.randn(2, 3, 4, 5)
    student, teacher = nn.Conv2d(3, 7, 1), nn.Conv2d(3, 7, 1).eval()
    loss = Distillation(teacher).loss(student(images), images)
    flat = hinton(student(images).movedim(1, -1).flatten(0, 2), teacher(images).movedim(1, -1).flatten(0, 2), 2.0)
    torch.testing.assert_close(loss, flat)


def test_a_regression_is_taught_by_the_squared_difference() -> None:
    student, teacher = nn.Linear(6, 1), nn.Linear(6, 1).eval()
    loss = Distillation(teacher).loss(student(INPUTS), INPUTS)
    torch.testing.assert_close(loss, functional.mse_loss(student(INPUTS), teacher(INPUTS)))


def test_probabilities_are_taught_as_such() -> None:
    student, teacher = network(0), network(1).eval()
    by_scores = Distillation(teacher, 2.0).loss(student(INPUTS), INPUTS)
    loss = Distillation(nn.Sequential(teacher, nn.Softmax(-1)), 2.0).loss(student(INPUTS).softmax(-1), INPUTS)
    torch.testing.assert_close(loss, by_scores, rtol=1e-4, atol=1e-6)


def test_a_loop_with_scaled_losses_says_so() -> None:
    student, teacher = network(0), network(1)
    with distilled(student, teacher):
        functional.cross_entropy(student(INPUTS), LABELS).backward()
    expected = gradients(student)
    student.zero_grad()
    scales = iter([128.0])
    with distilled(student, teacher, scale=lambda: next(scales)):
        (128 * functional.cross_entropy(student(INPUTS), LABELS)).backward()
    for found, wanted in zip(gradients(student), expected, strict=True):
        torch.testing.assert_close(found, 128 * wanted, rtol=1e-4, atol=1e-6)


def test_accumulated_gradients_are_those_of_the_whole_batch() -> None:
    student, teacher = network(0), network(1)
    with distilled(student, teacher):
        functional.cross_entropy(student(INPUTS), LABELS).backward()
    expected = gradients(student)
    student.zero_grad()
    with distilled(student, teacher, scale=0.5):
        for inputs, labels in zip(INPUTS.split(8), LABELS.split(8), strict=True):
            (functional.cross_entropy(student(inputs), labels) / 2).backward()
    for found, wanted in zip(gradients(student), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)


def test_the_teacher_sees_eval_mode_and_gets_no_gradient_and_its_modes_back() -> None:
    student, teacher = network(0), network(1, dropout=0.5)
    teacher[0].eval()
    modes = [part.training for part in teacher.modules()]
    found = []
    for _ in range(2):
        student.zero_grad()
        with distilled(student, teacher):
            functional.cross_entropy(student(INPUTS), LABELS).backward()
        found.append(gradients(student))
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert [part.training for part in teacher.modules()] == modes


def test_nothing_is_left_behind_also_after_an_error() -> None:
    student, teacher = network(0), network(1)
    state = copy.deepcopy(student.state_dict())
    with pytest.raises(ZeroDivisionError), distilled(student, teacher):
        raise ZeroDivisionError
    assert not student._forward_hooks and student.state_dict().keys() == state.keys()
    functional.cross_entropy(student(INPUTS), LABELS).backward()
    plain = gradients(student)
    student.zero_grad()
    with distilled(student, teacher, weight=0.0):
        functional.cross_entropy(student(INPUTS), LABELS).backward()
    assert all(torch.equal(one, two) for one, two in zip(gradients(student), plain, strict=True))


@pytest.mark.parametrize("call", [lambda module: module.eval()(INPUTS), torch.no_grad()(lambda module: module(INPUTS))])
def test_the_teacher_is_not_asked_where_nothing_is_trained(call: Callable[[nn.Module], Tensor]) -> None:
    student, teacher = network(0), network(1)
    asked: list[object] = []
    teacher.register_forward_hook(lambda *_: asked.append(0))
    with distilled(student, teacher):
        call(student)
        assert not asked
        student.train()(INPUTS)
    assert len(asked) == 1


def test_bf16_autocast_gives_the_gradient_up_to_its_rounding() -> None:
    student, teacher = network(0), network(1)
    with distilled(student, teacher):
        functional.cross_entropy(student(INPUTS), LABELS).backward()
    expected = gradients(student)
    student.zero_grad()
    with distilled(student, teacher), torch.autocast("cpu", torch.bfloat16):
        functional.cross_entropy(student(INPUTS), LABELS).backward()
    for found, wanted in zip(gradients(student), expected, strict=True):
        assert float((found - wanted).norm()) < 0.05 * float(wanted.norm())


def test_one_of_several_outputs_is_taught() -> None:
    class Two(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.body = network(seed)

        def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
            scores = self.body(inputs)
            return inputs.sum(-1), scores

    student, teacher = Two(0), Two(1)
    with distilled(student, teacher, 1.0, output=1):
        functional.cross_entropy(student(INPUTS)[1], LABELS).backward()
    expected = gradients(student)
    student.zero_grad()
    hinton(student(INPUTS)[1], teacher(INPUTS)[1].detach(), 2.0).backward()
    for found, wanted in zip(gradients(student), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("arguments", "message"), [((1.5,), "between 0 and 1"), ((0.5, 0.0), "temperature")])
def test_arguments_out_of_range_are_refused(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message), distilled(network(0), network(1), *arguments):
        pass


def test_a_teacher_that_is_the_student_is_refused() -> None:
    student = network(0)
    with pytest.raises(UsageError, match="give it a copy"), distilled(student, student):
        pass


def test_outputs_of_another_shape_are_refused() -> None:
    teacher = nn.Linear(6, 5)
    with pytest.raises(UsageError, match=r"\[16, 5\], the student's \[16, 4\]"), distilled(network(0), teacher):
        Distillation(teacher).loss(network(0)(INPUTS), INPUTS)


def test_under_distributed_data_parallel(tmp_path: Path) -> None:
    run_apart(_teaches_in_parallel, tmp_path / "store")


def _teaches_in_parallel(store: Path) -> None:
    student, teacher = network(0), network(1)
    with distilled(student, teacher):
        functional.cross_entropy(student(INPUTS), LABELS).backward()
    expected = gradients(student)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    parallel = DistributedDataParallel(student)
    for taught in (student, parallel):
        student.zero_grad()
        with distilled(taught, teacher):
            functional.cross_entropy(parallel(INPUTS), LABELS).backward()
        for found, wanted in zip(gradients(student), expected, strict=True):
            torch.testing.assert_close(found, wanted)


def test_a_network_from_onnx_is_taught_by_the_dense_one() -> None:
    """Under masks: what is masked gets no gradient from the teacher either."""
    student, teacher = (from_onnx(perceptron((6, 8, 4), seed)) for seed in (0, 1))
    mask = torch.rand(8, 6, generator=torch.Generator().manual_seed(0)) > 0.5
    student.set_masks({"fc0.weight": mask})
    outputs = student(INPUTS)
    loss = 0.5 * functional.cross_entropy(outputs, LABELS)
    (loss + 0.5 * hinton(outputs, teacher(INPUTS).detach(), 2.0)).backward()
    expected = gradients(student)
    student.zero_grad()
    with distilled(student, teacher):
        functional.cross_entropy(student(INPUTS), LABELS).backward()
    for found, wanted in zip(gradients(student), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)
    weight = student.initializers["fc0.weight"]
    assert weight.grad is not None and not weight.grad[~mask].any()
