"""Whole networks, from all who write them: exporters, libraries, the backend tests of onnx, chance."""
