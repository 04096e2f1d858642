"""Operators that compute each element from those at its own place: activations, arithmetic."""
