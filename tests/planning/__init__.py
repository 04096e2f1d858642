"""What goes and what stays: plans."""
