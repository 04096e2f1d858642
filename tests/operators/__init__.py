"""Operators, on planted networks: a small dense one inside a wide one, which must come back at its own size."""
