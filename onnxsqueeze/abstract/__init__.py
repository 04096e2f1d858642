"""What can be known of tensors without running a model: symbolic sizes, intervals, their arithmetic, compact arrays."""
