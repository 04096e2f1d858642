"""A model becomes one that is easier to analyse: a table of passes, each exact and each undone when written."""
