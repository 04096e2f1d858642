"""Tasks that run in a process of their own, so that a crash or a hang of a runtime costs one line."""
