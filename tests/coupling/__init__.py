"""The algebra of classes and constraints, by itself: no model, no graph."""
