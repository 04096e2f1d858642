"""Each adapter, in the runtime that it is for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest

from onnxsqueeze.bench import Settings, bench
from onnxsqueeze.runtimes import RUNTIMES, UnsupportedModelError
from onnxsqueeze.runtimes.providers import provider_runtimes
from tests.bench.networks import image_classifier

QUICK = Settings(seconds=0.01, launches=1, timeout=300)
ROUNDING = 1e-5  # of the outputs' scale: three float32 layers round to less, whatever the order of their sums


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_computes_what_onnxruntime_does(name: str, tmp_path: Path) -> None:
    report = bench([image_classifier(tmp_path / "net.onnx")], [name], QUICK)
    (runtime,) = report.runtimes
    if runtime.problem.startswith("not installed"):
        pytest.skip(f"{name} is {runtime.problem}")
    assert runtime.problem == ""
    assert runtime.versions[name]
    (found,) = report.measurements
    assert found.problem == ""
    assert found.deviation is not None and found.deviation < ROUNDING
    assert found.latency is not None and found.latency > 0
    assert found.bytes is not None and found.gzip_bytes is not None and found.gzip_bytes > 0
    for seconds in (found.convert_seconds, found.load_seconds, found.first_seconds):
        assert seconds is not None and seconds > 0


def test_sessions_of_onnxruntime_share_their_threads(tmp_path: Path) -> None:
    model = image_classifier(tmp_path / "net.onnx")
    report = bench([model, model], ["onnxruntime"], replace(QUICK, threads=2))
    for found in report.measurements:
        assert found.problem == "" and found.latency is not None
        assert found.deviation is not None and found.deviation < ROUNDING


def test_other_providers_of_onnxruntime_are_runtimes_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    present = ["CUDAExecutionProvider", "AzureExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: present)
    (cuda,) = provider_runtimes()
    assert (cuda.name, cuda.title) == ("onnxruntime-cuda", "onnxruntime, CUDA")
    if "CUDAExecutionProvider" in onnxruntime.capi._pybind_state.get_available_providers():
        pytest.skip("this onnxruntime has the provider that is to be missing")
    refusal = pytest.raises(UnsupportedModelError, match="CUDAExecutionProvider does not start here")
    with pytest.warns(UserWarning), refusal:
        cuda.load((image_classifier(tmp_path / "net.onnx"),), 1)
