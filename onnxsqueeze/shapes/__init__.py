"""The shape of every tensor, symbolic sizes included, in the given model and in the narrowed one."""
