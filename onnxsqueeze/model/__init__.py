"""An ONNX file in memory: read, write, walk, count."""
