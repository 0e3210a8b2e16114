"""One training loop for every chapter, and the files that keep what it has learnt."""

from tlcourse.training.batches import Batch, loader
from tlcourse.training.files import load_model, save_model
from tlcourse.training.loop import History, Objective, fit
from tlcourse.training.schedules import Schedule, cosine_decay, step_decay

__all__ = [
    "Batch",
    "History",
    "Objective",
    "Schedule",
    "cosine_decay",
    "fit",
    "load_model",
    "loader",
    "save_model",
    "step_decay",
]
