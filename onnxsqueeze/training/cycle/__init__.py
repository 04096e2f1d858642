"""The Squeeze-Release cycle: its stages, and the folder of files that each of them reads and writes."""
