"""Operators along an axis."""
