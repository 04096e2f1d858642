"""What a user sees of a run, as data and as a page."""
