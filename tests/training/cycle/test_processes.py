"""Several processes: one decides, all train, all end with the same network, and no error leaves one waiting."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("several_processes.py")
ROOT = PROGRAM.parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run all cases in two processes; what each has found is then in files named by the case and the rank."""
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(PROGRAM), str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    (folder / "stderr").write_text(done.stderr)
    return folder


def ranks(folder: Path, case: str) -> list[dict[str, object]]:
    return [json.loads((folder / f"{case}-{rank}.json").read_text()) for rank in range(2)]


def test_all_processes_get_the_same_network(folder: Path) -> None:
    first, second = ranks(folder, "complete")
    assert first["best"] == second["best"]
    assert first["trained"] == second["trained"], "parameters are equal after each phase"
    assert first["wrapped"] == second["wrapped"] == "DistributedDataParallel"
    assert first["drawn"] != second["drawn"], "each has trained on samples of its own"
    written = (folder / "complete" / "cycle-02" / "masked.onnx").read_bytes()
    assert hashlib.sha256(written).hexdigest() == first["written"]
    assert (folder / "stderr").read_text().count("cycle 2: ") == 1, "one process tells"


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("failing minimization", ["SqueezeError: no space left", "SqueezeError: no space left"]),
        ("bad evaluation of the first", ["UsageError: evaluate returned nan", "UsageError: evaluate returned nan"]),
        ("eval mode in the second", ["SqueezeError: process 1: train, cycle 1", "UsageError: train, cycle 1"]),
    ],
)
def test_an_error_of_one_process_reaches_all(folder: Path, case: str, expected: list[str]) -> None:
    said = [str(rank["error"]) for rank in ranks(folder, case)]
    assert all(error.startswith(start) for error, start in zip(said, expected, strict=True)), said
