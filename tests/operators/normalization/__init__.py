"""Norms of tokens and of images."""
