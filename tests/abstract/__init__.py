"""What is known without running a model: sizes, intervals, compact arrays."""
