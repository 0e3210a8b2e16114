"""Experiments on matching features.

Chapters `methods/attention-transfer` and `methods/jacobian-matching`.
"""
