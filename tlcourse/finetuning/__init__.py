"""Feature extraction and fine-tuning, by freezing, rates, adapters, averages and growth."""

from tlcourse.finetuning.advice import SMALL_TARGET, Strategy, strategy
from tlcourse.finetuning.audit import FreezeAudit, TensorRow, audit, changed, snapshot
from tlcourse.finetuning.average import average_weights, interpolate
from tlcourse.finetuning.batchnorm import recompute_batchnorm
from tlcourse.finetuning.features import extract_features
from tlcourse.finetuning.freeze import freeze, unfreeze
from tlcourse.finetuning.growing import NormalizedScale, deepen, widen
from tlcourse.finetuning.lora import add_adapters, merge_adapters
from tlcourse.finetuning.rates import layerwise_parameter_groups
from tlcourse.finetuning.schedule import UnfreezeSchedule

__all__ = [
    "SMALL_TARGET",
    "FreezeAudit",
    "NormalizedScale",
    "Strategy",
    "TensorRow",
    "UnfreezeSchedule",
    "add_adapters",
    "audit",
    "average_weights",
    "changed",
    "deepen",
    "extract_features",
    "freeze",
    "interpolate",
    "layerwise_parameter_groups",
    "merge_adapters",
    "recompute_batchnorm",
    "snapshot",
    "strategy",
    "unfreeze",
    "widen",
]
