"""The backend tests of the onnx package, minimized one by one; ``python -m tests.backend`` runs a part of them."""
