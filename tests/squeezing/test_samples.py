"""Samples of every kind are read, and bad ones refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxsqueeze import UsageError
from onnxsqueeze.model.loading import load
from onnxsqueeze.squeezing.samples import read
from tests.squeezing.networks import dependent

MODEL = load(dependent(np.random.default_rng(0)))
GOOD = np.random.default_rng(1).normal(size=(90, 8)).astype(np.float32)


def test_a_third_is_held_out_by_seed() -> None:
    found = read({"x": GOOD}, MODEL)
    assert (len(found.calibration), len(found.held_out)) == (60, 30)
    assert not set(found.calibration.rows) & set(found.held_out.rows)
    assert set(read({"x": GOOD}, MODEL, seed=1).held_out.rows) != set(found.held_out.rows)


@pytest.mark.parametrize("size", [64, 32])
def test_batches_that_a_model_fixes_stay_whole(size: int) -> None:
    """Others may be as small as is wanted."""
    fixed = dependent(np.random.default_rng(0))
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = size
    found = read({"x": np.tile(GOOD[:64], (5, 1))}, load(fixed))
    assert {len(batch["x"]) for part in (found.calibration, found.held_out) for batch in part.batches()} == {size}
    assert len(found.calibration.first(16)) == size
    few = read({"x": GOOD}, MODEL).calibration.first(16)
    assert len(few) == 16 and [len(batch["x"]) for batch in few.batches()] == [16]


def test_a_folder_is_mapped_and_not_read(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", GOOD)
    np.save(tmp_path / "classes.npy", np.arange(90))
    found = read(tmp_path, MODEL, "classes")
    assert isinstance(found.calibration.arrays["x"], np.memmap)
    np.testing.assert_array_equal(found.held_out.labels, found.held_out.rows)
    batch = next(found.calibration.batches())["x"]
    np.testing.assert_array_equal(batch, GOOD[found.calibration.rows[: len(batch)]])


def test_a_function_yields_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import numpy as np\ndef batches():\n    for i in range(10): yield {'x': np.full((9, 8), i, 'float32')}"
    (tmp_path / "given_batches.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    assert len(read("given_batches:batches", MODEL).calibration) == 60


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "lacks the input 'x'"),
        ({"y": GOOD}, "lacks the input 'x'"),
        ({"x": GOOD, "other": GOOD}, "'other', which is no input"),
        ({"x": GOOD[:, :5]}, "has the shape"),
        ({"x": GOOD[:3]}, "holds 3 samples"),
        ({"x": GOOD.astype(str)}, "holds <U"),
        ({"x": GOOD, "l": np.arange(5)}, "5 labels for 90 samples"),
    ],
)
def test_bad_arrays(arrays: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(arrays, MODEL, "l" if "l" in arrays else "")


def test_a_sample_that_is_no_number() -> None:
    bad = GOOD.copy()
    bad[:, 3] = np.nan
    with pytest.raises(UsageError, match="holds NaN"):
        next(read({"x": bad}, MODEL).calibration.batches())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere.npz", "no such file"),
        ("no_such_module:batches", "ModuleNotFoundError"),
        ("math:no_such", "AttributeError"),
        ("math:sqrt", "TypeError"),
    ],
)
def test_bad_sources(given: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read(given, MODEL)
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no \.npy"):
        read(tmp_path, MODEL)
    (tmp_path / "x.npy").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="cannot be read"):
        read(tmp_path, MODEL)
