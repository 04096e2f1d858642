"""Tests of `onnxsqueeze.squeezing`."""
