"""The command line: what it prints, what it refuses and with which words, what it leaves behind."""
