"""Experiments on few labels; chapters `methods/feature-extraction` and `methods/fine-tuning`."""
