"""A teacher's answers, asked once and kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training import Distillation, augmented, lessons

X = torch.randn(1203, 6, generator=torch.Generator().manual_seed(0))


class Teacher(nn.Module):
    """Counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.drop, self.asked = nn.Linear(6, 3), nn.Dropout(0.5), 0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.asked += len(x)
        return self.drop(self.layer(x)), x


def noisy(x: Tensor, generator: torch.Generator) -> Tensor:
    return x + torch.randn(x.shape, generator=generator)


def test_each_copy_is_asked_once_and_can_be_had_again(tmp_path: Path) -> None:
    teacher = Teacher()
    found = lessons(teacher, X, augment=noisy, copies=2, path=tmp_path / "kept.pt")
    assert found.shape == (2, len(X), 3) and teacher.asked == 2 * len(X) and teacher.training
    for copy in range(2):
        own = teacher.layer(augmented(X, noisy, copy)).detach()
        assert torch.allclose(found[copy], own)
        assert float(Distillation(teacher).against(own, found[copy])) == pytest.approx(0, abs=1e-6)
    assert not torch.equal(found[0], found[1])
    assert torch.equal(lessons(teacher, X, augment=noisy, copies=2, path=tmp_path / "kept.pt"), found)
    assert teacher.asked == 2 * len(X), "the second time nobody is asked"


def test_inputs_as_they_are() -> None:
    teacher = Teacher()
    assert torch.allclose(lessons(teacher, X)[0], teacher.layer(X).detach())


def test_what_was_kept_for_others(tmp_path: Path) -> None:
    path = tmp_path / "kept.pt"
    lessons(Teacher(), X, path=path)
    for copies, inputs in ((2, X), (1, X[:5])):
        with pytest.raises(UsageError, match="holds no lessons for . copies of .* samples"):
            lessons(Teacher(), inputs, copies=copies, path=path)
    path.write_bytes(b"nothing")
    with pytest.raises(UsageError, match="kept.pt: holds no lessons: ") as error:
        lessons(Teacher(), X, path=path)
    assert "\n" not in str(error.value)
