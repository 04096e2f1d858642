"""Networks, masks and exporters of measurements and tests, and how the files in models/ are made."""
