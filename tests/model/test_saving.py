"""Saving: the new file is there whole or the old one is as it was, whatever happens on the way."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from time import sleep

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxsqueeze
from onnxsqueeze.errors import SqueezeError, UsageError
from onnxsqueeze.model import saving, temporary
from onnxsqueeze.model.loading import load
from onnxsqueeze.model.model import Model
from onnxsqueeze.model.saving import save
from tests.support.sample_models import linear_model

PACKAGE_ROOT = Path(onnxsqueeze.__file__).parents[1]
OLD = b"the file that was here before"
LARGE = np.arange(50_000, dtype=np.float32)


@pytest.fixture
def model() -> Model:
    return load(linear_model(numpy_helper.from_array(LARGE, "large")))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file that exists."""
    path = tmp_path / "model.onnx"
    path.write_bytes(OLD)
    return path


def assert_as_before(target: Path) -> None:
    assert target.read_bytes() == OLD
    assert os.listdir(target.parent) == [target.name]


def test_a_file_is_replaced(model: Model, target: Path) -> None:
    assert save(model, target) == target.stat().st_size
    assert os.listdir(target.parent) == [target.name]
    assert np.array_equal(numpy_helper.to_array(onnx.load(target).graph.initializer[1]), LARGE)


def test_a_model_is_saved_over_its_own_file(model: Model, target: Path) -> None:
    save(model, target)
    first = target.read_bytes()
    save(load(target), target)
    assert target.read_bytes() == first


def test_the_file_starts_with_the_ir_version(model: Model, target: Path) -> None:
    save(model, target)
    assert target.read_bytes().startswith(b"\x08\x0a")  # field 1: 10; programs guess the format by it


def test_a_new_file_has_the_mode_of_open(model: Model, tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    save(model, tmp_path / "new.onnx")
    assert (tmp_path / "new.onnx").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_replaced_file_keeps_its_mode(model: Model, target: Path) -> None:
    target.chmod(0o640)
    save(model, target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_link_is_followed(model: Model, target: Path) -> None:
    link = target.with_name("link.onnx")
    link.symlink_to(target.name)
    save(model, link)
    assert link.is_symlink()
    assert len(onnx.load(target).graph.initializer) == 2


def test_relative_path(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(model, "model.onnx")
    assert len(onnx.load("model.onnx").graph.initializer) == 2


def refused(model: Model, path: str | Path) -> str:
    with pytest.raises(UsageError) as caught:
        save(model, path)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_folder(model: Model, tmp_path: Path) -> None:
    folder = tmp_path / "missing"
    assert f"the output folder {folder} does not exist; create it" in refused(model, folder / "model.onnx")
    assert not folder.exists()


def test_file_for_a_folder(model: Model, target: Path) -> None:
    assert "does not exist" in refused(model, target / "model.onnx")
    assert_as_before(target)


@pytest.mark.parametrize("ending", ["", os.sep])
def test_folder_for_a_file(ending: str, model: Model, tmp_path: Path) -> None:
    assert "is a folder; give the name of the output file" in refused(model, f"{tmp_path}{ending}")
    assert os.listdir(tmp_path) == []


def test_folder_that_does_not_exist_yet_for_a_file(model: Model, tmp_path: Path) -> None:
    assert "is a folder; give the name of the output file" in refused(model, f"{tmp_path}/new{os.sep}")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", ["", "a\0b.onnx"])
def test_impossible_path(path: str, model: Model) -> None:
    assert "output" in refused(model, path)


def test_name_that_is_too_long(model: Model, tmp_path: Path) -> None:
    assert "File name too long; choose another output path" in refused(model, tmp_path / ("a" * 300))
    assert os.listdir(tmp_path) == []


def test_device_is_not_replaced(model: Model, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is not a regular file" in refused(model, tmp_path / "pipe")
    assert "is not a regular file" in refused(model, os.devnull)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_write_protected_file(model: Model, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # for root, to whom every file is writable
    assert "is write-protected" in refused(model, target)
    assert_as_before(target)


def test_write_protected_folder(model: Model, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(temporary, "open", refuse, raising=False)  # for root, to whom every folder is writable
    assert "Permission denied; choose another output path" in refused(model, target)
    assert_as_before(target)


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("code", "advice"), [("ENOSPC", "free some space"), ("EIO", "as it was"), ("EROFS", "choose another output path")]
)
def test_failing_system_call(
    function: str, code: str, advice: str, model: Model, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = getattr(errno, code)

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(SqueezeError) as caught:
        save(model, target)
    assert str(caught.value).startswith(f"{target}: cannot be written: {os.strerror(number)}; ")
    assert advice in str(caught.value)
    assert caught.value.exit_code == (2 if code == "EROFS" else 1)
    assert_as_before(target)


def run_script(script: str, target: Path) -> subprocess.Popen[str]:
    """Start a Python process that has a `model` to save and `target`."""
    prologue = (
        "import os, sys, time, resource, numpy as np\n"
        "from onnxsqueeze.model import saving\n"
        "from onnxsqueeze.model.loading import Initializer, load\n"
        "model, target = load(sys.argv[1]), sys.argv[2]\n"
        "model.initializers['big'] = Initializer.from_array('big', np.ones(2**20, np.float32))\n"
    )
    source = target.parent.with_name("source.onnx")
    source.write_bytes(linear_model().SerializeToString())
    command = [sys.executable, "-c", prologue + script, str(source), str(target)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=PACKAGE_ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # the tests may run where it is ignored
    )


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """A file that exists, alone in its folder."""
    (tmp_path / "output").mkdir()
    path = tmp_path / "output" / "model.onnx"
    path.write_bytes(OLD)
    return path


def test_disk_that_fills_up(alone: Path) -> None:
    """A true failure in mid-write: the system lets the process write one megabyte of four."""
    script = (
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))\n"
        "try:\n    saving.save(model, target)\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
    )
    output, errors = run_script(script, alone).communicate(timeout=60)
    assert output.startswith("SqueezeError ") and "File too large; free some space" in output
    assert errors == ""
    assert_as_before(alone)


BLOCK_IN_MID_WRITE = (
    "def write_half(file, initializer):\n"
    "    file.write(initializer.raw[:initializer.nbytes // 2].data); file.flush()\n"
    "    print('half', flush=True); time.sleep(60)\n"
    "saving._write_raw = write_half\n"
    "saving.save(model, target)\n"
)


def test_killed_in_mid_write(alone: Path) -> None:
    process = run_script(BLOCK_IN_MID_WRITE, alone)
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    process.kill()
    process.communicate(timeout=60)
    assert alone.read_bytes() == OLD
    (left,) = [name for name in os.listdir(alone.parent) if name != alone.name]
    assert left.startswith(".onnxsqueeze-") and left.endswith(".tmp")
    save(load(linear_model()), alone)
    assert left in os.listdir(alone.parent)  # another run may own it
    os.utime(alone.parent / left, (0, 0))
    save(load(linear_model()), alone)
    assert os.listdir(alone.parent) == [alone.name]


def test_interrupted_in_mid_write(alone: Path) -> None:
    process = run_script(BLOCK_IN_MID_WRITE, alone)
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1].endswith("KeyboardInterrupt\n")
    assert_as_before(alone)


def aged(path: Path, folder: bool = False) -> Path:
    """Make an old file, or a folder with one in it."""
    if folder:
        path.mkdir()
        aged(path / "model.onnx")
    else:
        path.write_bytes(b"half a model")
    os.utime(path, (0, 0))
    return path


def test_what_killed_runs_left_is_swept_and_nothing_else(model: Model, target: Path) -> None:
    here, name = target.parent, ".onnxsqueeze-0123456789abcdef.tmp"
    (here / "below").mkdir()
    swept = [aged(here / name), aged(here / name.replace("0", "e"), folder=True)]
    kept = [
        aged(here / ".onnxsqueeze-0123456789abcdef.tmp.mine"),
        aged(here / ".onnxsqueeze-0123456789abcdeg.tmp"),
        aged(here / "onnxsqueeze-0123456789abcdef.tmp"),
        aged(here / ".onnxsqueeze-1123456789abcdef.former", folder=True),
        aged(here / "below" / name),
        aged(here / ".other-0123456789abcdef.tmp"),
    ]
    (fresh := here / ".onnxsqueeze-2123456789abcdef.tmp").write_bytes(b"of a run that lives")
    busy = aged(here / ".onnxsqueeze-3123456789abcdef.tmp", folder=True)
    (busy / "model.onnx").write_bytes(b"written just now")
    os.utime(busy, (0, 0))
    (link := here / ".onnxsqueeze-4123456789abcdef.tmp").symlink_to(kept[0])
    os.utime(link, (0, 0), follow_symlinks=False)
    save(model, target)
    assert not any(path.exists() for path in swept)
    assert all(os.path.lexists(path) for path in (*kept, fresh, busy, busy / "model.onnx", link))


def test_a_clock_that_jumps_ahead_takes_nothing_from_a_run_that_lives(model: Model, target: Path) -> None:
    with temporary.replacing(target) as file:
        file.write(b"new")
        file.flush()
        os.utime(file.name, (0, 0))
        save(model, target.with_name("other.onnx"))
        assert os.path.exists(file.name)
    assert target.read_bytes() == b"new"


def test_a_clock_that_was_set_back(model: Model, target: Path) -> None:
    left = aged(target.with_name(".onnxsqueeze-0123456789abcdef.tmp"))
    os.utime(left, (2**33, 2**33))
    save(model, target)
    assert left.exists()


def test_two_runs_take_two_data_files(model: Model, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that appears between the look and the deed is not overwritten."""
    monkeypatch.setattr(saving, "MAX_PROTO_BYTES", 10_000)
    other = target.with_name("model.onnx.data")
    link = os.link

    def late(source: str, name: str) -> None:
        if not other.exists():
            other.write_bytes(b"of the other run")
        link(source, name)

    monkeypatch.setattr(os, "link", late)
    save(model, target)
    assert other.read_bytes() == b"of the other run"
    assert sorted(os.listdir(target.parent)) == ["model.onnx", "model.onnx.1.data", "model.onnx.data"]
    assert np.array_equal(load(target).initializers["large"].array, LARGE)


def test_a_file_system_without_hard_links(model: Model, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(saving, "MAX_PROTO_BYTES", 10_000)
    monkeypatch.setattr(os, "link", refuse)
    save(model, target)
    assert sorted(os.listdir(target.parent)) == ["model.onnx", "model.onnx.data"]
    assert np.array_equal(load(target).initializers["large"].array, LARGE)


@pytest.mark.parametrize("name", ["größe 模型.onnx", "-o.onnx", "a\nb.onnx", "\udcff.onnx", " .onnx"])
def test_odd_names(name: str, model: Model, tmp_path: Path) -> None:
    save(model, tmp_path / name)
    assert len(load(tmp_path / name).initializers) == 2


def test_twenty_kills_lose_nothing(alone: Path) -> None:
    """At any moment there is a whole file, the old one or the new one."""
    save(load(linear_model()), alone)
    random = np.random.default_rng(0)
    for _ in range(20):
        process = run_script("while True:\n    saving.save(model, target)\n    print('saved', flush=True)\n", alone)
        assert process.stdout is not None
        assert process.stdout.readline() == "saved\n"
        sleep(float(random.uniform(0, 0.03)))
        process.kill()
        process.communicate(timeout=60)
        assert "big" in load(alone).initializers
