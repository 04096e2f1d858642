"""Files that are mapped: once each, let go of, and watched for changes that would kill or mislead who reads them."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from onnxsqueeze.processes.handing_over import dump
from onnxsqueeze.processes.mapping import CAN_MAP, changed, copied, let_go, mapped_file, place_of
from onnxsqueeze.processes.spilling import spilled

pytestmark = pytest.mark.skipif(not CAN_MAP, reason="files are read here, not mapped")
_PAGES = 1 << 22


def _file(folder: Path, values: np.ndarray) -> Path:
    path = folder / "weights.data"
    values.tofile(path)
    return path


def _mapped(path: Path) -> np.ndarray:
    with open(path, "rb") as file:
        return mapped_file(file)


def _resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile"))


def test_a_file_is_mapped_once_and_its_descriptors_are_closed(tmp_path: Path) -> None:
    path = _file(tmp_path, np.arange(1000.0))
    before = len(os.listdir("/proc/self/fd"))
    first, second = _mapped(path), _mapped(path)
    assert first is second
    part = first[80:160].view(np.ndarray).view(np.float64)
    assert place_of(part) == (str(path), 80)
    del first, second
    assert part[0] == 10
    del part
    assert len(os.listdir("/proc/self/fd")) == before


def test_pages_are_given_back_and_can_be_read_again(tmp_path: Path) -> None:
    part = _mapped(_file(tmp_path, np.ones(_PAGES)))[8:].view(np.ndarray).view(np.float64)
    total = part.sum()
    held = _resident()
    let_go(part)
    assert held - _resident() > 0.9 * part.nbytes
    assert part.sum() == total


def test_arrays_are_appended_by_the_system_or_not_at_all(tmp_path: Path) -> None:
    path = _file(tmp_path, np.arange(float(_PAGES)))
    part = _mapped(path)[80:-80]
    with open(tmp_path / "out", "wb") as file:
        file.write(b"before")
        assert copied(part, file)
        file.write(b"behind")
        assert not copied(np.ones(_PAGES), file), "in memory"
        assert not copied(part[::2], file), "not in one piece"
    assert (tmp_path / "out").read_bytes() == b"before" + part.tobytes() + b"behind"
    os.truncate(path, _PAGES)
    with open(tmp_path / "out", "wb") as file:
        file.write(b"before")
        assert not copied(part, file)
        file.write(b"behind")
    assert (tmp_path / "out").read_bytes() == b"beforebehind"


def test_what_another_program_cuts_off_reads_as_zeros_and_is_told(tmp_path: Path) -> None:
    path = _file(tmp_path, np.ones(_PAGES))
    part = _mapped(path).view(np.ndarray).view(np.float64)
    assert changed([part, np.ones(3), None]) is None
    os.truncate(path, 8 * 1000)
    assert part.sum() == 1000
    assert changed([np.ones(3), part]) == str(path)


def test_a_file_that_is_written_to_in_place_is_told_and_one_that_is_replaced_is_not(tmp_path: Path) -> None:
    path = _file(tmp_path, np.ones(_PAGES))
    part = _mapped(path)
    _file(tmp_path.parent, np.zeros(10)).replace(path)
    assert changed([part]) is None
    part = _mapped(path)
    with open(path, "r+b") as file:
        os.utime(file.fileno(), ns=(0, 0))
        file.write(b"1")
    assert changed([part]) == str(path)


def test_bus_errors_of_others_end_the_process_as_before(tmp_path: Path) -> None:
    path = _file(tmp_path, np.ones(_PAGES))
    ours = tmp_path / "ours.data"
    np.ones(10).tofile(ours)
    program = (
        "import mmap, os, sys; from onnxsqueeze.processes.mapping import mapped_file\n"
        "ours = mapped_file(open(sys.argv[1], 'rb')); file = open(sys.argv[2], 'rb')\n"
        "other = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ); os.truncate(sys.argv[2], 0); other[5000]"
    )
    done = subprocess.run([sys.executable, "-c", program, ours, path], check=False)
    assert done.returncode == -7


def test_many_spilled_arrays_share_a_file(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    arrays = [np.full(1 << 17, float(number)) for number in range(20)]
    moved = [spilled(array) for array in arrays]
    assert len(os.listdir("/proc/self/fd")) <= before + 3
    assert all(np.array_equal(*pair) for pair in zip(arrays, moved, strict=True))
    assert changed(moved) is None
    with open(tmp_path / "handed", "wb") as file:
        dump(moved, file)
    assert (tmp_path / "handed").stat().st_size < 5000
    program = "import pickle, sys; print(sum(float(each[-1]) for each in pickle.load(open(sys.argv[1], 'rb'))))"
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "handed"], capture_output=True, check=True)
    assert float(done.stdout) == sum(range(20))


def test_more_tensors_than_a_process_may_have_files_open(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    path = _file(tmp_path, np.ones(_PAGES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        parts = [_mapped(path)[8 * number :] for number in range(200)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(parts) == 200
