"""Measurements: what minimizing costs, and how fast layers and models of any width are."""
