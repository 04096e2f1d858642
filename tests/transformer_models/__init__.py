"""Architectures of the `transformers` library as both torch exporters write them."""
