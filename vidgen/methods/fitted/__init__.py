"""Methods that are fitted at once instead of trained step by step."""
