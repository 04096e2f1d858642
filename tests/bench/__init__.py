"""The benchmark: runtimes that behave and that do not, intervals, reports, the command."""
