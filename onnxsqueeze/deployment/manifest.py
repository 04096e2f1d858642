"""The manifest of a deployment: what was written, from what, by what, and how far it deviates."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onnxsqueeze.deployment.deviation import Accuracy, Deviation
from onnxsqueeze.model.files import File, _described

MANIFEST = "manifest.json"
_FORMAT = "onnxsqueeze deployment"
_VERSION = 1  # of the format: a reader refuses what it does not know


@dataclass(frozen=True)
class Manifest:
    """All that is known of a deployment.

    Attributes:
        target: the runtime that it is for.
        precision: ``unchanged`` for the number types of the source, ``float16`` or ``int8``.
        exact: whether it computes what the source computes, up to rounding.
        source: the model's file and the files of its external data.
        files: what was written, without the manifest itself.
        versions: of onnxsqueeze, of the runtime and of every converter on the way, by name.
        options: what the user asked for besides.
        deviations: how far each of the written models deviates from the source in onnxruntime.
        accuracy: before and after; None where no labels were given.
        notes: what a reader should know besides.
    """

    target: str
    precision: str
    exact: bool
    source: tuple[File, ...]
    files: tuple[File, ...]
    versions: dict[str, str]
    options: dict[str, Any]
    deviations: tuple[Deviation, ...]
    accuracy: Accuracy | None = None
    notes: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest as plain values for JSON."""
        return {"format": _FORMAT, "format_version": _VERSION, **asdict(self)}

    def save(self, folder: Path) -> None:
        """Write the manifest into the folder of its deployment."""
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False, ensure_ascii=False)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def listed_files(folder: Path) -> set[str] | None:
    """Return the paths that the manifest in a folder lists; None where there is no manifest of a deployment."""
    try:
        data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        known = data["format"] == _FORMAT and data["format_version"] == _VERSION
        return {str(entry["path"]) for entry in data["files"]} if known else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def files_in(folder: Path) -> tuple[File, ...]:
    """Describe all files in a folder and the folders in it, in the order of their names."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(_described(path, path.relative_to(folder).as_posix()) for path in paths)
