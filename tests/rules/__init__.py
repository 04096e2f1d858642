"""What rules share: weights that several nodes read."""
