"""Shapes and the sizes that graphs compute."""
