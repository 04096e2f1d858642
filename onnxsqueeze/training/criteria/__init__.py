"""Criteria: small registered functions that score weights, and what they are told about them."""

import onnxsqueeze.training.criteria.weight_scores  # noqa: F401  (registers the criteria)
from onnxsqueeze.training.criteria.evidence import CriterionContext, Evidence
from onnxsqueeze.training.criteria.registry import UNITS, Criterion, criteria_names, criterion, criterion_named

__all__ = ["UNITS", "Criterion", "CriterionContext", "Evidence", "criteria_names", "criterion", "criterion_named"]
