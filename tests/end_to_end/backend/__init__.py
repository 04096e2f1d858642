"""The backend tests of the onnx package, minimized one by one.

``python -m tests.end_to_end.backend`` runs a part of them.
"""
