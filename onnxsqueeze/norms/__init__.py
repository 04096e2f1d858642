"""What normalisations over a narrowed axis have in common: statistics over the original width, and representatives."""
