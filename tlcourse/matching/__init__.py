"""Matching what happens inside two networks.

Chapters *methods/attention-transfer* and *methods/jacobian-matching*.
"""

from tlcourse.matching.activation import activation_matching_loss
from tlcourse.matching.attention import attention_map, attention_transfer_loss
from tlcourse.matching.capture import Activations, capture
from tlcourse.matching.jacobian import jacobian_matching_loss
from tlcourse.matching.sobolev import sobolev_loss
from tlcourse.matching.visual import grad_cam, guided_backprop

__all__ = [
    "Activations",
    "activation_matching_loss",
    "attention_map",
    "attention_transfer_loss",
    "capture",
    "grad_cam",
    "guided_backprop",
    "jacobian_matching_loss",
    "sobolev_loss",
]
