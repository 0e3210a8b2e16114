"""Experiments on distillation; chapter `methods/distillation`."""
