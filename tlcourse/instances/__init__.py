"""When transfer helps, and when it hurts: measures of transfer."""

from tlcourse.instances.measures import TransferMeasures, transfer_measures

__all__ = ["TransferMeasures", "transfer_measures"]
