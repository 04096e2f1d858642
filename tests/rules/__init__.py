"""What all rules share: lessons, what nodes list of their constants, weights that several nodes read."""
