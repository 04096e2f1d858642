"""The whole way of a model: canonicalize and analyse it, search for the smallest outcome, verify, report."""
