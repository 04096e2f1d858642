"""The contract between drivers and operators: the record of a rule, the plan, the rewriter, the view of a weight."""
