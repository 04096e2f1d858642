"""Fuzzers: random graphs that must keep their function, in ways that no test writes down."""
