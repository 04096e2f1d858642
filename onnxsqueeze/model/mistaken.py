"""What a file is that was given for an ONNX model and is none: told by its first bytes, and by its name."""

from __future__ import annotations

import re
from pathlib import Path

_FIELDS = rb"ir_version|producer_name|producer_version|graph|opset_import|model_version|domain|doc_string"
_TEXT_PROTOBUF = re.compile(rb"\s*(#[^\n]*\n\s*)*(" + _FIELDS + rb")\s*[:{]")
_HTML = re.compile(rb"\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)
_LFS = b"version https://git-lfs.github.com/spec/"
_ZIP = b"PK\x03\x04"
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
HEAD = 4096
"""So many bytes of a file are enough to tell."""


def mistaken(head: bytes, path: Path | None = None) -> str:
    """Return what a file is and what to give instead, after "is "; "" where that cannot be told.

    Args:
        head: its first `HEAD` bytes, or all of them. path: where it lies; its suffix tells kinds of archives apart.
    """
    suffix = path.suffix.lower() if path is not None else ""
    if head.startswith(_LFS):
        return "a Git LFS pointer and not the file itself; run `git lfs pull` in its folder, or download the file"
    if _HTML.match(head):
        return "an HTML page, as of a download link that asks to log in; download the file itself"
    flat = head[4:8] if head[2:4] == bytes(2) else b""  # a flatbuffer begins with a small offset
    if flat == b"TFL3":
        return "a TFLite model; convert it to ONNX first, for example with tf2onnx"
    if _is_safetensors(head):
        return "a safetensors file, which holds weights and no network; export the network to ONNX"
    if head.startswith(_ZIP) or _PICKLE.match(head):
        return _archive(head, suffix)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "an HDF5 file, as Keras writes it; convert the model to ONNX first, for example with tf2onnx"
    if head.startswith(b"GGUF"):
        return "a GGUF file, which holds weights for llama.cpp; export the network to ONNX"
    if flat == b"ORTM":
        return "a model in onnxruntime's .ort format; give the ONNX file that it was made from"
    if _TEXT_PROTOBUF.match(head):
        return "an ONNX model written as text; write it in the binary form, with onnx.save(model, path)"
    return ""


def _archive(head: bytes, suffix: str) -> str:
    if b"data.pkl" in head or _PICKLE.match(head) or suffix in (".pt", ".pth", ".ckpt"):
        return "a PyTorch checkpoint; export the network with torch.onnx.export"
    if b".npy" in head or suffix == ".npz":
        return "an npz file of arrays; give the ONNX file"
    if b"keras" in head or suffix == ".keras":
        return "a Keras model; convert it to ONNX first, for example with tf2onnx"
    return "a zip archive; give the ONNX file inside it"


def _is_safetensors(head: bytes) -> bool:
    """Whether a file begins with the length of a JSON header, and with that."""
    length = int.from_bytes(head[:8], "little")
    return len(head) > 9 and head[8:9] == b"{" and 2 <= length < 1 << 32 and head[9:10] in b'"} \n\t'
