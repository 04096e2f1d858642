"""The two sweeps over a graph."""
