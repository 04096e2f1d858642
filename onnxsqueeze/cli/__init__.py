"""The command line: options, progress, tables, one line for every failure."""
