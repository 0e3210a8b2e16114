"""Feature extraction and fine-tuning: chapters *feature-extraction* and *fine-tuning*."""

from tlcourse.finetuning.advice import SMALL_TARGET, Strategy, strategy
from tlcourse.finetuning.audit import FreezeAudit, TensorRow, audit, changed, snapshot
from tlcourse.finetuning.features import extract_features
from tlcourse.finetuning.freeze import freeze, unfreeze
from tlcourse.finetuning.rates import layerwise_parameter_groups
from tlcourse.finetuning.schedule import UnfreezeSchedule

__all__ = [
    "SMALL_TARGET",
    "FreezeAudit",
    "Strategy",
    "TensorRow",
    "UnfreezeSchedule",
    "audit",
    "changed",
    "extract_features",
    "freeze",
    "layerwise_parameter_groups",
    "snapshot",
    "strategy",
    "unfreeze",
]
