"""Softmax and its kin, and what holds for the rows of scores and probabilities."""
