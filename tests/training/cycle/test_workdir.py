"""The folder of a run."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from onnxsqueeze.errors import UsageError
from onnxsqueeze.training.cycle.settings import Goal
from onnxsqueeze.training.cycle.state import Underway
from onnxsqueeze.training.cycle.workdir import Workdir, named, networks
from tests.training.cycle.test_targets import record, state

STATE = replace(
    state(Goal(), record(1, 6000, 0.98)),
    calibration="underway/1-batches.pt",
    underway=Underway(2, 1, 0.4, 3600, "squeezed", "underway/2-squeezed-0.onnx"),
)


READ = replace(STATE, digests={name: hashlib.sha256(b"").hexdigest() for name in networks(STATE)})
"""The state as it comes back: it knows what the files held that are not written again."""


def filled(folder: Path) -> Workdir:
    """Return a workdir with all files that the state names."""
    workdir = Workdir(folder)
    workdir.prepare()
    for cycle in range(3):
        workdir.cycle(cycle)
    for name in named(STATE):
        workdir.path(name).write_bytes(b"")
    workdir.save_state(STATE)
    return workdir


def test_a_state_comes_back(tmp_path: Path) -> None:
    assert filled(tmp_path).load_state() == READ


@pytest.mark.parametrize("name", named(STATE))
def test_a_state_whose_file_is_gone_is_refused(tmp_path: Path, name: str) -> None:
    workdir = filled(tmp_path)
    workdir.path(name).unlink()
    with pytest.raises(UsageError, match=f"{name}: is gone"):
        workdir.load_state()


def test_a_network_that_was_replaced_is_refused(tmp_path: Path) -> None:
    workdir = filled(tmp_path)
    workdir.path("dense.onnx").write_bytes(b"another")
    with pytest.raises(UsageError, match="dense.onnx: is not the file that the run was going on with"):
        Workdir(tmp_path).load_state()


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    workdir = Workdir(tmp_path / "new")
    assert not workdir.holds_run
    with pytest.raises(UsageError, match="no run was begun here"):
        workdir.load_state()
    workdir.prepare()
    workdir.refuse_other_run()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="the workdir cannot be written to: .*; choose another one"):
        Workdir(tmp_path / "file" / "run").prepare()
    with pytest.raises(UsageError, match="the workdir cannot be written to"):
        Workdir(tmp_path / "file").prepare()


def test_a_folder_with_a_run_is_refused_for_another(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds a run; go on with SqueezeRelease.resume"):
        filled(tmp_path).refuse_other_run()


def test_what_a_killed_process_has_left_is_removed(tmp_path: Path) -> None:
    workdir = filled(tmp_path)
    halves = [tmp_path / ".onnxsqueeze-0123.tmp", tmp_path / "cycle-01" / ".onnxsqueeze-4567.tmp"]
    for half in halves:
        half.write_bytes(b"half")
    workdir.prepare()
    assert not any(half.exists() for half in halves)
    assert workdir.load_state() == READ


def test_only_what_the_state_names_stays_underway(tmp_path: Path) -> None:
    workdir = filled(tmp_path)
    names = ("2-noisy.onnx", "2-squeezed-0.onnx.data", "1-squeezed-0.onnx")
    for name in names:
        (tmp_path / "underway" / name).write_bytes(b"")
    workdir.sweep(STATE)
    assert workdir.load_state() == READ
    assert [(tmp_path / "underway" / name).exists() for name in names] == [False, True, False]


def test_tensors_come_back_in_their_types(tmp_path: Path) -> None:
    workdir = Workdir(tmp_path)
    batches = [(torch.randn(2, 3), torch.arange(4)), (torch.randn(1, 3).bfloat16(), torch.tensor([True]))]
    found = workdir.load_batches(workdir.save_batches("batches.pt", batches))
    for one, other in zip(batches, found, strict=True):
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True))
