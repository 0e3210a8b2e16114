"""Adaptive transfer: chapters *adaptive/spottune* and *adaptive/learning-to-transfer*.

SpotTune (Guo et al., 2019) on recurrent and residual networks, and learning to transfer (Wei, Zhang
and Yang, 2017).
"""

from tlcourse.adaptive.learning_to_transfer import Experience, LearningToTransfer
from tlcourse.adaptive.policy import global_k_loss, gumbel_policy, policy_network
from tlcourse.adaptive.spottune import RoutedBlock, SpotTune
from tlcourse.adaptive.spottune_lstm import SpotTuneLSTM
from tlcourse.adaptive.spottune_resnet import SpotTuneResNet

__all__ = [
    "Experience",
    "LearningToTransfer",
    "RoutedBlock",
    "SpotTune",
    "SpotTuneLSTM",
    "SpotTuneResNet",
    "global_k_loss",
    "gumbel_policy",
    "policy_network",
]
