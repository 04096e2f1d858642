"""Attention, as operators and spread over nodes."""
