"""Activations, and sums of streams."""
