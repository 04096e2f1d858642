"""Modules of our own for torch users."""
