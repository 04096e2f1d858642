"""Tests of the package `onnxsqueeze.reporting`."""
