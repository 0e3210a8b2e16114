"""Domain adaptation: a target that looks another way, without labels or with a few."""

from tlcourse.adaptation.adversarial import DANN, reversal_schedule, reverse_gradient
from tlcourse.adaptation.ccsa import CCSA, ccsa_loss
from tlcourse.adaptation.coral import DeepCORAL, coral_loss
from tlcourse.adaptation.dan import DAN
from tlcourse.adaptation.gap import Gap, domain_gap
from tlcourse.adaptation.mmd import (
    gaussian_kernel,
    median_bandwidth,
    mmd2,
    optimal_kernel_weights,
)
from tlcourse.adaptation.residual import RTN, entropy_loss, joint_mmd2
from tlcourse.adaptation.separation import DSN, difference_loss, scale_invariant_error

__all__ = [
    "CCSA",
    "DAN",
    "DANN",
    "DSN",
    "RTN",
    "DeepCORAL",
    "Gap",
    "ccsa_loss",
    "coral_loss",
    "difference_loss",
    "domain_gap",
    "entropy_loss",
    "gaussian_kernel",
    "joint_mmd2",
    "median_bandwidth",
    "mmd2",
    "optimal_kernel_weights",
    "reversal_schedule",
    "reverse_gradient",
    "scale_invariant_error",
]
