"""A read-only view of a model's graph: nodes, who reads what, where a weight is stored."""
