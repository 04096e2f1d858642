"""Attention in one node, in all its spellings, and the rotary embedding before it."""
