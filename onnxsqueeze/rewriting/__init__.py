"""Carries out a plan by graph surgery. It obeys; it decides nothing."""
