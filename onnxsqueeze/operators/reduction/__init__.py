"""Operators that reduce or compare along an axis, over space or over channels."""
