"""Samples that criteria and squeezes look at, and the likelihood of what a network answers."""
