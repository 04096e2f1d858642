"""The version, in one place that nothing else is imported for."""

__version__ = "0.1.0"
