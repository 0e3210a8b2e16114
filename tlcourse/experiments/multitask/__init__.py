"""Experiments on several tasks and sources; chapters `multi-task` and `selective-joint`."""
