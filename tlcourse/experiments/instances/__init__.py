"""Experiments of instance transfer."""
