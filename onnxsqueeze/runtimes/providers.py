"""onnxruntime's other execution providers, as many as the installed package has: GPUs and accelerators."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from onnxsqueeze.runtimes.base import Runtime, RuntimeSession, UnsupportedModelError
from onnxsqueeze.runtimes.onnxruntime_cpu import CPU, ONNXRUNTIME, OnnxruntimeSession, open_session

_REMOTE = "AzureExecutionProvider"  # runs no models by itself
_SUFFIX = "ExecutionProvider"


def provider_runtimes() -> Iterator[Runtime]:
    """Yield a runtime for each execution provider of the installed onnxruntime other than the CPU."""
    import onnxruntime

    for provider in onnxruntime.get_available_providers():
        if provider not in (CPU, _REMOTE):
            title = provider.removesuffix(_SUFFIX)
            yield Runtime(
                f"onnxruntime-{title.lower()}",
                f"onnxruntime, {title}",
                ONNXRUNTIME.install,
                ONNXRUNTIME.version,
                ONNXRUNTIME.convert,
                partial(_load, provider),
            )


def _load(provider: str, files: tuple[Path, ...], threads: int) -> RuntimeSession:
    """Load a model in a provider. What that has no operator for runs on the CPU, as it would where it is used."""
    session = open_session(files[0], threads, [provider, CPU])
    if provider not in session.get_providers():
        raise UnsupportedModelError(f"onnxruntime's {provider} does not start here")
    return OnnxruntimeSession(session)
