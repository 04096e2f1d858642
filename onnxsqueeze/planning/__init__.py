"""What stays and why: the fixpoint of all constraints, the cost policy, layers narrowed between whole tensors."""
