"""Operators that turn real numbers into codes and back; layers between them compute in integers."""
