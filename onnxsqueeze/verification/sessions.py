"""Run models in onnxruntime."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from onnx import ModelProto

from onnxsqueeze.errors import one_line
from onnxsqueeze.model.loading import to_proto
from onnxsqueeze.model.model import MAX_PROTO_BYTES
from onnxsqueeze.model.saving import save
from onnxsqueeze.verification.blocks import Blocks, WholeError
from onnxsqueeze.verification.model_source import Source
from onnxsqueeze.verification.saturation import REAL_NUMBERS, encodes_signed, has_codes, saturates, unsigned

Values = dict[str, Any]
"""Inputs or outputs by name: arrays, lists of arrays for sequences, None for an absent optional."""

# What onnxruntime puts before a reason: its error codes, and the file, the line and the function in its source code.
_NOISE = re.compile(
    r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : |Status Message: |/onnxruntime_src/\S+ "
    r"|(?:virtual |static )?[\w:]* ?onnxruntime::[\w:<>~]+\([^()]*\)(?: const)? "
)
_LONGEST_REASON = 300  # characters
_EXACT_PRODUCTS = "session.qdq_matmulnbits_accuracy_level", "0"
"""By default it rounds what it multiplies by decoded weights to 8 bits, in blocks, which move when channels leave."""

_FATAL = 4  # onnxruntime's log severity: errors come as exceptions, so that nothing need be printed


_FROM_A_FILE = 1 << 28  # bytes of weights from which on onnxruntime is given a file: in memory it would copy them
IN_BLOCKS_FROM = 1 << 30
"""Bytes of weights from which on a model runs block by block."""

_UNREADABLE = "strings that are not UTF-8"


class RefusedError(Exception):
    """onnxruntime would not load or run a model; the message is its reason, in one line."""


class Session:
    """A model in onnxruntime on the CPU, with all of its graph optimizations or none.

    Products of codes that would saturate are computed otherwise, as `saturation` says.
    """

    def __init__(self, source: Source, *, optimized: bool) -> None:
        """Load the model.

        Raises:
            RefusedError: when onnxruntime does not load it.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL
        options.add_session_config_entry(*_EXACT_PRODUCTS)
        if has_codes(source.skeleton) and saturates():
            source = _without_saturation(source, options)
        if _bytes(source) >= _FROM_A_FILE:  # repacked weights are copies, which spare time over many runs alone
            options.add_session_config_entry("session.disable_prepacking", "1")
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
        self._folder: TemporaryDirectory[str] | None = None  # holds what a session may map for as long as it lives
        self._source = source
        self._load = partial(onnxruntime.InferenceSession, sess_options=options, providers=["CPUExecutionProvider"])
        self._blocks: Blocks | None = None
        if _bytes(source) >= IN_BLOCKS_FROM:
            self._blocks = Blocks(source.model(), lambda encoded: self._load(encoded).run)
        else:
            self._open()

    @property
    def in_blocks(self) -> bool:
        """Whether the model runs block by block, as one that is large for the memory does."""
        return self._blocks is not None

    def _open(self) -> None:
        """Load the model as a whole."""
        source = self._source
        try:
            if isinstance(source.given, Path) and source.has_data_file:
                with suppress(Exception):  # it follows no link to a data file
                    self._session = self._load(str(source.given))
                    return
            self._session = self._load(self._loadable(source))
        except Exception as error:  # its exceptions have no common base
            raise refusal(error) from None

    def _loadable(self, source: Source) -> str | bytes:
        """Return a path or an encoded model; a model too large for one message goes into a temporary file."""
        if isinstance(source.given, Path) and not source.has_data_file and _bytes(source) < _FROM_A_FILE:
            return str(source.given)
        if isinstance(source.given, ModelProto) and source.given.ByteSize() <= MAX_PROTO_BYTES:
            return _encoded(source.given)
        model = source.model()
        if sum(initializer.nbytes for initializer in model.initializers.values()) < min(_FROM_A_FILE, MAX_PROTO_BYTES):
            return _encoded(to_proto(model))
        self._folder = TemporaryDirectory(prefix="onnxsqueeze-")
        path = Path(self._folder.name) / "model.onnx"
        save(model, path, data_file=True)  # which onnxruntime maps
        return str(path)

    def run(self, feeds: Values, names: Sequence[str] | None = None) -> Values:
        """Run the model and return its outputs, or those named, by name.

        Raises:
            RefusedError: when onnxruntime does not run it on these inputs.
        """
        names = names or [output.name for output in self._source.skeleton.graph.output]
        if self._blocks is not None:
            try:
                return self._blocks.run(feeds, names)
            except (WholeError, UnicodeDecodeError):
                self._blocks = None
                self._open()
            except Exception as error:  # its exceptions have no common base
                raise refusal(error) from None
        try:
            return dict(zip(names, self._session.run(list(names), feeds), strict=True))
        except UnicodeDecodeError:  # strings that are not UTF-8, which its Python interface cannot hand out
            return self._run_one_by_one(feeds, names)
        except Exception as error:  # its exceptions have no common base
            raise refusal(error) from None

    def _run_one_by_one(self, feeds: Values, names: Sequence[str]) -> Values:
        """Return what can be read; strings that are not UTF-8 count as one string, the same in any model."""
        found: Values = {}
        for name in names:
            try:
                (found[name],) = self._session.run([name], feeds)
            except UnicodeDecodeError:
                found[name] = np.array(_UNREADABLE, object)
            except Exception as error:
                raise refusal(error) from None
        return found


def _without_saturation(source: Source, options: Any) -> Source:
    model = source.model()
    if encodes_signed(model):
        options.add_session_config_entry(REAL_NUMBERS, "1")
    changed = unsigned(model)
    return source if changed is model else Source(changed)


def _bytes(source: Source) -> int:
    """Return about how many bytes a model's weights take."""
    return 4 * int(source.weights)


def _encoded(model: ModelProto) -> bytes:
    encoded: bytes = model.SerializeToString()
    return encoded


def refusal(error: Exception) -> RefusedError:
    """Return what onnxruntime says, without its codes and places in its source code, in one line."""
    reason = _NOISE.sub("", one_line(error))
    return RefusedError(reason if len(reason) <= _LONGEST_REASON else reason[:_LONGEST_REASON] + " ...")
