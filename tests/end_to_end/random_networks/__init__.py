"""Networks of random layers under random masks: whatever stands in them, the function must come back."""
