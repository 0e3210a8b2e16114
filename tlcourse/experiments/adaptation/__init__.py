"""Experiments on domain adaptation; chapter `adaptive/domain-adaptation`."""
