"""Experiments on matching features; chapter `methods/matching-features`."""
