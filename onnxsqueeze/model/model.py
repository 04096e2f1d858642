"""A model taken apart: its weights as arrays, everything else as a skeleton."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from onnx import ModelProto, NodeProto, SparseTensorProto

from onnxsqueeze.errors import InvalidModelError
from onnxsqueeze.model.initializer import Initializer
from onnxsqueeze.processes.mapping import changed

MAX_PROTO_BYTES = 2**31 - 1
"""The longest message that protobuf can read or write."""


@dataclass(frozen=True, eq=False)
class ConstantNode:
    """A Constant node whose value is an initializer for the time being.

    Attributes:
        shell: the node without the data of its value.
        before: what the next node behind it writes, "" if there is none.
    """

    shell: NodeProto
    before: str


@dataclass(frozen=True, eq=False)
class SparseInitializer:
    """A sparse initializer of the file, as it stands there (with its data) and as an ordinary one."""

    proto: SparseTensorProto
    dense: Initializer


@dataclass(eq=False)
class Model:
    """A model taken apart.

    Attributes:
        skeleton: the model with an empty ``graph.initializer``, everything else as it came.
        initializers: ``graph.initializer`` by name, in the file's order.
        path: the file that it came from; None for a model from memory.
        constants: of the initializers that are Constant nodes in the file, what these are like (see
            `model.constant_nodes`). Empty in a model that was just read.
        has_data_file: whether initializers had their data in a file beside it.
        sparse: those of the initializers that are sparse in the file (see `model.sparse`), by name.
        file_bytes: the size of that file and of the external data that it uses, or what it would be.
        notes: what a user should know of how it was read, one line each.
    """

    skeleton: ModelProto
    initializers: dict[str, Initializer] = field(default_factory=dict)
    path: Path | None = None
    file_bytes: int = 0
    notes: tuple[str, ...] = ()
    constants: Mapping[str, ConstantNode] = field(default_factory=dict)
    has_data_file: bool = False
    sparse: Mapping[str, SparseInitializer] = field(default_factory=dict)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Believe nothing that comes of the weights, errors neither, if another program changed their file meanwhile.

        Raises:
            InvalidModelError: when it did.
        """
        try:
            yield
        except Exception:
            self._check_unchanged()
            raise
        self._check_unchanged()

    def _check_unchanged(self) -> None:
        if path := changed(initializer.data for initializer in self.initializers.values()):
            raise InvalidModelError(f"{path} was changed while it was read; run again once nothing writes to it")
