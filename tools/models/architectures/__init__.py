"""Architectures of the `transformers` library with random weights, masks for them, and both torch exporters."""
