"""Tests of `onnxsqueeze.units`."""
