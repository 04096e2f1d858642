"""What exporters spread over several nodes (LayerNormalization, GELU, ...) is seen as one node by the analysis.

Each file of patterns says how one family of operators is written. A group that nothing changed is written back as it
came, and one of which only constants changed with these alone replaced.
"""
