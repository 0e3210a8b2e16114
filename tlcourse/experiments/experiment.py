"""What one's own experiment is defined with; `run` of `tlcourse.experiments` runs it."""

from tlcourse.experiments._engine.experiment import Data, Experiment, Row, Settings

__all__ = ["Data", "Experiment", "Row", "Settings"]
