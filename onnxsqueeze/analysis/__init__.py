"""The two sweeps over a graph: forward for intervals and classes, backward for liveness. They know no operator."""
