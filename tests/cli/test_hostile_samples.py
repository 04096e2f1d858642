"""Samples that are damaged, never end, or unpack to more than there is memory: exit code 2 and one line, at once."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.support.extent import LONG
from tests.support.perceptrons import refused, run


@pytest.fixture
def samples(pruned: Path) -> Path:
    path = pruned.with_name("samples.npz")
    np.savez_compressed(path, x=np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32))
    return path


@pytest.mark.parametrize("command", ["minimize", "verify"])
def test_an_archive_that_is_damaged_anywhere(pruned: Path, samples: Path, command: str) -> None:
    """Every third byte of it, each in the long run; some are of no account."""
    whole, ended = samples.read_bytes(), set()
    models = [pruned] if command == "minimize" else [pruned, pruned]
    for place in range(0, len(whole), 20 if command == "verify" else 1 if LONG else 3):
        samples.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        result = run(command, *models, "--inputs", samples, "--quiet")
        ended.add(result.exit_code)
        if result.exit_code:
            refused(result, 2)
    assert ended <= {0, 2} and 2 in ended


def test_an_archive_that_is_cut_short(pruned: Path, samples: Path) -> None:
    whole = samples.read_bytes()
    for length in range(0, len(whole) - 1, 7):
        samples.write_bytes(whole[:length])
        assert "the samples cannot be read" in refused(run("minimize", pruned, "--inputs", samples), 2)


def test_a_pipe_is_refused_and_not_waited_for(pruned: Path) -> None:
    pipe = pruned.with_name("pipe.npz")
    os.mkfifo(pipe)
    assert "is not a regular file" in refused(run("minimize", pruned, "--inputs", pipe), 2)
    command = ["deploy", pruned, "--target", "ort", "-o", pruned.with_name("d"), "--inputs", pipe]
    assert "is not a regular file" in refused(run(*command), 2)


def bomb(path: Path, shape: tuple[int, ...], length: int, name: str = "x") -> None:
    """Write an array's header and so many zeros behind it, which take hardly any space."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    zeros = bytes(2**20)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(f"{name}.npy", "w") as member:
        member.write(header.getvalue())
        for start in range(0, length, len(zeros)):
            member.write(zeros[: length - start])


def test_an_archive_that_unpacks_to_more_than_is_behind_its_header(
    pruned: Path, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np.lib.format, "read_array", None)  # nothing is unpacked
    bomb(samples, (1, 4), 2**26)
    assert "takes 67,108,992 bytes, but its array 144" in refused(run("minimize", pruned, "--inputs", samples), 2)
    bomb(samples, (1, 4), 16, name="other")
    assert "the samples name 'other'" in refused(run("minimize", pruned, "--inputs", samples), 2)


def test_an_archive_that_says_how_much_it_is(pruned: Path, samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes in the directory are believed where they are large; where they are small, no more is unpacked."""
    monkeypatch.setattr(np.lib.format, "read_array", None)
    bomb(samples, (2**28, 4), 2**12)
    written = samples.read_bytes()
    true = struct.pack("<I", 2**12 + 128)
    assert written.count(true)
    samples.write_bytes(written.replace(true, struct.pack("<I", 2**32 - 2)))
    message = refused(run("minimize", pruned, "--inputs", samples), 2)
    assert "unpacks to 4,294,967,294 bytes, far more than inputs need; give fewer samples" in message


def test_python_objects_are_refused(pruned: Path, samples: Path) -> None:
    np.savez(samples, x=np.array([{}], object))
    assert "it holds Python objects" in refused(run("minimize", pruned, "--inputs", samples), 2)


def test_sound_samples_are_taken(pruned: Path, samples: Path) -> None:
    assert run("minimize", pruned, "--inputs", samples).exit_code == 0
    np.savez(samples, x=np.asfortranarray(np.ones((3, 4), np.float32)))
    assert run("minimize", pruned, "--inputs", samples).exit_code == 0
