"""Experiments of adaptive transfer."""
