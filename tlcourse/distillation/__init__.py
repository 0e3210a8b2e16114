"""Knowledge distillation (Hinton, Vinyals and Dean, 2015): chapter *methods/distillation*."""

from tlcourse.distillation.cached import CachedTeacher
from tlcourse.distillation.derivation import (
    DerivationReport,
    SymbolicGradient,
    check_derivation,
    high_temperature_gradient,
    logit_gradient,
    symbolic_gradient,
)
from tlcourse.distillation.loss import distillation_loss, soften

__all__ = [
    "CachedTeacher",
    "DerivationReport",
    "SymbolicGradient",
    "check_derivation",
    "distillation_loss",
    "high_temperature_gradient",
    "logit_gradient",
    "soften",
    "symbolic_gradient",
]
