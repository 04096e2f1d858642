"""Tests of `onnxsqueeze deploy`."""
