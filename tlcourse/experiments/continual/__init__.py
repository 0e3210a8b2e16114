"""Experiments on continual learning; chapters `methods/continual` and `methods/progressive`."""
