"""Operators that only move, copy or choose elements."""
