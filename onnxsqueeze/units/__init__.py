"""Units, the smallest parts of a network that can leave: which there are, what they cost, which to remove."""
