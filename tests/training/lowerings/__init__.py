"""The torch lowerings of operators against onnxruntime."""
