"""Experiments on continual learning; chapter `methods/continual`."""
