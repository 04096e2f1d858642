"""Work in a process of its own, so that native code that crashes costs one line instead of the run."""
