"""A call in a process of its own: its result, its errors, its death, and that nothing outlives it."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest

from onnxsqueeze.processes import spilling
from onnxsqueeze.processes.apart import CrashedError, ElsewhereError, NotPortableError, call_apart
from onnxsqueeze.processes.mapping import place_of
from onnxsqueeze.processes.spilling import spilled
from tests.processes import functions

LENGTH = 300_000  # elements: more bytes than a pipe holds


def test_arrays_go_there_and_back_and_steps_are_told() -> None:
    array, steps = np.arange(LENGTH, dtype=np.float32), []
    found = call_apart(functions.twice, array, tell=lambda step, fraction: steps.append((step, fraction)))
    np.testing.assert_array_equal(found, 2 * array)
    assert steps == [("doubling", 0.5)]


def test_a_mapped_array_goes_as_its_place_in_its_file(tmp_path: Path) -> None:
    path = tmp_path / "data"
    np.arange(LENGTH, dtype=np.float32).tofile(path)
    mapped = np.memmap(path, np.float32, "r", offset=64)[16:].reshape(2, -1)
    assert call_apart(functions.is_mapped, mapped)
    np.testing.assert_array_equal(call_apart(functions.twice, mapped, tell=print), 2 * np.asarray(mapped))
    assert not call_apart(functions.is_mapped, mapped[:, ::2]), "what is not in one piece goes as its bytes"
    assert not call_apart(functions.is_mapped, mapped + 0), "what was computed from it stands in no file"


def test_an_error_comes_back_with_where_it_was_raised() -> None:
    with pytest.raises(ValueError, match="no such thing") as caught:
        call_apart(functions.fail, False)
    assert isinstance(caught.value.__cause__, ElsewhereError)
    assert "in fail" in str(caught.value.__cause__)


def test_an_error_that_cannot_be_handed_over_says_the_same() -> None:
    with pytest.raises(RuntimeError, match="OddError: so odd"):
        call_apart(functions.fail, True)


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL", "SIGFPE"])
def test_a_death_says_of_what_and_while_what(name: str) -> None:
    with pytest.raises(CrashedError, match=name) as caught:
        call_apart(functions.die, int(signal.Signals[name]), tell=lambda step, fraction: None)
    assert caught.value.step == "dying"


def test_an_exit_says_the_last_words() -> None:
    with pytest.raises(CrashedError, match="code 7: no memory for this"):
        call_apart(functions.leave)


def test_what_cannot_be_handed_over_is_said_before_anything_runs() -> None:
    with pytest.raises(NotPortableError):
        call_apart(functions.fail, lambda: None)


def test_no_temporary_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(CrashedError):
        call_apart(functions.leave)
    assert list(tmp_path.iterdir()) == []


def test_large_arrays_wait_in_files_on_the_other_side() -> None:
    large = np.arange(5_000_000, dtype=np.float32).reshape(1000, -1)
    assert large.nbytes >= 1 << 24
    assert call_apart(functions.is_mapped, large)
    np.testing.assert_array_equal(call_apart(functions.twice, large[:, ::2], tell=print), 2 * large[:, ::2])


def test_spilled_arrays_are_the_same_and_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    array = np.random.default_rng(0).standard_normal((600, 1000)).astype(np.float32)
    monkeypatch.setattr(spilling, "_spills", [])
    found = spilled(array)
    assert place_of(found) is not None
    np.testing.assert_array_equal(found, array)
    assert list(tmp_path.iterdir()) == []
    assert place_of(spilled(array[:2])) is None, "not worth a file"


def test_where_there_is_no_room_for_a_file_the_array_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    monkeypatch.setattr(spilling, "_spills", [])
    array = np.zeros((600, 1000), np.float32)
    assert spilled(array) is array
