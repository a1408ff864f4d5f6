"""What the operator allows: word lists and classifiers that judge prompts and images."""
