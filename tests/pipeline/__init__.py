"""Minimizing from end to end: what holds of every result, and what must stay as it is."""
