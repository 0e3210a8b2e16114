"""Continual learning: chapters *methods/continual* and *methods/progressive*.

Learning without forgetting (Li and Hoiem, 2016), progressive networks (Rusu et al., 2016),
less-forgetting learning (Jung et al., 2016), and the measures of forgetting and transfer.
"""

from tlcourse.continual.lfl import less_forgetting_loss
from tlcourse.continual.lwf import LearningWithoutForgetting, Recording, lwf_old_task_loss
from tlcourse.continual.measures import (
    accuracy_matrix,
    average_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    transfer_score,
)
from tlcourse.continual.progressive import ProgressiveNetwork

__all__ = [
    "LearningWithoutForgetting",
    "ProgressiveNetwork",
    "Recording",
    "accuracy_matrix",
    "average_accuracy",
    "backward_transfer",
    "forgetting",
    "forward_transfer",
    "less_forgetting_loss",
    "lwf_old_task_loss",
    "transfer_score",
]
