"""Codes of which several share a byte, the first one in the lowest bits, and blocks of them along an axis."""

from __future__ import annotations

import numpy as np

from onnxsqueeze.abstract.compact import Array

BYTE = 8


def unpacked(array: Array, bits: int) -> Array:
    """Return the codes in bytes, along the last axis."""
    shifts = np.arange(0, BYTE, bits, dtype=np.uint8)
    codes = (array[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return np.asarray(codes.reshape(*array.shape[:-1], -1))


def repacked(codes: Array, bits: int) -> Array:
    """Return codes as bytes, along the last axis, which is filled up with zeros."""
    each = BYTE // bits
    filled = np.zeros((*codes.shape[:-1], -(-codes.shape[-1] // each) * each), np.uint8)
    filled[..., : codes.shape[-1]] = codes
    parts = filled.reshape(*codes.shape[:-1], -1, each) << np.arange(0, BYTE, bits, dtype=np.uint8)
    return np.asarray(np.bitwise_or.reduce(parts, axis=-1).astype(np.uint8))
