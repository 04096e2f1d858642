"""What `onnxsqueeze deploy` writes, refuses and measures."""
