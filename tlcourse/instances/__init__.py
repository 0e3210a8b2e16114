"""When transfer helps, when it hurts, and what keeps it from hurting."""

from tlcourse.instances.gap import negative_transfer_gap
from tlcourse.instances.measures import TransferMeasures, transfer_measures
from tlcourse.instances.selection import SourceChoice, reject_contradicted, select_source
from tlcourse.instances.settings import (
    APPROACHES,
    SETTINGS,
    Approach,
    Given,
    Setting,
    settings_of,
)
from tlcourse.instances.towards import TowardsSource, resolutions
from tlcourse.instances.tradaboost import TrAdaBoost
from tlcourse.instances.transferability import leep

__all__ = [
    "APPROACHES",
    "SETTINGS",
    "Approach",
    "Given",
    "Setting",
    "SourceChoice",
    "TowardsSource",
    "TrAdaBoost",
    "TransferMeasures",
    "leep",
    "negative_transfer_gap",
    "reject_contradicted",
    "resolutions",
    "select_source",
    "settings_of",
    "transfer_measures",
]
