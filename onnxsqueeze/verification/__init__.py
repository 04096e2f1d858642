"""Verify that a minimized model computes what the original computes."""

from onnxsqueeze.verification.report import OutputReport, VerifyReport
from onnxsqueeze.verification.verifier import verify

__all__ = ["OutputReport", "VerifyReport", "verify"]
