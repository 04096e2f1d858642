"""Networks as torch exports them, by both of its exporters."""
