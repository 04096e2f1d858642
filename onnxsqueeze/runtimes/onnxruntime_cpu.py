"""onnxruntime on the CPU: ONNX files as they are, and its own format, which its small builds read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from onnxsqueeze.runtimes.base import Array, Conversion, Runtime, RuntimeSession, UnsupportedModelError
from onnxsqueeze.verification.sessions import refusal

CPU = "CPUExecutionProvider"
_FATAL = 4  # its log severity: errors come as exceptions


def _version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


class OnnxruntimeSession:
    """A session of onnxruntime, wherever it computes."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._names = [output.name for output in session.get_outputs()]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model."""
        try:
            return dict(zip(self._names, self._session.run(None, dict(inputs)), strict=True))
        except Exception as error:  # its exceptions have no common base
            raise UnsupportedModelError(str(refusal(error))) from None


def open_session(path: Path, threads: int, providers: Sequence[str] = (CPU,), **config: Any) -> Any:
    """Return onnxruntime's session of a file.

    Args:
        path: an ONNX file or one in onnxruntime's own format.
        threads: how many to compute in. All sessions of a process with more than one share their threads: those of an
            idle session would go on to look for work, and take the time of the others.
        providers: where to compute, the first choice first.
        config: attributes of the session's options.

    Raises:
        UnsupportedModelError: when onnxruntime refuses it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    if threads > 1 and _shared_threads(threads):
        options.use_per_session_threads = False
    else:
        options.intra_op_num_threads = threads
    for name, value in config.items():
        setattr(options, name, value)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # its exceptions have no common base
        raise UnsupportedModelError(str(refusal(error))) from None


@cache
def _shared_threads(threads: int) -> bool:
    """Make the threads that sessions share; only the first call in a process has a say in how many they are."""
    import onnxruntime

    try:
        onnxruntime.set_global_thread_pool_sizes(threads, 1)
    except (AttributeError, RuntimeError):  # an older release, or a process that has sessions already
        return False
    return True


def _load(files: tuple[Path, ...], threads: int) -> RuntimeSession:
    return OnnxruntimeSession(open_session(files[0], threads))


def _copy(conversion: Conversion) -> tuple[Path, ...]:
    from onnxsqueeze.model.loading import load
    from onnxsqueeze.model.saving import save

    target = conversion.folder / "model.onnx"
    save(load(conversion.model, check=False), target)
    return tuple(sorted(conversion.folder.glob(f"{target.name}*")))


def _to_ort(conversion: Conversion) -> tuple[Path, ...]:
    """Save the graph as onnxruntime has optimized it; not for this very processor, since the file is to run elsewhere.

    That leaves out the layouts of the last level, NCHWc convolutions.
    """
    import onnxruntime

    target = conversion.folder / "model.ort"
    level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    open_session(conversion.model, 1, graph_optimization_level=level, optimized_model_filepath=str(target))
    return (target,)


ONNXRUNTIME = Runtime("onnxruntime", "onnxruntime", "pip install onnxruntime", _version, _copy, _load)
ORT_FORMAT = Runtime("ort", "onnxruntime, .ort file", "pip install onnxruntime", _version, _to_ort, _load)
