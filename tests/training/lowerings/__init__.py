"""The torch forms of operators against onnxruntime."""
