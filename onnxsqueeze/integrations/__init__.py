"""Thin adapters: `minimize` as a step in the pipelines of other tools, each of which is imported by its own file."""
