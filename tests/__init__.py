"""The tests; folders are named as the packages that they test."""
