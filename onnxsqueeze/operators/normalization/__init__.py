"""Normalizations: statistics over the original width, and the representatives of what left."""
