"""Operators that exporters spell out in several nodes or fused, read as one."""
