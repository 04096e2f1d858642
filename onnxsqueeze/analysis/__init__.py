"""The two sweeps over a graph: forward for facts and classes, backward for liveness. They know no operator."""
