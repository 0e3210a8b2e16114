"""When transfer helps, and when it hurts: measures of transfer, and boosting with a source."""

from tlcourse.instances.measures import TransferMeasures, transfer_measures
from tlcourse.instances.tradaboost import TrAdaBoost

__all__ = ["TrAdaBoost", "TransferMeasures", "transfer_measures"]
