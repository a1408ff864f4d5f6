"""The simulator: a text engine without a model, for trying out, testing and measuring."""
