"""Recipes: squeezing and training on real data. What they share: data, networks, a loop, the run and its record."""
