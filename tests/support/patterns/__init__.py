"""What exporters spell out in several nodes, in graphs around it."""
