"""Experiments on several tasks and sources at once; chapter `methods/multi-task`."""
