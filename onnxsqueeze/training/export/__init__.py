"""From an nn.Module with its masks to an ONNX file with zeros."""
