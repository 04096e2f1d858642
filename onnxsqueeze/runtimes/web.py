"""onnxruntime-web in node: ONNX files in WebAssembly, as a browser runs them."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnxsqueeze.runtimes.base import (
    Array,
    NotInstalledError,
    Runtime,
    RuntimeSession,
    UnsupportedModelError,
    contiguous,
)
from onnxsqueeze.runtimes.onnxruntime_cpu import ONNXRUNTIME

FOLDER = "ONNXSQUEEZE_WEB"
"""The environment variable that names the folder with ``node_modules/onnxruntime-web``."""

_PACKAGE = "onnxruntime-web"
_SCRIPT = Path(__file__).with_suffix(".mjs")


def web_folder() -> Path:
    """Return where onnxruntime-web is looked for, unless told otherwise in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return Path(os.environ.get(FOLDER) or os.path.join(cache, "onnxsqueeze", "web")).expanduser()


def _version() -> str:
    package = web_folder() / "node_modules" / _PACKAGE / "package.json"
    if shutil.which("node") is None:
        raise NotInstalledError("node is not installed")
    try:
        return str(json.loads(package.read_text(encoding="utf-8"))["version"])
    except (OSError, ValueError, KeyError):
        raise NotInstalledError(f"{_PACKAGE} is not in {web_folder()}, nor named by ${FOLDER}") from None


class _Session:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._peak_bytes = 0

    def __del__(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()  # which ends it
        self._process.wait()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {name: _decoded(tensor) for name, tensor in self._asked(inputs, 1)["outputs"].items()}

    def times(self, inputs: Mapping[str, Array], repeats: int) -> list[float]:
        return [float(seconds) for seconds in self._asked(inputs, repeats)["seconds"]]

    def peak_bytes(self) -> int:
        return self._peak_bytes

    def _asked(self, inputs: Mapping[str, Array], repeats: int) -> dict[str, Any]:
        encoded = {name: _encoded(array) for name, array in contiguous(inputs).items()}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"inputs": encoded, "repeats": repeats}) + "\n")
        self._process.stdin.flush()
        answer = self.answer()
        self._peak_bytes = int(answer["peak_bytes"])
        return answer

    def answer(self) -> dict[str, Any]:
        """Return the next answer of the process."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "node ended without an answer"}
        if "error" in answer:
            raise UnsupportedModelError(" ".join(answer["error"].split()))
        return answer


def _encoded(array: Array) -> dict[str, Any]:
    return {"type": array.dtype.name, "dims": array.shape, "data": base64.b64encode(array.tobytes()).decode()}


def _decoded(tensor: Mapping[str, Any]) -> Array:
    array: Array = np.frombuffer(base64.b64decode(tensor["data"]), tensor["type"]).reshape(tensor["dims"])
    return array


def _load(files: tuple[Path, ...], threads: int) -> RuntimeSession:
    command = ["node", str(_SCRIPT), str(web_folder()), str(files[0]), str(threads)]
    session = _Session(
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8"
        )
    )
    session.answer()
    return session


WEB = Runtime(
    "web",
    "onnxruntime-web",
    "npm install --prefix ~/.cache/onnxsqueeze/web onnxruntime-web",
    _version,
    ONNXRUNTIME.convert,
    _load,
    helpers=1,  # node compiles what runs often once more, meanwhile
)
